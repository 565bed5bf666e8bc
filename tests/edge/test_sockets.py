"""edge/sockets.py: listening on a name, and the words for it."""

from __future__ import annotations

import errno
import os
import socket
import threading

import pytest

from gateway.edge.sockets import listen, url_of


def test_it_listens_on_every_address_of_a_name_on_one_port() -> None:
    """A port that is taken raises; IPv6 is spelled in brackets."""
    opened = listen("localhost", 0)
    port = opened[0].getsockname()[1]
    try:
        assert {port} == {one.getsockname()[1] for one in opened}
        socket.create_connection(("localhost", port), 5).close()
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            listen("localhost", port, tries=2)
    finally:
        for one in opened:
            one.close()
    assert "http://127.0.0.1:80" == url_of(("127.0.0.1", 80))
    assert "http://[::1]:80" == url_of(("::1", 80, 0, 0))


def test_a_port_that_comes_free_in_a_moment_is_waited_for() -> None:
    """Workers whose supervisor was killed need one to let go of it."""
    (held,) = listen("127.0.0.1", 0)
    threading.Timer(0.15, held.close).start()
    (got,) = listen("127.0.0.1", held.getsockname()[1])
    got.close()
