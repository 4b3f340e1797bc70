"""Checks of a Redis server on captures made by hand: what the hosts of the tests cannot be, and the look-alikes."""

from __future__ import annotations

import pytest
from checkups import PID, Counted, answer, cause, checkup

GROUP = "/sys/fs/cgroup/cpu/limited"
MEMORY = "/sys/fs/cgroup/memory/limited"
GIGABYTE = 1 << 30
MB_KB = 1024.0
STALLS = dict.fromkeys(range(10, 400, 25), 60.0)
"""A PING in 25 waits 60 ms: 16 in all."""


# Memory and CPUs ------------------------------------------------------------------------------------------------


def _nodes(*nodes: tuple[float, int]) -> list[Counted]:
    """Of each node: MB of the server's that lie there, CPUs that it may use."""
    found: list[Counted] = []
    for number, (megabytes, cpus) in enumerate(nodes):
        name = f"node{number}"
        found.append((f"/proc/{PID}/numa_maps", name, "held_kb", megabytes * MB_KB))
        found.append((f"/sys/devices/system/node/{name}/cpulist", name, "allowed_cpus", float(cpus)))
    return found


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (((50, 8), (4000, 0)), "fired"),
        (((4000, 8), (50, 0)), "clear"),
        (((2000, 8), (2000, 8)), "clear"),
        (((50, 8), (4000, 1)), "clear"),
        (((5, 8), (40, 0)), "clear"),
        (((1500, 8), (1000, 0)), "clear"),
        (((4000, 8),), "clear"),
        ((), "clear"),
    ],
    ids=["far", "near", "free to run anywhere", "one CPU of it is enough", "small", "the lesser part", "one", "none"],
)
def test_memory_on_another_node_than_the_cpus_is_told(nodes: tuple[tuple[float, int], ...], expected: str) -> None:
    """Bound to the CPUs of one node, with its memory on the other. A server that may run on both finds its way."""
    verdict = checkup(after=_nodes(*nodes))
    assert expected == answer(verdict, "redis.cpu.numa")
    if expected == "fired":
        found = cause(verdict, "redis.cpu.numa")
        assert "note" == found.level
        assert {f"/proc/{PID}/numa_maps", f"/proc/{PID}/task/*/status"} == {fact.source for fact in found.evidence}


def test_whose_host_is_another_is_not_judged_by_this_one() -> None:
    """Neither its memory nor its clock nor its control group nor its room is that of the host that culpa is on."""
    verdict = checkup(
        first={"rdb_last_cow_size": GIGABYTE, "used_memory_rss": GIGABYTE}, settings={"save": "60 1"}, on_host=False,
        before=_clock("hpet", 2000), after=_nodes((0, 8), (4000, 0)),
    )  # fmt: skip
    for check in ("redis.cpu.numa", "redis.cpu.clocksource", "redis.cpu.quota", "redis.fork.oom-risk"):
        assert "skipped" == answer(verdict, check)


# The clock ------------------------------------------------------------------------------------------------------


def _clock(name: str, cost_ns: float, *others: str) -> list[Counted]:
    source = "/sys/devices/system/clocksource/clocksource0"
    named = [(f"{source}/current_clocksource", name, "current", 1.0)]
    named += [(f"{source}/available_clocksource", other, "available", 1.0) for other in (name, *others)]
    costs = [("clock_gettime", "", "clock_ns", cost_ns), ("clock_gettime", "", "coarse_clock_ns", 60.0)]
    return [*named, *costs]


@pytest.mark.parametrize(
    ("name", "cost_ns", "expected"),
    [("hpet", 1800, "fired"), ("acpi_pm", 3600, "fired"), ("xen", 400, "fired"), ("xen", 85, "clear"),
     ("tsc", 85, "clear"), ("tsc", 1500, "clear"), ("kvm-clock", 90, "clear")],
)  # fmt: skip
def test_a_clock_that_is_a_system_call_is_told(name: str, cost_ns: float, expected: str) -> None:
    """By its name and by what a look at it takes: a fast one of that name is no news, nor a slow look at a good one."""
    assert expected == answer(checkup(before=_clock(name, cost_ns)), "redis.cpu.clocksource")


def test_another_clock_is_proposed_only_where_the_kernel_has_it() -> None:
    """A tsc that the kernel does not list is one that it has found wanting."""
    there, none = (cause(checkup(before=_clock("hpet", 1800, *others)), "redis.cpu.clocksource").fixes[0].change
                   for others in (("acpi_pm", "tsc"), ("acpi_pm",)))  # fmt: skip
    assert str(there).startswith("echo tsc >")
    assert "echo" not in str(none)


