"""What a ledger may stand on, judged from what the store has read: file systems, and the file's own header and check.

Invariant: every complaint says what, where and what to do. What never enters: reading any of it.
"""

from __future__ import annotations

from typing import Final

from gateway.core.ledger.schema import APPLICATION_ID, VERSION

NETWORK: Final = frozenset(
    {"9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb2", "smb3", "smbfs"}
    | {f"fuse.{name}" for name in ("glusterfs", "rclone", "s3fs", "sshfs")}
)
ADVICE: Final = "set [stores.sqlite] path to a folder on a local disk"


def filesystem_of(mounts: str, path: str) -> str:
    """Type of the file system that holds an absolute path, by /proc/mounts: the longest mount point wins."""
    best, kind = "", ""
    for line in mounts.splitlines():
        words = line.split(" ")
        if len(words) < 3:
            continue
        point = words[1].replace("\\040", " ").rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= len(best):
            best, kind = point, words[2]
    return kind


def complaint_on_mount(mounts: str, folder: str) -> str | None:
    """Why this folder can't hold a ledger; None if it can."""
    kind = filesystem_of(mounts, folder)
    if kind not in NETWORK:
        return None
    return f"{folder} lies on a network file system ({kind}), where locks can't be relied on; {ADVICE}"


def complaint_on_file(path: str, application_id: int, version: int, check: str) -> str | None:
    """Why this database can't be used; None if it can. check: what `quick_check` said, or `ok`."""
    other = "it was left as it is: set [stores.sqlite] path to another file"
    if application_id != APPLICATION_ID:
        return f"{path} is a database, but not a Meterbox ledger; {other}"
    if version > VERSION:
        return (
            f"{path} was written by a newer Meterbox (schema {version}, this one knows {VERSION}); {other}, "
            "or start the newer version"
        )
    return None if check == "ok" else damaged(path, check)


def damaged(path: str, why: str) -> str:
    """What an operator must know of a damaged ledger."""
    return (
        f"the ledger {path} is damaged ({why}); it was left as it is. Move it away together with the files "
        "beside it that end in -wal and -shm, or put a backup in its place, then start again"
    )
