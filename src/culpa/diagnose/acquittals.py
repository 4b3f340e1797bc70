"""What acquits: for each check of a Redis server the figures that say how it stands, fired or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import polars as pl

from culpa.diagnose import cpusof, expirecycle, redissaving
from culpa.diagnose.picture import Picture
from culpa.diagnose.redisview import RedisView
from culpa.diagnose.rules.redis_holds import DELETES, FLUSHES, SCRIPTS
from culpa.diagnose.rules.redis_replies import MEAN, asked_by_others, mean_reply, served_here
from culpa.diagnose.rules.redis_saving import TAIL, disk_facts
from culpa.diagnose.verdict import Evidence
from culpa.units import NS_PER_SECOND, format_bytes, format_count


def figures(picture: Picture, check: str) -> tuple[Evidence, ...]:
    """The figures for one check; empty where nothing was seen or the check has none."""
    tell = _FIGURES.get(check)
    if tell is None:
        return ()
    return tuple(fact for view in picture.redis_servers for fact in tell(view))


def _fact(fact: str, value: float | str | None, source: str, unit: str = "") -> Evidence:
    return Evidence(fact=fact, value=value, unit=unit, threshold=None, source=source)


def _latency(view: RedisView) -> Iterator[Evidence]:
    rows = view.picture.root.requests
    if not rows.is_empty():
        longest = int((rows["end_ns"] - rows["start_ns"]).max() or 0)  # type: ignore[arg-type]  # an integer column
        yield _fact("longest PING", longest / NS_PER_SECOND, "requests", "s")
    if (baseline := view.host_number("longest_ns")) is not None:
        yield _fact("baseline: longest time this host kept a program from running", baseline / NS_PER_SECOND,
                    "intrinsic latency", "s")  # fmt: skip


def _longest(*verbs: frozenset[str]) -> Callable[[RedisView], Iterator[Evidence]]:
    def tell(view: RedisView) -> Iterator[Evidence]:
        holds = [hold for hold in view.holds if not verbs or hold.verb in frozenset().union(*verbs)]
        if not holds:
            yield _fact("commands that took a millisecond or longer", "none", "messages, SLOWLOG GET")
            return
        top = max(holds, key=lambda hold: hold.length_ns)
        name = " ".join(part for part in (top.verb, top.pattern) if part)
        yield _fact(f"longest: {name}", top.length_ns / NS_PER_SECOND, "messages, SLOWLOG GET", "s")

    return tell


def _keys(view: RedisView) -> Iterator[Evidence]:
    sampled, total = view.number("keys", "KEYS SAMPLED"), view.number("keys", "DBSIZE")
    largest = view.numbered("KEYS SAMPLED").get("0")
    if sampled is None:
        return
    of = f" of {format_count(total)}" if total is not None else ""
    yield _fact(f"keys looked at{of}", int(sampled), "SCAN, MEMORY USAGE")
    if largest is not None and largest.get("bytes", "").isdecimal():
        kind = f"{largest.get('type', 'key')} {largest.get('pattern', '')}".strip()
        yield _fact(f"largest of them: {kind}", format_bytes(int(largest["bytes"])), "MEMORY USAGE")


def _expiry(view: RedisView) -> Iterator[Evidence]:
    for field, words in (("expired_keys", "keys expired"), ("expired_time_cap_reached_count", "cycles out of time")):
        if (grown := view.delta(field)) is not None:
            yield _fact(f"{words} in {view.seconds:.3g} s", int(grown), f"INFO stats: {field}")
    cycle = expirecycle.of(view)
    if cycle is None:
        return
    told = f"keys with a time to live looked at a second, of each database ({cycle.sample} each time, hz {cycle.hz:g})"
    yield _fact(told, cycle.looked_at, "INFO server: hz, redis_version")
    told = "it takes another sample at once where more of one than this are expired"
    yield _fact(told, cycle.stale_percent, "redis_version, active-expire-effort", "%")
    yield _fact("and may so go on in each cycle for", cycle.longest_ns / 1e6, "hz, active-expire-effort", "ms")


def _aof(view: RedisView) -> Iterator[Evidence]:
    for name in ("appendonly", "appendfsync"):
        if (value := view.setting(name)) is not None:
            yield _fact(name, value, "CONFIG GET")


def _memory(view: RedisView) -> Iterator[Evidence]:
    used, host = view.number("used_memory"), view.number("total_system_memory")
    if used is not None:
        of = f" of {format_bytes(int(host))} of the host" if host else ""
        yield _fact(f"memory used{of}", format_bytes(int(used)), "INFO memory")
    if (swapped := view.host_number("Swap")) is not None:
        yield _fact("of it in swap", format_bytes(int(swapped * 1024)), "smaps_rollup")


def _huge(view: RedisView) -> Iterator[Evidence]:
    if (huge := view.host_number("AnonHugePages")) is not None:
        yield _fact("memory in huge pages", format_bytes(int(huge * 1024)), "smaps_rollup")


def _replication(view: RedisView) -> Iterator[Evidence]:
    for field in ("role", "connected_slaves", "master_link_status", "loading"):
        if (value := view.text(field)) is not None:
            yield _fact(field, value, "INFO replication, persistence")


def _cpus(view: RedisView) -> Iterator[Evidence]:
    if allowed := view.threads_allowed():
        yield _fact(f"CPUs its threads may run on, of {view.picture.capture.manifest.host.cpus}", min(allowed),
                    "/proc/PID/task/*/status")  # fmt: skip
    own, cpus = cpusof.allowed(view), cpusof.better(view)
    if len(own) == 1 and cpus is not None:
        others = "all of its core are" if cpus.share_a_core else "its core has no other; with the next of its socket"
        yield _fact(f"bound to CPU {own[0]}; {others}", cpus.listed, "/sys/devices/system/cpu/cpu*/topology")
    if (nodes := view.host_number("nodes")) is not None:
        yield _fact("NUMA nodes of the host", int(nodes), "/sys/devices/system/node")


def _dirty(view: RedisView) -> Iterator[Evidence]:
    """When the kernel writes back what is dirty: by how much of it there is, and by its age."""
    begins, pauses = "the kernel begins to write back", "writers are made to pause"
    for part, words in (("dirty_background", begins), ("dirty", pauses)):
        of_bytes, ratio = view.host_setting(f"{part}_bytes"), view.host_setting(f"{part}_ratio")
        if of_bytes:
            yield _fact(f"{words} from so much dirty on", format_bytes(int(of_bytes)), f"vm.{part}_bytes")
        elif ratio is not None:
            yield _fact(f"{words} from so much of the free memory dirty on", int(ratio), f"vm.{part}_ratio", "%")
    for name, words in (("expire", "older than this it is written back in any case"), ("writeback", "looked at each")):
        if (hundredths := view.host_setting(f"dirty_{name}_centisecs")) is not None:
            yield _fact(words, hundredths / 100, f"vm.dirty_{name}_centisecs", "s")


def _replies(view: RedisView) -> Iterator[Evidence]:
    served, mean = served_here(view), mean_reply(view)
    if served is not None and not served.written_elsewhere:
        sizes = asked_by_others(view, served).filter(~pl.col("several"))["reply_bytes"]
        if not sizes.is_empty():
            yield _fact(f"largest of {format_count(len(sizes))} replies", format_bytes(int(sizes.max())), "messages")  # type: ignore[arg-type]  # an integer column
    elif mean is not None:
        yield _fact("mean of all replies, culpa's own included", format_bytes(int(mean)), MEAN)


def _disk(view: RedisView) -> Iterator[Evidence]:
    if (disk := redissaving.disk(view)) is not None:
        yield from disk_facts(disk)


def _save(view: RedisView) -> Iterator[Evidence]:
    last, under_way = view.number("rdb_last_bgsave_time_sec"), view.number("rdb_bgsave_in_progress")
    if last is not None and last >= 0:
        yield _fact("the last save took", last, "INFO persistence", "s")
    if under_way is not None:
        yield _fact("a save is under way", "yes" if under_way else "no", "INFO persistence")


def _tail(view: RedisView) -> Iterator[Evidence]:
    waiting = redissaving.rewrite_buffer(view)
    if view.at_least(7):
        yield _fact("it has no such tail: since 7.0 writes during a rewrite go to a file of their own",
                    view.text("redis_version"), "INFO server: redis_version")  # fmt: skip
    elif waiting is not None:
        yield _fact("most that waited for the end of a rewrite", format_bytes(int(waiting)), TAIL)
    elif view.version is not None:
        yield _fact("append-only file", view.setting("appendonly"), "CONFIG GET")


def _let_go(view: RedisView) -> Iterator[Evidence]:
    calls = redissaving.file_calls(view)
    if calls is not None:
        longest = max(((end - start) / 1e6 for start, end, _ in calls), default=0.0)
        yield _fact(f"longest of {format_count(len(calls))} renames, unlinks and closes of the main thread", longest,
                    "syscalls", "ms")  # fmt: skip


_FIGURES: Mapping[str, Callable[[RedisView], Iterator[Evidence]]] = {
    "redis.cpu.host-latency": _latency,
    "redis.command.slow": _longest(),
    "redis.bigkey.read": _keys,
    "redis.bigkey.delete": _longest(DELETES),
    "redis.flush.sync": _longest(FLUSHES),
    "redis.script.long": _longest(SCRIPTS),
    "redis.expire.burst": _expiry,
    "redis.aof.fsync-always": _aof,
    "redis.mem.no-limit": _memory,
    "redis.mem.swap": _memory,
    "redis.fork.thp": _huge,
    "redis.repl.load-blocks": _replication,
    "redis.cpu.pinned": _cpus,
    "redis.aof.dirty-throttle": _dirty,
    "redis.aof.rewrite-tail": _tail,
    "redis.aof.rename-unlink": _let_go,
    "redis.disk.slow": _disk,
    "redis.rdb.slow": _save,
    "redis.reply.large": _replies,
}