# The quota ------------------------------------------------------------------------------------------------------


def _stopped(times: float, seconds: float) -> list[Counted]:
    return [
        (f"{GROUP}/cpu.stat", GROUP, "nr_throttled", times),
        (f"{GROUP}/cpu.stat", GROUP, "throttled_time", seconds * 1e9),
        (f"{GROUP}/cpu.cfs_quota_us", GROUP, "cpu.cfs_quota_us", 20_000.0),
        (f"{GROUP}/cpu.cfs_period_us", GROUP, "cpu.cfs_period_us", 100_000.0),
    ]


@pytest.mark.parametrize(
    ("seconds", "slow", "expected"),
    [(1.2, STALLS, "fired"), (0.0, STALLS, "clear"), (1.2, {}, "clear"), (0.003, STALLS, "clear")],
    ids=["both", "only stalls", "nobody waited", "next to nothing"],
)
def test_stalls_and_a_quota_that_stopped_the_group(seconds: float, slow: dict[int, float], expected: str) -> None:
    """Without tracing both are needed, and no more of the stalls is the quota's than the kernel counted."""
    verdict = checkup(slow=slow, before=_stopped(7, 0), after=_stopped(7 + 16 * (seconds > 0), seconds))
    assert expected == answer(verdict, "redis.cpu.quota")
    if expected == "fired":
        found = cause(verdict, "redis.cpu.quota")
        assert found.level in ("warning", "critical")
        assert {"requests", f"{GROUP}/cpu.stat"} <= {fact.source for fact in found.evidence}


def test_a_short_command_that_was_stopped_is_not_a_slow_one() -> None:
    """The slow log says 75 ms; of that the quota took 70 or more. One of 500 ms has 150 of its own, and stays."""
    entry = [("SLOWLOG GET", "new", "1"), *(("SLOWLOG GET", f"5.{name}", value) for name, value in
             (("at_unix", "1700000005"), ("verb", "EVAL"), ("arguments", "3")))]  # fmt: skip
    before, after = _stopped(0, 0), _stopped(16, 16 * 0.07)
    stopped = checkup(slow=STALLS, before=before, after=after, more=[*entry, ("SLOWLOG GET", "5.us", "75000")])
    long = checkup(slow=STALLS, before=before, after=after, more=[*entry, ("SLOWLOG GET", "5.us", "500000")])
    assert ["clear", "fired"] == [answer(one, "redis.script.long") for one in (stopped, long)]


# Moving memory together -----------------------------------------------------------------------------------------


DEFRAG = {"active_defrag_hits": 10, "total_active_defrag_time": 100, "active_defrag_running": 0}


@pytest.mark.parametrize(
    ("grown", "slow", "expected"),
    [
        ({"active_defrag_hits": 90_000, "total_active_defrag_time": 1_300}, STALLS, "fired"),
        ({"active_defrag_hits": 90_000, "total_active_defrag_time": 1_300}, {}, "clear"),
        ({"active_defrag_hits": 10, "total_active_defrag_time": 1_300}, STALLS, "clear"),
        ({"active_defrag_hits": 11, "total_active_defrag_time": 101}, STALLS, "clear"),
    ],
    ids=["moves", "nobody waits", "moves nothing", "for a millisecond"],
)
def test_memory_that_is_moved_while_clients_wait(
    grown: dict[str, float], slow: dict[int, float], expected: str
) -> None:
    """Values moved, time spent, and PINGs that waited: each of the three is needed."""
    verdict = checkup(DEFRAG, grown, slow=slow, settings={"active-defrag-cycle-max": "25"})
    assert expected == answer(verdict, "redis.mem.defrag-stall")
    if expected == "fired":
        (fix,) = cause(verdict, "redis.mem.defrag-stall").fixes
        assert ("CONFIG", "SET", "active-defrag-cycle-max", "5") == (fix.argv or ())[-4:]


def test_before_7_it_says_what_share_of_the_cpu_it_means_to_use() -> None:
    """A fifth of the window is two seconds; an older one that does not say so is not judged."""
    first = {"active_defrag_hits": 10, "active_defrag_running": 20, "redis_version": "6.2.5"}
    fired = checkup(first, {"active_defrag_hits": 9_000}, slow=STALLS)
    none = checkup({"redis_version": "3.2.0"}, slow=STALLS)
    assert ["fired", "skipped"] == [answer(one, "redis.mem.defrag-stall") for one in (fired, none)]


