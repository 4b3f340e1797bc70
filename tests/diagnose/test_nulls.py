"""Captures in which a column is null that culpa itself always fills: judged by the rest, never a traceback."""

from __future__ import annotations

import polars as pl
import pytest
from test_commandtable import one_turn
from test_writeback_rules import nodes, paused

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.judge import judge


def holed(capture: Capture, table: str, column: str) -> Capture:
    """The capture, with null in every other row of a column."""
    frame = capture.frame(schema.BY_NAME[table])
    holes = pl.when(pl.int_range(pl.len()) % 2 == 1).then(pl.col(column)).alias(column)
    return Capture(manifest=capture.manifest, tables=dict(capture.tables) | {table: frame.with_columns(holes)})


@pytest.mark.parametrize("column", ["direction", "kind", "verb", "commands", "bytes", "exit_ns"])
def test_messages_that_say_less_are_messages_all_the_same(column: str) -> None:
    """What a server was busy with is told from those that say it."""
    assert judge(holed(one_turn().capture(), "messages", column)).root.basis


@pytest.mark.parametrize("column", ["from_ns", "bytes", "tid", "ino"])
def test_dirtied_pages_of_which_something_is_not_known_are_nobodys(column: str) -> None:
    """Of 40 MiB 5 are the service's own, of which all is known: an eighth of the pause."""
    verdict = judge(holed(paused(disk_limit=40 << 20, host_limit=4000 << 20), "dirtied", column))
    shares = sorted(node.seconds for node in nodes(verdict.blame, "throttle"))
    assert [0.025, 0.175] == pytest.approx(shares, abs=1e-3)
