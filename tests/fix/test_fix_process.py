"""CPUs, nice values and I/O classes of all threads of a real process, put back thread by thread."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from fixing import applied, needs_ionice, needs_root, one_more, process_setting, refused, sleeper, undone

from culpa.fix import process_hand
from culpa.fix.journal import Journal
from culpa.fix.parameters import ProcessSetting
from culpa.fix.process_hand import ProcessHand
from culpa.fix.processes import threads_of

pytestmark = needs_root
CPUS = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="one CPU here: NOT TESTED with another one")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "culpa")


def affinities(pid: int) -> dict[int, set[int]]:
    return {tid: os.sched_getaffinity(tid) for tid in threads_of(pid)}


@needs_two
def test_each_thread_gets_back_the_cpus_it_had(journal: Journal) -> None:
    """They had different ones; a thread that began meanwhile gets what the main thread had."""
    with sleeper() as child:
        first, *others = threads_of(child.pid)
        os.sched_setaffinity(others[0], {CPUS[0]})
        os.sched_setaffinity(others[1], {CPUS[1]})
        before = affinities(child.pid)
        done = applied("redis-both-siblings", process_setting("CPUs", str(CPUS[0]), child.pid), journal)
        assert done.record is not None
        assert [{CPUS[0]}] * 4 == list(affinities(child.pid).values())
        one_more(child)
        (new,) = set(threads_of(child.pid)) - set(before)
        assert {CPUS[0]} == os.sched_getaffinity(new)
        assert ["undone"] == [one.ended for one in undone(journal)]
        assert before | {new: before[first]} == affinities(child.pid)


@needs_two
def test_a_thread_that_somebody_else_has_bound_stops_the_undo(journal: Journal) -> None:
    """Nothing is changed then, of no thread."""
    with sleeper() as child:
        for tid in threads_of(child.pid):
            os.sched_setaffinity(tid, {CPUS[0]})
        applied("redis-both-siblings", process_setting("CPUs", f"{CPUS[0]},{CPUS[1]}", child.pid), journal)
        last = max(threads_of(child.pid))
        os.sched_setaffinity(last, {CPUS[1]})
        between = affinities(child.pid)
        (ended,) = undone(journal)
        assert ("changed", between) == (ended.ended, affinities(child.pid))
        assert f"{last}@" in ended.sentence
        assert ["undone"] == [one.ended for one in undone(journal, anyway=True)]
        assert {CPUS[0]} == os.sched_getaffinity(last)


def test_a_neighbour_is_made_nice_and_is_not_so_afterwards(journal: Journal) -> None:
    """All its threads, also back below what others than root may set."""
    with sleeper() as child:
        one = min(set(threads_of(child.pid)) - {child.pid})
        os.setpriority(os.PRIO_PROCESS, one, -3)
        before = {tid: os.getpriority(os.PRIO_PROCESS, tid) for tid in threads_of(child.pid)}
        applied("cpu-renice-neighbour", process_setting("nice", "10", child.pid), journal)
        assert {10} == {os.getpriority(os.PRIO_PROCESS, tid) for tid in before}
        assert ["undone"] == [one.ended for one in undone(journal)]
        assert before == {tid: os.getpriority(os.PRIO_PROCESS, tid) for tid in before}


def classes(pid: int) -> list[str]:
    tids = [str(tid) for tid in threads_of(pid)]
    return subprocess.run(["ionice", "-p", *tids], capture_output=True, text=True, check=True).stdout.splitlines()


@needs_ionice
def test_a_neighbour_at_the_disk_is_made_idle(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has its own class and level again afterwards, thread by thread."""
    scheduler = tmp_path / "sda" / "queue" / "scheduler"
    scheduler.parent.mkdir(parents=True)
    scheduler.write_text("mq-deadline [bfq] none\n")
    monkeypatch.setattr(process_hand, "SYS_BLOCK", tmp_path)
    with sleeper() as child:
        one = max(threads_of(child.pid))
        subprocess.run(["ionice", "-c", "2", "-n", "3", "-p", str(one)], check=True)
        before = classes(child.pid)
        hand = ProcessHand(process_setting("I/O class", "idle", child.pid), sys_block=tmp_path)
        assert hand.obstacle() is None
        state = hand.read()
        hand.write(hand.plan(state))
        assert ["idle"] * 4 == classes(child.pid)
        hand.write(hand.goal(state, hand.plan(state), hand.read()))
        assert before == classes(child.pid)
        assert "best-effort: prio 3" in before
        scheduler.write_text("[none] mq-deadline\n")
        assert "no disk here has an I/O scheduler that heeds it (bfq, mq-deadline)" == hand.obstacle()


@needs_two
def test_a_process_that_has_ended_ends_its_record(journal: Journal) -> None:
    """Also where its number has another one by now: it is told by its start."""
    with sleeper() as child:
        applied("redis-both-siblings", process_setting("CPUs", str(CPUS[0]), child.pid), journal)
    (ended,) = undone(journal)
    assert ("gone", f"process {child.pid} has ended since, and what was set is gone with it") == (
        ended.ended, ended.sentence,
    )  # fmt: skip


def test_another_process_of_that_number_is_left_alone(journal: Journal) -> None:
    """A verdict that is older than the process names one that has ended."""
    with sleeper() as child:
        right = process_setting("nice", "10", child.pid)
        wrong = ProcessSetting(setting="nice", value="10", pid=child.pid, starttime=right.starttime - 1)
        assert f"process {child.pid}, which was examined, has ended; nothing was changed" in refused(
            "cpu-renice-neighbour", wrong, journal
        )
        assert 0 == os.getpriority(os.PRIO_PROCESS, child.pid)


def test_cpus_that_the_host_has_not_are_refused(journal: Journal) -> None:
    """Before anything is written."""
    with sleeper() as child:
        told = refused("redis-both-siblings", process_setting("CPUs", "4000", child.pid), journal)
        assert "this host has no CPUs 4000" in told
    assert () == journal.found().open


def test_a_process_with_more_threads_than_can_be_noted_is_refused(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sentence."""
    monkeypatch.setattr(process_hand, "MOST_THREADS", 2)
    with sleeper() as child:
        assert "has more than 2 threads; set it by hand" in refused(
            "cpu-renice-neighbour", process_setting("nice", "10", child.pid), journal
        )


@needs_two
@pytest.mark.parametrize("regained", [True, False])
def test_half_of_it_is_taken_back_where_a_right_is_lost_half_way(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, *, regained: bool
) -> None:
    """The kernel's own refusal, at the third thread; and where it does not even let the first two be put back, what is
    left is said, with the way out.
    """
    with sleeper() as child:
        before, calls, real = affinities(child.pid), [0], process_hand._set_cpus

        def lost(tid: int, value: str) -> None:
            calls[0] += 1
            if calls[0] == 3 or (calls[0] > 3 and not regained):
                raise PermissionError(1, "Operation not permitted")
            real(tid, value)

        monkeypatch.setitem(process_hand._WAYS, "CPUs", (process_hand._get_cpus, lost))
        told = refused("redis-both-siblings", process_setting("CPUs", str(CPUS[0]), child.pid), journal)
        assert f"the kernel refuses CPUs {CPUS[0]} for thread " in told
        monkeypatch.undo()
        if regained:
            assert told.endswith("operation not permitted; it is as it was before")
            assert () == journal.found().open
        else:
            assert "it is not as it was before; culpa fix --undo f1, or by hand: taskset -acp " in told
            assert before != affinities(child.pid)
            assert ["undone"] == [one.ended for one in undone(journal)]
        assert before == affinities(child.pid)