# Many commands at once ------------------------------------------------------------------------------------------


TURNS = {"eventloop_cmd_per_cycle_max": 70, "eventloop_duration_max": 900, "redis_version": "7.4.1"}


@pytest.mark.parametrize(
    ("grown", "slow", "expected"),
    [
        ({"eventloop_cmd_per_cycle_max": 9_000, "eventloop_duration_max": 61_000}, STALLS, "fired"),
        ({"eventloop_cmd_per_cycle_max": 9_000, "eventloop_duration_max": 3_000}, STALLS, "skipped"),
        ({"eventloop_cmd_per_cycle_max": 80, "eventloop_duration_max": 61_000}, STALLS, "skipped"),
        ({}, STALLS, "skipped"),
        ({}, {}, "clear"),
    ],
    ids=["many and long", "many and short", "long and few", "an older one", "nobody waits"],
)
def test_the_servers_own_record_of_turns(grown: dict[str, float], slow: dict[int, float], expected: str) -> None:
    """Since 7.2, without tracing: a new longest turn, of very many commands. Else it cannot be told."""
    verdict = checkup(TURNS, grown, slow=slow)
    assert expected == answer(verdict, "redis.cycle.batch")
    if expected == "fired":
        found = cause(verdict, "redis.cycle.batch")
        assert {"INFO debug: eventloop_cmd_per_cycle_max", "requests"} <= {fact.source for fact in found.evidence}


# Saves ----------------------------------------------------------------------------------------------------------


def _host(available_mb: float, swap_mb: float = 0.0) -> list[Counted]:
    return [
        ("/proc/meminfo", "", "MemAvailable", available_mb * MB_KB),
        ("/proc/meminfo", "", "SwapFree", swap_mb * MB_KB),
    ]


def _group(limit_mb: float, anon_mb: float) -> list[Counted]:
    return [
        (f"{MEMORY}/memory.limit_in_bytes", MEMORY, "memory.limit_in_bytes", limit_mb * (1 << 20)),
        (f"{MEMORY}/memory.usage_in_bytes", MEMORY, "memory.usage_in_bytes", limit_mb * (1 << 20)),
        (f"{MEMORY}/memory.stat", MEMORY, "total_rss", anon_mb * (1 << 20)),
        (f"{MEMORY}/memory.stat", MEMORY, "total_shmem", 0.0),
    ]


COPIED = {"rdb_last_cow_size": 400 << 20, "used_memory_rss": GIGABYTE, "rdb_bgsave_in_progress": 0}


@pytest.mark.parametrize(
    ("room", "save", "expected"),
    [
        (_host(420), "60 1", "fired"),
        (_host(420, swap_mb=2000), "60 1", "clear"),
        (_host(420), "", "clear"),
        (_host(4000), "60 1", "clear"),
        ([*_host(4000), *_group(1100, 1000)], "60 1", "fired"),
        ([*_host(4000), *_group(1100, 200)], "60 1", "clear"),
    ],
    ids=["host", "swap", "does not save", "room", "group", "group full of files"],
)
def test_a_save_for_which_there_is_no_memory_is_a_risk(room: list[Counted], save: str, expected: str) -> None:
    """The last one copied 400 MB. A group that is full of the page cache has room: that can be dropped."""
    verdict = checkup(COPIED, settings={"save": save}, after=room)
    assert expected == answer(verdict, "redis.fork.oom-risk")
    if expected == "fired":
        found = cause(verdict, "redis.fork.oom-risk")
        assert ("risk", "warning") == (found.kind, found.level)


def test_what_a_save_copied_that_is_larger_than_the_server_by_now_is_not_expected_again() -> None:
    """It has let go of most of its memory since."""
    shrunk = COPIED | {"used_memory_rss": 60 << 20}
    assert "clear" == answer(checkup(shrunk, settings={"save": "60 1"}, after=_host(420)), "redis.fork.oom-risk")


AOF = {"aof_enabled": 1, "aof_rewrites": 3, "aof_base_size": 1_000, "aof_current_size": 2_000}
OFTEN = {"auto-aof-rewrite-percentage": "10", "auto-aof-rewrite-min-size": "1024"}


