"""What the parent of a start hears of its child."""

from __future__ import annotations

import socket

import pytest

from dockyard.runtime.following import Spawned, SpawnFailed, await_program


def test_a_child_that_ends_before_it_has_read_everything_is_heard() -> None:
    """The kernel tells the end of such a connection first, and then what is still in it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(b"N")
        theirs.send(b"E127\0no such file")
        theirs.close()
        with pytest.raises(SpawnFailed, match="no such file") as failed:
            await_program(Spawned(0, -1, ours, None))
        assert failed.value.code == 127
