"""Which fix of a verdict a lab tries, and what a killed trial leaves; and a whole trial."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest
from test_run import proven
from test_score import FIRST, verdict

from culpa.collect.undo import state_directory
from culpa.diagnose.verdict import Fix, Predicted, Verdict
from culpa.fix.hands import Identity
from culpa.fix.journal import Journal, Record
from culpa.fix.parameters import ProcessSetting, target_of
from culpa.labs import ledger, leftovers, repair, site
from culpa.labs.lab import LabResult, Parameters, Repair
from culpa.labs.places import Places
from culpa.labs.run import run_lab

WORDS = Fix(id="app-batch-redis-commands", change="send one command", reversible=True, risk="work")
OF_HOST = Fix(id="swappiness-low", argv=("sysctl", "-w", "vm.swappiness=1"), reversible=True, risk="")


def proposing(*fixes: Fix) -> Verdict:
    """A verdict with one cause."""
    return verdict(msgspec.structs.replace(FIRST, fixes=fixes))


def never() -> float:
    raise AssertionError("nothing is to be measured")


@pytest.mark.parametrize(
    ("fixes", "said"),
    [
        ((), "the verdict offers no fix"),
        ((WORDS,), "culpa does not make it: app-batch-redis-commands"),
        ((OF_HOST,), "the lab leaves what is not its own as it is: swappiness-low"),
    ],
)
def test_where_there_is_nothing_to_try_it_says_so(places: Places, fixes: tuple[Fix, ...], said: str) -> None:
    """No fix, one for a person, one that would change the host."""
    clock = repair.Clock(before=never, after=never, settings=dict, say=print)
    with site.opened(print, places=places) as here:
        found = repair.tried(here, proposing(*fixes), clock)
    assert said in found.sentence
    assert (None, None, None) == (found.fix, found.before, found.undone)


def test_what_was_measured_stands_beside_what_was_predicted() -> None:
    """In words."""
    told = Repair(
        fix="redis-hz", cause="a", sentence="10 -> 100: fell", before=10.0, after=1.5, within=True, undone=True,
        prediction=Predicted(p50=1.4, low=1.0, high=2.0),
    )  # fmt: skip
    assert [
        "redis-hz: 10 -> 100: fell",
        "measured 10.0 s -> 1.50 s, predicted 1.40 s (1.00 s to 2.00 s): within that range",
        "everything reads as before",
    ] == list(repair.lines(told))


def test_a_fix_of_a_killed_run_is_closed_by_the_next(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record, and no other: not one for another target, nor one that was there before."""
    monkeypatch.setattr(leftovers, "state_directory", lambda: tmp_path / "culpa")
    journal = Journal(tmp_path / "culpa")
    noted = time.time()
    mine, others, older = (
        record(journal, pid=4_000_001, at=noted + 1), record(journal, pid=4_000_002, at=noted + 1),
        record(journal, pid=4_000_001, at=noted - 9),
    )  # fmt: skip
    book = ledger.create(places.ledger)
    book.note(ledger.Fix(fix="cpu-renice-neighbour", target=target_of(mine.parameters), at_unix=noted))
    book.close()
    assert [f"fix {mine.id} (cpu-renice-neighbour), not taken back"] == list(leftovers.find(places).sentences())
    leftovers.remove(places)
    assert [others.id, older.id] == [one.id for one in journal.found().open]
    assert "kept" == journal.found().closed[0].outcome


def record(journal: Journal, *, pid: int, at: float) -> Record:
    """An open one."""
    setting = ProcessSetting(setting="nice", value="10", pid=pid, starttime=7, comm="imports")
    with journal.locked(str(pid)):
        return journal.create(
            Record(
                id="f0", fix="cpu-renice-neighbour", cause="cpu.runqueue", parameters=setting,
                identity=Identity(starttime=7), before={f"{pid}@7": "0"}, during={f"{pid}@7": "10"}, at_unix=at,
            )
        )  # fmt: skip


def test_only_what_the_run_started_is_its_own(places: Places) -> None:
    """A program of the run is; this process is not."""
    with site.opened(print, places=places) as here:
        program = here.start(["sleep", "60"], name="sleep")
        assert leftovers.is_of_run(program.pid, here.places)
        assert not leftovers.is_of_run(os.getpid(), here.places)


@pytest.mark.lab
@pytest.mark.root
@pytest.mark.redis
@pytest.mark.trace
def test_a_fix_of_the_verdict_is_tried_and_taken_back() -> None:
    """By `culpa fix` itself; the second stage's fixes are for a person. No record of it stays open."""

    def check(result: LabResult) -> None:
        tried = result.repair
        assert tried is not None
        assert ("redis-appendfsync-everysec", "redis.aof.fsync-always") == (tried.fix, tried.cause)
        assert tried.prediction is not None
        assert tried.before is not None
        assert tried.after is not None
        assert tried.after < tried.before / 4
        assert tried.undone is True, tried.sentence
        assert "is always again" in tried.sentence
        by_hand = result.stages[1].repair
        assert by_hand is not None
        assert by_hand.fix is None
        assert "app-batch-redis-commands" in by_hand.sentence
        opened = Journal(state_directory()).found().open
        assert not [one for one in opened if one.at_unix > begun]

    begun = time.time()
    proven(lambda: run_lab("redis-slow", parameters=Parameters(), trace=True, progress=print, fix=True), check)