@pytest.mark.parametrize(
    ("grown", "settings", "expected"),
    [
        ({"aof_rewrites": 9}, OFTEN, ("fired", "auto-aof-rewrite-min-size")),
        (
            {"aof_rewrites": 9},
            OFTEN | {"auto-aof-rewrite-min-size": "67108864"},
            ("fired", "auto-aof-rewrite-percentage"),
        ),
        ({"aof_rewrites": 4}, OFTEN, ("clear", "")),
        ({"aof_rewrites": 9, "cmdstat_bgrewriteaof": "calls=6,usec=1"}, OFTEN, ("clear", "")),
        ({"aof_rewrites": 9, "aof_enabled": 0}, OFTEN, ("clear", "")),
    ],
    ids=["small", "percentage", "once", "asked for", "off"],
)
def test_rewrites_by_its_own_settings_are_counted(
    grown: dict[str, float | str], settings: dict[str, str], expected: tuple[str, str]
) -> None:
    """What is proposed is the setting that is below its default."""
    verdict = checkup(AOF, grown, settings=settings)
    assert expected[0] == answer(verdict, "redis.aof.rewrite-loop")
    if expected[0] == "fired":
        found = cause(verdict, "redis.aof.rewrite-loop")
        assert "note" == found.level
        assert expected[1] == (found.fixes[0].argv or ())[-2]


def test_before_7_each_rewrite_leaves_another_length() -> None:
    """Three lengths are two rewrites."""
    older = {name: value for name, value in AOF.items() if name != "aof_rewrites"}
    twice = checkup(older, {"aof_base_size": 1_500}, looks=[{"aof_base_size": 1_200}], settings=OFTEN)
    once = checkup(older, {"aof_base_size": 1_500}, settings=OFTEN)
    assert ["fired", "clear"] == [answer(one, "redis.aof.rewrite-loop") for one in (twice, once)]


# Replicas -------------------------------------------------------------------------------------------------------


def _replica(offset: int, *, lag: int = 0, state: str = "online") -> str:
    return f"ip=192.0.2.7,port=6379,state={state},offset={offset},lag={lag}"


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ((_replica(1_000), 40_000_000), (_replica(2_000), 41_000_000), "fired"),
        ((_replica(1_000), 40_000_000), (_replica(40_900_000), 41_000_000), "clear"),
        ((_replica(1_000), 2_000), (_replica(2_000), 41_000_000), "clear"),
        ((_replica(1_000), 1_000), (_replica(1_000, lag=50), 9_000), "fired"),
        ((_replica(1_000), 1_000), (_replica(1_000, lag=50), 1_000), "clear"),
        ((_replica(1_000), 40_000_000), (_replica(2_000, state="send_bulk"), 41_000_000), "clear"),
    ],
    ids=["far", "catches up", "a burst just now", "silent", "nothing to say", "takes its copy"],
)
def test_a_replica_that_is_far_behind_at_both_ends(
    first: tuple[str, int], last: tuple[str, int], expected: str
) -> None:
    """Twenty megabytes at the beginning and at the end, or half a minute of silence with something to be sent."""
    ends = [{"slave0": said, "master_repl_offset": offset, "connected_slaves": 1} for said, offset in (first, last)]
    assert expected == answer(checkup(*ends), "redis.repl.lag")


SYNCS = {"sync_full": 3, "sync_partial_err": 1, "connected_slaves": 2, "repl_backlog_size": 1 << 20}


@pytest.mark.parametrize(
    ("grown", "expected"),
    [
        ({"sync_full": 7, "sync_partial_err": 5, "master_repl_offset": 20_000_000}, ("fired", "134217728")),
        ({"sync_full": 7, "sync_partial_err": 5, "master_repl_offset": 900_000_000}, ("fired", "")),
        ({"sync_full": 7}, ("fired", "")),
        ({"sync_full": 6, "connected_slaves": 5}, ("clear", "")),
        ({"sync_full": 4, "sync_partial_err": 2}, ("clear", "")),
    ],
    ids=["backlog too short", "too much is written for any", "none asked to go on", "new replicas", "once"],
)
def test_full_copies_beyond_those_of_new_replicas(grown: dict[str, float], expected: tuple[str, str]) -> None:
    """A longer backlog is proposed where replicas wanted to go on, and as long as it takes no more than 256 MiB."""
    verdict = checkup(SYNCS | {"master_repl_offset": 0}, grown, settings={"repl-backlog-size": "1048576"})
    assert expected[0] == answer(verdict, "redis.repl.full-resync")
    if expected[0] == "fired":
        assert expected[1] == (cause(verdict, "redis.repl.full-resync").fixes[0].argv or ("",))[-1]
