"""Renames, unlinks and closes of Redis' main thread, on scenes made by hand."""

from __future__ import annotations

import pytest
from scene import MS, REDIS, US, Scene

from culpa.capture import schema
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause

CLOSE, RENAME, UNLINK = 3, 82, 87
CAUSE = "redis.aof.rename-unlink"


class LettingGo(Scene):
    """Redis' main thread makes one call on a file where `Scene` lets it sync."""

    nr: int = UNLINK
    kind: str = ""

    def _sync(self, at: int, length: int, *, journal: bool) -> int:
        wake = at + length - 2 * US
        self.call(REDIS, self.nr, at, at + length, ino=0, kind=self.kind or "reg", ret=0)
        self.sleep(REDIS, at + US, wake, wake + US, state=2, stack=2)
        return at + length

    def causes(self, length_ns: int) -> list[Cause]:
        """What is said of one SET during which the call takes so long."""
        self.now += 2 * MS
        self.request_arrives()
        self.redis("SET", sync_ns=length_ns)
        self.answer()
        self.add(schema.REDIS, ts_ns=self.now, server="127.0.0.1:7000", pid=REDIS, source="INFO server",
                 field="redis_version", value="6.2.14")  # fmt: skip
        causes = judge(self.capture()).causes
        return [one for head in causes for one in (head, *head.because) if one.id == CAUSE]


@pytest.mark.parametrize(("nr", "name"), [(CLOSE, "close"), (RENAME, "rename"), (UNLINK, "unlink")])
def test_a_call_that_takes_long_is_told_with_its_name(nr: int, name: str) -> None:
    """300 ms, and whoever asked waits for all of them."""
    scene = LettingGo()
    scene.nr = nr
    (found,) = scene.causes(300 * MS)
    assert found.on is not None
    assert (name, "critical") == (found.on.syscall, found.level)
    assert pytest.approx(0.3, abs=0.001) == found.evidence[0].value


def test_a_call_of_milliseconds_is_none() -> None:
    """Nobody notices it."""
    assert [] == LettingGo().causes(5 * MS)


def test_the_closing_of_a_connection_lets_no_file_go() -> None:
    """However long a socket lingers."""
    scene = LettingGo()
    scene.nr, scene.kind = CLOSE, "sock"
    assert [] == scene.causes(300 * MS)
