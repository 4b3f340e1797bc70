"""What acquits: for each check of a Redis server the figures that say how it stands, fired or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from culpa.diagnose.picture import Picture
from culpa.diagnose.redisview import RedisView
from culpa.diagnose.rules.redis_holds import DELETES, FLUSHES, SCRIPTS
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
    if (nodes := view.host_number("nodes")) is not None:
        yield _fact("NUMA nodes of the host", int(nodes), "/sys/devices/system/node")


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
    "redis.fork.thp": _huge,
    "redis.repl.load-blocks": _replication,
    "redis.cpu.pinned": _cpus,
}
