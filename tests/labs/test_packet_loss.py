"""A way on which segments get lost, and what the tracer sees of those that the kernel sends again."""

from __future__ import annotations

import os
import socket
import time
from typing import Literal

import pytest

from culpa.collect.trace.tracer import Tracer, usable
from culpa.labs import site, tunnel
from culpa.labs.places import Places

pytestmark = [pytest.mark.root, pytest.mark.trace]
CLEAN, LOSSY = 4321, 4322
MOST_LOST = 3
"""Of one conversation, by the host's program."""


@pytest.mark.parametrize("what", ["question", "connection"])
def test_what_gets_lost_is_sent_again_and_seen_with_its_socket(
    places: Places, what: Literal["question", "connection"]
) -> None:
    """All copies but the last get lost: three of one socket, none of another; none any more once the way is mended."""
    if error := usable():
        pytest.skip(f"tracing is impossible here: {error}")
    loss = tunnel.Loss(port=LOSSY, what=what, chance=1.0, seed=1)
    with (
        site.opened(print, places=places) as here,
        tunnel.distant_host(here, port=CLEAN, pause_s=0.0, loss=loss) as host,
        Tracer(pids=[host.pid], exclude_pids=[os.getpid()]) as tracer,
    ):
        began_ns = time.monotonic_ns()
        lossy, clean = _asked(LOSSY), _asked(CLEAN)
        tunnel.mend(host)
        mended = _asked(LOSSY)
        seen = tracer.stop().tables["retransmits"]
    mine = seen.filter(ino=lossy)

    assert MOST_LOST == len(mine)
    assert mine["by_timer"].all()
    assert mine["connecting"].to_list() == [what == "connection"] * MOST_LOST
    assert (mine["timeout_ns"] >= 200_000_000).all()
    assert began_ns < mine["ts_ns"].min()  # type: ignore[operator]  # an integer column
    assert seen.filter(seen["ino"].is_in([clean, mended])).is_empty()


def _asked(port: int) -> int:
    """Ask once; the inode of the socket."""
    with socket.create_connection((tunnel.THERE, port), timeout=20) as connection:
        connection.sendall(b"now\n")
        assert connection.recv(100) == b"answered from afar\n"
        return os.fstat(connection.fileno()).st_ino
