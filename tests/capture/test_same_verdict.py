"""A capture on disk is worth what it was in memory: the same verdict, twice, and a like one when redacted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from culpa.capture.bundle import Capture, open_capture, save
from culpa.capture.redact import redact
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Verdict
from culpa.report.envelope import parse, to_json
from culpa.report.terminal import render
from culpa.sim import emit, engine
from culpa.sim.random_programs import Nature, random_program

NASTY = Nature(
    locks=True, split=True, pipelined=True, middle=True, late=True, bystanders=True, inside=True, beside=True,
    memory=True,
)  # fmt: skip
SEEDS = range(12)


def simulated(seed: int) -> Capture:
    program = random_program(seed, size=3, nature=NASTY)
    return emit.capture(program, engine.run(program))


def stable(verdict: Verdict) -> str:
    """The verdict without what watching and judging cost."""
    return to_json(msgspec.structs.replace(verdict, cost=simulated_cost))


simulated_cost = judge(simulated(0)).cost


@pytest.mark.parametrize("seed", SEEDS)
def test_saved_capture_gives_the_same_verdict(tmp_path: Path, seed: int) -> None:
    """In memory, from the file, and from the file once more: the same bytes apart from `cost`."""
    capture = simulated(seed)
    save(capture, tmp_path / "a.culpa")
    verdicts = [judge(capture), judge(open_capture(tmp_path / "a.culpa")), judge(open_capture(tmp_path / "a.culpa"))]
    assert len({stable(verdict) for verdict in verdicts}) == 1
    assert verdicts[0] == parse(to_json(verdicts[0]))
    assert len(render(verdicts[0], width=80, color=False).splitlines()) <= 40


@pytest.mark.parametrize("seed", SEEDS)
def test_redacted_capture_names_the_same_causes(tmp_path: Path, seed: int) -> None:
    """Causes, levels, shares and the shape of the blame tree survive the hashing of every name."""
    capture = simulated(seed)
    save(redact(capture, b"0123456789abcdef"), tmp_path / "a.culpa")
    plain, hidden = judge(capture), judge(open_capture(tmp_path / "a.culpa"))
    assert plain.state == hidden.state
    assert [(c.id, c.level) for c in plain.causes] == [(c.id, c.level) for c in hidden.causes]
    assert [c.share for c in plain.causes] == pytest.approx([c.share for c in hidden.causes])
    assert plain.root == hidden.root
