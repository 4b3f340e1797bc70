"""Two faults at once in the requests of one service: neither may hide the other.

Most are pairs of `errands`; the others have a lock and a pause (Python), a pool and a slow disk (Python), a shell that
reads a byte at a time under a CPU quota, and a computing service that is stopped now and then. The repair that is
measured is that of the first fault alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from culpa.labs import cpuquota, errands, pool_exhausted, proc_stopped, slowdisk, small_calls, source, stand
from culpa.labs.cpu_quota import CPU_QUOTA
from culpa.labs.errands import AGAIN, ASK, CHURN, COLD, COUNT, DROP, FETCH, KEEP, NAME, REST, SYNC, WELL, Errand
from culpa.labs.fsync_loop import FSYNC_HEAVY, SEEN_FROM_BELOW
from culpa.labs.lab import Conditions, Lab, Measured, Need, Played, Truth, TruthOn, TruthStep
from culpa.labs.lock_holders import CONTENTION, IMPORTERS
from culpa.labs.pool_exhausted import EXHAUSTED, MORE_CLIENTS, QUICK
from culpa.labs.proc_stopped import STOPPED
from culpa.labs.site import opened
from culpa.labs.sleep_by_choice import SLEEP
from culpa.labs.small_calls import SMALL_READS

PAIRS = (
    (SYNC, ASK),
    (CHURN, COUNT),
    (COLD, NAME),
    (DROP, REST),
    (KEEP, FETCH),
    (ASK, AGAIN),
)
FAST = {"double-sync-ask", "double-lock-rest", "double-tiny-quota"}
"""Run with all others in CI."""
SLOW_REQUESTS = 5
HOLD_ROUNDS = (150_000, 200_000)
"""Some 80 ms of hashing."""
QUOTA_US = (30_000, 40_000)
LINES = 3000
STOPPED_MS, GOING_MS = (150, 220), (150, 220)


def play_pair(first: Errand, second: Errand, conditions: Conditions) -> Played:
    """Both in each request."""
    with opened(conditions.progress) as here:
        office = errands.opened(here, conditions, (first, second))
        truth = office.truth(fix=f"do {first.word} as it should be done")
        repaired = f"{first.word}{WELL}-{second.word}"
        return office.case.troubled(f"{first.word}-{second.word}", truth, repaired=repaired)


def play_lock_rest(conditions: Conditions) -> Played:
    """A pause, then a lock that importers hold while they compute."""
    chance = conditions.parameters.chance("double-lock-rest")
    drawn = {"rounds": chance.randrange(*HOLD_ROUNDS), "pause_ms": chance.randrange(250, 400)}
    with opened(conditions.progress) as here:
        arguments = (str(IMPORTERS), *(str(one) for one in drawn.values()))
        case = stand.raised(here, conditions, on=slowdisk.ordinary_disk(here), app="shelf", arguments=arguments)
        renewed = source.function_lines(case.app_file, function="renew")
        slept = source.call_lines(case.app_file, function="read_later", method="sleep")
        truth = Truth(
            causes=(CONTENTION, SLEEP),
            any_order=True,
            may=("cpu.busy", "cpu.runqueue"),
            who=(stand.who(SLEEP, case.app.pid), stand.who(CONTENTION, case.app.pid)),
            on=(slept.named_in(SLEEP), renewed.named_in(CONTENTION)),
            path=(TruthStep(kind="lock", pid=case.app.pid), TruthStep(kind="running", pid=case.app.pid)),
            fix="ask /relaxed, which needs no lock",
        )
        return replace(case.troubled("patient", truth, repaired="relaxed"), drawn=drawn)


def play_pool_sync(conditions: Conditions) -> Played:
    """All workers are taken for a while, and each stamp is entered row by row on a slow disk."""
    chance, iops = conditions.parameters.chance("double-pool-sync"), conditions.parameters.write_iops
    desks, wait_ms, rows = chance.randrange(2, 5), chance.randrange(150, 250), int(chance.uniform(0.05, 0.07) * iops)
    clients = desks + MORE_CLIENTS
    with opened(conditions.progress) as here:
        disk = here.stack.enter_context(slowdisk.slow_disk(here, errands.few_writes(conditions, chance)))
        file = disk.directory / "register"
        register = (str(file), str(rows))
        raised = partial(
            pool_exhausted.raised, here, conditions, wait_ms=wait_ms, clients=clients, on=disk, register=register
        )
        case = raised(desks=desks, name="few")
        truth = Truth(
            causes=(EXHAUSTED, FSYNC_HEAVY),
            any_order=True,
            may=("cpu.runqueue", *SEEN_FROM_BELOW),
            who=(stand.who(EXHAUSTED, case.app.pid), stand.who(FSYNC_HEAVY, case.app.pid)),
            on=(
                source.function_lines(case.app_file, function="consult").named_in(EXHAUSTED),
                source.call_lines(case.app_file, function="enter", method="fsync").named_in(FSYNC_HEAVY),
                TruthOn(cause=FSYNC_HEAVY, path=str(file.resolve())),
            ),
            path=(TruthStep(kind="fsync", pid=case.app.pid), TruthStep(kind="device", device=disk.device_name)),
            fix="more workers",
        )
        judged = case.judge(QUICK)  # first, so that the others are well under way when the clock runs
        before = case.seconds(QUICK, requests=SLOW_REQUESTS)
        enough = raised(desks=2 * clients, name="enough")
        measured = Measured(before=before, after_fix=enough.seconds(QUICK, requests=SLOW_REQUESTS))
        stage = case.stage("as found", QUICK, truth, judged, measured)
        return Played(stages=(stage,), disk=disk.kind, drawn={"desks": desks, "wait_ms": wait_ms, "rows": rows})


def play_tiny_quota(conditions: Conditions) -> Played:
    """A shell script that reads a byte at a time, in a group that may run for a part of the time."""
    quota_us = conditions.parameters.chance("double-tiny-quota").randrange(*QUOTA_US)
    with opened(conditions.progress) as here:
        quota = here.stack.enter_context(cpuquota.quota(quota_us, book=here.ledger, name=here.name))
        case = small_calls.clerk(here, conditions, lines=LINES)
        quota.admit(case.app.pid)
        tiny = small_calls.read_by_shell(case)
        truth = Truth(
            causes=(CPU_QUOTA, SMALL_READS), any_order=True, may=tiny.may, who=tiny.who, on=tiny.on, path=tiny.path,
            fix="lift the quota",
        )  # fmt: skip
        before = case.seconds("each", requests=SLOW_REQUESTS)
        judged = case.judge("each", show=True)
        quota.lift()
        measured = Measured(before=before, after_fix=case.seconds("each", requests=SLOW_REQUESTS))
        stage = case.stage("as found", "each", truth, judged, measured)
        return Played(stages=(stage,), disk=case.disk.kind, drawn={"quota_us": quota_us})


def play_count_stopped(conditions: Conditions) -> Played:
    """Computing, and stopped about half of the time."""
    chance = conditions.parameters.chance("double-count-stopped")
    stopped_ms, going_ms = chance.randrange(*STOPPED_MS), chance.randrange(*GOING_MS)
    with opened(conditions.progress) as here:
        office = errands.opened(here, conditions, (COUNT,))
        case, computes = office.case, office.truth(fix="end the process that stops it")
        pauser = proc_stopped.pauser_of(case, case.app.pid, stopped_ms, going_ms)
        truth = Truth(
            causes=(STOPPED, *computes.causes), any_order=True, may=computes.may,
            who=(stand.who(STOPPED, case.app.pid), *computes.who),
            path=(TruthStep(kind="stopped", pid=case.app.pid),), fix=computes.fix,
        )  # fmt: skip
        before = case.seconds(COUNT.word, requests=SLOW_REQUESTS)
        judged = case.judge(COUNT.word, show=True)
        pauser.stop()
        measured = Measured(before=before, after_fix=case.seconds(COUNT.word, requests=SLOW_REQUESTS))
        stage = case.stage("as found", COUNT.word, truth, judged, measured)
        drawn = {"stopped_ms": stopped_ms, "going_ms": going_ms}
        return Played(stages=(stage,), disk=case.disk.kind, drawn=drawn)


def _double(name: str, causes: tuple[str, str], play: Callable[[Conditions], Played], needs: tuple[Need, ...]) -> Lab:
    silent = tuple(cause for cause in ("app.log.flood", "lock.contention", "mem.swap") if cause not in causes)
    return Lab(
        name=f"double-{name}", family="double", needs=needs, fires=causes, silent=silent, play=play,
        fast=f"double-{name}" in FAST,
    )  # fmt: skip


def _pair(first: Errand, second: Errand) -> Lab:
    return _double(
        f"{first.word}-{second.word}", (first.cause, second.cause),
        lambda conditions: play_pair(first, second, conditions), errands.needs(first, second),
    )  # fmt: skip


HOST_DOUBLES = (
    *(_pair(first, second) for first, second in PAIRS),
    _double("lock-rest", (CONTENTION, SLEEP), play_lock_rest, ("trace",)),
    _double("pool-sync", (EXHAUSTED, FSYNC_HEAVY), play_pool_sync, ("root", "trace", "slow-disk")),
    _double("tiny-quota", (CPU_QUOTA, SMALL_READS), play_tiny_quota, ("root", "trace", "cpu-quota")),
    _double("count-stopped", (STOPPED, COUNT.cause), play_count_stopped, errands.needs(COUNT)),
)
