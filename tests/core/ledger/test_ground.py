"""What a ledger may stand on, judged from text."""

from __future__ import annotations

import pytest

from gateway.core.ledger.ground import complaint_on_file, complaint_on_mount, damaged, filesystem_of
from gateway.core.ledger.schema import APPLICATION_ID, VERSION

MOUNTS = """proc /proc proc rw 0 0
/dev/sda1 / ext4 rw 0 0
server:/export /srv nfs4 rw 0 0
/dev/sdb1 /srv/local ext4 rw 0 0
//nas/a\\040b /mnt/a\\040b cifs rw 0 0
odd
tmpfs /run tmpfs rw 0 0
tmpfs /run fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib", "ext4"), ("/srv/me/state", "nfs4"), ("/srv/local/state", "ext4"), ("/srvstead", "ext4"),
        ("/mnt/a b/c", "cifs"), ("/run/x", "fuse.sshfs"), ("/srv", "nfs4"),
    ],
)  # fmt: skip
def test_the_longest_mount_point_wins(path: str, kind: str) -> None:
    """By whole names; of two mounts on one point the later hides the earlier."""
    assert kind == filesystem_of(MOUNTS, path)


def test_a_network_file_system_is_refused_by_name() -> None:
    """What, where, what to do; without a table of mounts nothing is known against a folder."""
    said = complaint_on_mount(MOUNTS, "/srv/me")
    assert said is not None and "nfs4" in said and "/srv/me" in said and "[stores.sqlite] path" in said
    assert None is complaint_on_mount(MOUNTS, "/var/lib")
    assert None is complaint_on_mount("", "/var/lib")


def test_each_bad_file_has_its_sentence() -> None:
    """Foreign, newer, damaged; each says that it was left as it is."""
    assert None is complaint_on_file("x.db", APPLICATION_ID, VERSION, "ok")
    said = [
        complaint_on_file("x.db", 0, 0, "ok"),
        complaint_on_file("x.db", APPLICATION_ID, VERSION + 1, "ok"),
        complaint_on_file("x.db", APPLICATION_ID, VERSION, "row 5 missing"),
        damaged("x.db", "malformed"),
    ]
    for sentence in said:
        assert sentence is not None and "x.db" in sentence and "left as it is" in sentence
