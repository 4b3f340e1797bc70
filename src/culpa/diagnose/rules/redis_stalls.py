"""What makes Redis' main thread late outside of any command: expiry, eviction, fork, memory, CPU; and what is left."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from culpa.capture import schema
from culpa.diagnose import runqueue
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.root import STALL_NS
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.rules.redis_fixes import set_config
from culpa.diagnose.rules.redis_said import fact as counted
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.syscalls import Numbers
from culpa.units import format_bytes, format_share

EXPIRE_MS = 20
"""CPU time of expire cycles in the window, below which nobody can have waited noticeably."""
FORKS = ("fork", "vfork", "clone", "clone3")
LONG_FORK_NS = 10_000_000
"""Shorter forks are shorter than what clients notice, whatever their rate is."""
DEFRAG_MOST, DEFRAG_GENTLE = "active-defrag-cycle-max", 5
"""5 % of hz 10 is 5 ms at once."""


@rule(
    id="redis.expire.burst",
    title="Many keys expire at the same time, and Redis deletes them before it serves",
    needs=(),
    fixes=("redis-ttl-jitter", "redis-lazyfree-expire", "redis-hz"),
    fires=(Lab("redis-expire"),),
    silent=(Lab("redis-expire-healthy"), Lab("redis-evict"), Lab("redis-bigkey-delete")),
)
@each_server
def expire_burst(view: RedisView) -> Iterator[Finding]:
    """What it detects: the cycle that deletes expired keys uses up its time again and again, and clients wait
    meanwhile.

    Why it slows you: Redis samples keys with a time to live; as long as more than 10 % of a sample (25 % before 6.0)
    are expired it goes on, up to a quarter of each 1/hz seconds: 25 ms at hz 10. Keys that were given the same second
    make that happen for many cycles in a row.

    How sure: the server's own counters of the window (keys expired, cycles that ran out of time, CPU time of the
    cycles) against the stalls that no command explains; where the host is traced, what the main thread computed
    meanwhile.

    What to do: spread the times to live by a random part; lazyfree-lazy-expire for large values; a higher hz makes the
    single stall shorter.
    """
    expired, capped = view.need_delta("expired_keys"), view.delta("expired_time_cap_reached_count")
    spent_ms = view.delta("expire_cycle_cpu_milliseconds")
    if not expired or not (capped or (spent_ms or 0) >= EXPIRE_MS):
        return
    free = view.free_stalls
    moments = free if spent_ms is None else free.longest(int(spent_ms * 1e6))
    evidence = [_counter(view, "keys expired", expired, "expired_keys")]
    if capped is not None:
        evidence.append(_counter(view, "cycles that used up their time", capped, "expired_time_cap_reached_count"))
    if spent_ms is not None:
        evidence.append(_counter(view, "CPU time of the cycles", spent_ms, "expire_cycle_cpu_milliseconds", "ms"))
    stale = view.number("expired_stale_perc")
    if stale is not None:
        limit = 10 if view.at_least(6) else 25
        evidence.append(
            Evidence(fact="keys expired but still there", value=stale, unit="%", threshold=limit,
                     source="INFO stats: expired_stale_perc")
        )  # fmt: skip
    evidence += [*view.monitored("expire-cycle", "expire-del"), *view.stall_facts(moments)]
    yield Finding(
        moments=moments, nearness=Nearness.CODE, pid=view.pid, tid=view.pid, on=On(peer=view.server),
        evidence=tuple(evidence), confidence=0.85 if spent_ms else 0.7, fixes=_expire_fixes(view),
    )  # fmt: skip


def _expire_fixes(view: RedisView) -> tuple[Fix, ...]:
    fixes = [
        Fix(id="redis-ttl-jitter", change="add a random part to the time to live, so that keys expire apart",
            reversible=True, risk="none")
    ]  # fmt: skip
    if view.setting("lazyfree-lazy-expire") == "no":
        fixes.append(
            set_config(view, "redis-lazyfree-expire", "lazyfree-lazy-expire", "yes", risk="memory comes back later")
        )
    if (hz := view.number("hz", "CONFIG GET")) is not None and hz < 100:
        fixes.append(set_config(view, "redis-hz", "hz", "100", risk="a little more CPU when idle"))
    return tuple(fixes)


@rule(
    id="redis.evict.storm",
    title="Redis evicts keys before it serves",
    needs=(),
    fixes=("redis-maxmemory",),
    fires=(Lab("redis-evict"),),
    silent=(Lab("redis-evict-healthy"), Lab("redis-expire"), Lab("redis-bigkey-delete")),
)
@each_server
def evict_storm(view: RedisView) -> Iterator[Finding]:
    """What it detects: memory is above maxmemory and keys are evicted, while clients wait.

    Why it slows you: a command that needs memory first has to make room; large values are freed in the main thread
    unless lazyfree-lazy-eviction is on.

    How sure: the server's counters of the window against the stalls that no command explains.

    What to do: more maxmemory, shorter times to live, lazyfree-lazy-eviction; lower maxmemory only in small steps.
    """
    evicted, over_ms = view.need_delta("evicted_keys"), view.delta("total_eviction_exceeded_time")
    if not evicted:
        return
    free = view.free_stalls
    moments = free if not view.delta("expired_keys") else free.longest(int((over_ms or 0) * 1e6))
    evidence = [_counter(view, "keys evicted", evicted, "evicted_keys")]
    if over_ms is not None:
        evidence.append(_counter(view, "time above maxmemory", over_ms, "total_eviction_exceeded_time", "ms"))
    used, limit = view.number("used_memory"), view.number("maxmemory")
    if used is not None and limit:
        evidence.append(
            Evidence(fact=f"used memory, of {format_bytes(int(limit))}", value=format_bytes(int(used)), unit="",
                     threshold=None, source="INFO memory")
        )  # fmt: skip
    evidence += view.monitored("eviction-cycle", "eviction-del", "eviction-lazyfree")
    evidence += view.stall_facts(moments)
    fixes = [
        Fix(id="redis-maxmemory", change="raise maxmemory, or give keys shorter times to live", reversible=True,
            risk="the host needs that memory")
    ]  # fmt: skip
    if view.setting("lazyfree-lazy-eviction") == "no":
        name = "lazyfree-lazy-eviction"
        fixes.append(set_config(view, "redis-lazyfree-eviction", name, "yes", risk="memory comes back later"))
    yield Finding(
        moments=moments, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid,
        on=On(peer=view.server, setting="maxmemory"), evidence=tuple(evidence), confidence=0.8, fixes=tuple(fixes),
    )  # fmt: skip


@rule(
    id="redis.mem.defrag-stall",
    title="Redis moves its memory together before it serves",
    needs=(),
    fixes=("redis-defrag-gently",),
    fires=(),
    silent=(Lab("redis-expire"), Lab("redis-evict")),
)
@each_server
def defrag_stall(view: RedisView) -> Iterator[Finding]:
    """What it detects: active defragmentation moves values in the window, while clients wait.

    Why it slows you: each cycle takes a part of the time between two timers in the main thread, up to
    active-defrag-cycle-max percent: 25 of each 100 ms at hz 10. A large collection is moved in steps of its own.

    How sure: the server's own counters of the window (values moved, time spent; before 7.0 the share of the CPU that it
    means to use) against the stalls that no command explains; where the host is traced, what the main thread computed
    meanwhile.

    What to do: a lower active-defrag-cycle-max, or none in busy hours (activedefrag no).
    """
    moved, spent_ms = view.need_delta("active_defrag_hits"), view.delta("total_active_defrag_time")
    if not moved:
        return
    source = "total_active_defrag_time"
    if spent_ms is None:
        shares = view.values("active_defrag_running")
        spent_ms, source = 10 * view.seconds * sum(shares) / max(1, len(shares)), "active_defrag_running"
    moments = view.free_stalls.longest(int(spent_ms * 1e6))
    if moments.ns < STALL_NS:
        return
    evidence = [
        _counter(view, "values moved", moved, "active_defrag_hits"),
        _counter(view, "time spent with that", round(spent_ms), source, "ms"),
    ]
    if (ratio := view.number("allocator_frag_ratio")) is not None:
        evidence.append(counted("fragmentation", ratio, "INFO memory: allocator_frag_ratio"))
    most = view.number(DEFRAG_MOST, "CONFIG GET")
    if most is not None:
        evidence.append(counted(DEFRAG_MOST, most, "CONFIG GET", unit="%"))
    evidence += [*view.monitored("active-defrag-cycle"), *view.stall_facts(moments)]
    gently = str(DEFRAG_GENTLE) if most is None or most > DEFRAG_GENTLE else "1"
    yield Finding(
        moments=moments, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid,
        on=On(peer=view.server, setting=DEFRAG_MOST), evidence=tuple(evidence),
        confidence=0.85 if source.startswith("total") else 0.7,
        fixes=(set_config(view, "redis-defrag-gently", DEFRAG_MOST, gently, risk="memory comes back more slowly"),),
    )  # fmt: skip


@rule(
    id="redis.fork.slow",
    title="Redis stands still while it forks",
    needs=(),
    fixes=("redis-fewer-forks",),
    fires=(Lab("redis-fork"),),
    silent=(Lab("redis-fork-healthy"), Lab("redis-keys")),
)
@each_server
def fork_slow(view: RedisView) -> Iterator[Finding]:
    """What it detects: the fork for a save or a rewrite of the append-only file takes so long that clients wait.

    Why it slows you: the kernel copies the page tables of the whole process before Redis may go on; that grows with
    its memory.

    How sure: the fork's own call is seen in the main thread where the host is traced; the server says how long its
    latest fork took, and how many there were. Judged by what clients waited: a fork of a millisecond is fast however
    bad its rate per gigabyte looks.

    What to do: smaller instances, rarer saves and rewrites; save on a replica.
    """
    forks, latest_us = view.delta("total_forks"), view.number("latest_fork_usec")
    calls = _fork_calls(view)
    if not calls and (not forks or latest_us is None):
        return
    said_ns = int((forks or 0) * (latest_us or 0) * 1000)
    moments = view.all_moments.within(calls) if calls else view.free_stalls.longest(said_ns)
    longest = max((end - start for start, end in calls), default=int((latest_us or 0) * 1000))
    if longest < LONG_FORK_NS:
        return
    evidence = []
    if calls:
        evidence.append(
            Evidence(fact=f"main thread in fork: {len(calls)} calls, the longest {longest / 1e6:.3g} ms",
                     value=seconds(sum(end - start for start, end in calls)), unit="s", threshold=None,
                     source="syscalls")
        )  # fmt: skip
    if latest_us is not None:
        evidence.append(
            Evidence(fact="latest fork", value=latest_us / 1000, unit="ms", threshold=LONG_FORK_NS / 1e6,
                     source="INFO stats: latest_fork_usec")
        )  # fmt: skip
    if forks is not None:
        evidence.append(_counter(view, "forks", forks, "total_forks"))
    if (rss := view.number("used_memory_rss")) is not None:
        evidence.append(
            Evidence(fact="memory of the process", value=format_bytes(int(rss)), unit="", threshold=None,
                     source="INFO memory: used_memory_rss")
        )  # fmt: skip
    evidence += [*view.monitored("fork"), *view.stall_facts(moments)]
    yield Finding(
        moments=moments, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid,
        on=On(peer=view.server, syscall="fork"), evidence=tuple(evidence), confidence=0.9 if calls else 0.75,
        fixes=(Fix(id="redis-fewer-forks", change="fewer save points, rewrites in quiet hours, saves on a replica",
                   reversible=True, risk="more is lost, or replayed, after a crash"),),
    )  # fmt: skip


def _fork_calls(view: RedisView) -> list[tuple[int, int]]:
    """Calls of the main thread that made a process, [start, end) in ns; none where calls were not recorded."""
    if view.pid is None or not view.picture.capture.has(schema.SYSCALLS):
        return []
    numbers = Numbers(view.picture.capture.manifest.host.machine)
    wanted = sorted(numbers.of(FORKS))
    calls = view.picture.capture.frame(schema.SYSCALLS).lazy().filter(
        pl.col("nr").is_in(wanted), pl.col("tid") == view.pid, pl.col("ret") > 0
    )  # fmt: skip
    rows = calls.select("enter_ns", "exit_ns", "ret").drop_nulls().collect()
    tasks = view.picture.capture.frame(schema.TASKS)
    threads = tasks.filter(pl.col("pid") == view.pid)["tid"].unique()
    return list(rows.filter(~pl.col("ret").is_in(threads.implode())).select("enter_ns", "exit_ns").iter_rows())


@rule(
    id="redis.cpu.starved",
    title="Redis' main thread waits for a CPU",
    needs=(),
    fixes=("redis-cpu-share",),
    fires=(Lab("redis-starved"),),
    silent=(Lab("redis-starved-healthy"), Lab("redis-keys"), Lab("redis-slow-healthy")),
)
@each_server
def starved(view: RedisView) -> Iterator[Finding]:
    """What it detects: the main thread is ready to run and does not get a CPU, while clients wait. Where that happened
    once, for less than 100 ms, it is a note: any host does that now and then.

    Why it slows you: everything Redis does waits for that; its own latency monitor and slow log do not see it.

    How sure: the time between becoming runnable and running is measured; waits behind culpa itself are left out, and
    so is what the CPU quota of its control group took (`redis.cpu.quota`).

    What to do: fewer other programs on its CPUs, a higher priority, CPUs of its own.
    """
    nodes = view.nodes(Kind.RUNNABLE)
    taken = runqueue.throttled(view.picture) if view.pid in view.picture.capture.manifest.target.pids else None
    _, queued = runqueue.longest(view.picture.blame.inside(*nodes), taken.ns if taken else 0)
    moments = runqueue.moments_of(runqueue.not_behind_culpa(view.picture, queued))
    if not nodes or view.picture.share(moments.ns) < 0.05:
        return
    nearness = Nearness.LIMIT if view.picture.capture.manifest.target.kind == "redis" else Nearness.KERNEL
    yield Finding(
        moments=moments, nearness=nearness, pid=view.pid, tid=view.pid, on=On(peer=view.server),
        evidence=(
            Evidence(fact="main thread ready to run, without a CPU", value=seconds(moments.ns), unit="s",
                     threshold=None, source="offcpu"),
            Evidence(fact="of the time clients waited", value=format_share(view.picture.share(moments.ns)), unit="",
                     threshold="5 %", source="offcpu"),
            *view.stall_facts(moments),
        ),
        confidence=0.9,
        by_chance=True,
        fixes=(Fix(id="redis-cpu-share", change="move other programs away from its CPUs (taskset, cpuset), or give "
                   "it a higher priority (renice)", reversible=True, risk="the others get slower"),),
    )  # fmt: skip


def _counter(view: RedisView, fact: str, value: float, field: str, unit: str = "") -> Evidence:
    return counted(f"{fact} in {view.seconds:.3g} s", value, f"INFO: {field}", unit=unit)


@rule(
    id="redis.repl.load-blocks",
    title="This replica loads a copy of its primary, and serves nobody meanwhile",
    needs=(),
    fixes=("redis-replica-lazy-flush", "redis-diskless-load"),
    fires=(),
    silent=(Lab("redis-slow-healthy"),),
)
@each_server
def load_blocks(view: RedisView) -> Iterator[Finding]:
    """What it detects: PING is answered with LOADING, or not answered at all, while the replica throws its old data
    away and loads the file of its primary.

    Why it slows you: both happen in the main thread; the larger the data, the longer.

    How sure: the server says so itself (LOADING, a sync in progress, a file loaded in the window), and nothing else
    explains the stalls.

    What to do: replica-lazy-flush yes, repl-diskless-load swapdb where memory allows; instances of 2 to 4 GB; a larger
    repl-backlog-size, so that a short break of the link does not end in a full copy.
    """
    if view.need_text("role") == "master":
        return
    refused = view.refused("LOADING")
    syncing = any(view.values("master_sync_in_progress")) or any(view.values("loading"))
    if not refused.ns and not syncing and not len(refused.item):
        return
    moments = view.free_stalls.plus(refused)
    evidence = [
        Evidence(
            fact="PINGs answered with LOADING", value=len(refused.item), unit="", threshold=None, source="requests"
        )
    ]
    for field in ("master_sync_in_progress", "loading"):
        if values := view.values(field):
            evidence.append(
                Evidence(fact=f"looks at which {field} was 1, of {len(values)}", value=int(sum(values)), unit="",
                         threshold=None, source="INFO")
            )  # fmt: skip
    if (keys := view.number("keys", "DBSIZE")) is not None:
        evidence.append(Evidence(fact="keys", value=int(keys), unit="", threshold=None, source="DBSIZE"))
    evidence += view.stall_facts(moments)
    fixes = []
    if view.setting("replica-lazy-flush") == "no":
        risk = "memory comes back a little later"
        fixes.append(set_config(view, "redis-replica-lazy-flush", "replica-lazy-flush", "yes", risk=risk))
    change = "repl-diskless-load swapdb where memory allows; smaller instances (2 to 4 GB)"
    fixes.append(Fix(id="redis-diskless-load", change=change, reversible=True, risk="needs memory for both copies"))
    yield Finding(
        moments=moments, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid, on=On(peer=view.server),
        evidence=tuple(evidence), confidence=0.85, fixes=tuple(fixes),
    )  # fmt: skip
