"""Redis' main thread held up while it writes its append-only file, and what holds it up: one rule for each reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import polars as pl

from culpa.capture import schema
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisview import RedisView, each_server, within
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import names_below, part, seconds
from culpa.diagnose.rules.redis_fixes import set_config
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.syscalls import SYNC, Numbers
from culpa.units import format_bytes

WRITES = frozenset({"write", "pwrite64", "writev", "pwritev", "pwritev2"})
MOSTLY = 0.5
"""Of the time: what holds for less of it is not what the rest waited for."""
Reason = Literal["throttled", "behind-fsync", "behind-child", "slow-disk"]


@rule(
    id="redis.aof.dirty-throttle",
    title="Redis may not write its append-only file on: too much is dirty",
    needs=(),
    fixes=("dirty-background",),
    fires=(),
    silent=(Lab("redis-slow-healthy"),),
)
@each_server
def dirty_throttle(view: RedisView) -> Iterator[Finding]:
    """What it detects: write calls of the main thread on the append-only file in which the kernel makes it pause
    (balance_dirty_pages).

    Why it slows you: with more unwritten pages than the limits allow every writer goes at the speed of the disk; Redis
    writes from the thread that serves everybody.

    How sure: the pauses are seen in that thread, by their kernel stack.

    What to do: let the kernel write back earlier (vm.dirty_background_bytes), another disk for the append-only file, or
    less writing by others on that disk. dirty_background_ratio 5 with dirty_ratio 10 uses little memory, 50 with 80
    much, 5 with 80 takes peaks and empties in calm times.
    """
    yield from _held_up(view, "throttled")


@rule(
    id="redis.aof.write-behind-fsync",
    title="Redis writes its append-only file while that is being synced, and waits",
    needs=(),
    fixes=("redis-aof-disk",),
    fires=(),
    silent=(Lab("redis-slow-healthy"),),
)
@each_server
def behind_fsync(view: RedisView) -> Iterator[Finding]:
    """What it detects: write calls of the main thread on the append-only file that wait while a background thread of
    the same server is in fsync or fdatasync on it.

    Why it slows you: some file systems let no write pass while a file is synced. Redis postpones its write for up to
    two seconds; then it writes all the same, and waits with all its clients.

    How sure: both calls are seen, on the same file at the same time. A late fsync alone delays nobody and is a note.

    What to do: find who else loads that disk, a disk of its own, no-appendfsync-on-rewrite during rewrites.
    """
    yield from _held_up(view, "behind-fsync")


@rule(
    id="redis.aof.write-behind-child",
    title="Redis writes its append-only file while its own child saves or rewrites, and waits",
    needs=(),
    fixes=("redis-no-fsync-on-rewrite",),
    fires=(),
    silent=(Lab("redis-slow-healthy"),),
)
@each_server
def behind_child(view: RedisView) -> Iterator[Finding]:
    """What it detects: write calls of the main thread on the append-only file that wait while a child of the server
    writes a snapshot or a new append-only file.

    Why it slows you: the child fills the disk's queue; what the main thread writes stands behind it.

    How sure: the waits are seen in the main thread; the child is alive meanwhile and writes.

    What to do: rewrites in quiet hours, no-appendfsync-on-rewrite yes, incremental fsync on, another disk.
    """
    yield from _held_up(view, "behind-child")


@rule(
    id="redis.aof.write-slow-disk",
    title="Redis waits for the disk when it writes its append-only file",
    needs=(),
    fixes=("redis-aof-disk",),
    fires=(),
    silent=(Lab("redis-slow-healthy"),),
)
@each_server
def slow_disk(view: RedisView) -> Iterator[Finding]:
    """What it detects: write calls of the main thread on the append-only file that wait for the disk, with neither an
    fsync nor a child of the server's own under way.

    Why it slows you: Redis writes from the thread that serves everybody.

    How sure: the waits are seen in the main thread; whose requests are at the device meanwhile stands beside it.

    What to do: stop or limit the other writer (ionice, io.max), a faster or a local disk.
    """
    yield from _held_up(view, "slow-disk")


def _held_up(view: RedisView, wanted: Reason) -> Iterator[Finding]:
    if view.pid is None:
        raise Unseen("its process is not visible from here")
    nodes = _write_nodes(view)
    if not nodes:
        return
    moments = view.picture.moments(*nodes)
    if _reason(view, nodes, moments) != wanted:
        return
    on = view.picture.blame.nodes[nodes[0]].on
    yield Finding(
        moments=moments, nearness=_NEARNESS[wanted], pid=view.pid, tid=view.pid,
        on=On(path=on.path if on else None, syscall="write"), evidence=tuple(_evidence(view, nodes, moments)),
        confidence=0.7 if view.picture.sampled else 0.9, fixes=_fixes(view, wanted),
    )  # fmt: skip


_NEARNESS = {
    "throttled": Nearness.LIMIT, "behind-fsync": Nearness.SETTING, "behind-child": Nearness.SETTING,
    "slow-disk": Nearness.DEVICE,
}  # fmt: skip


def _write_nodes(view: RedisView) -> list[int]:
    """Waits of the main thread in a write to a file of the server's own folder for the append-only file."""
    picture, found = view.picture, []
    for node in view.nodes(Kind.IO, Kind.THROTTLE, Kind.JOURNAL, Kind.DEVICE):
        on = picture.blame.nodes[node].on
        own = on is not None and on.path is not None and _is_append_only(view, on.path)
        if own and on is not None and (on.syscall is None or on.syscall in WRITES):
            found.append(node)
    return found


def _is_append_only(view: RedisView, path: str) -> bool:
    """By the name that the server itself gives that file."""
    name = view.setting("appendfilename") or "appendonly.aof"
    return name in path.rpartition("/")[2]


def _reason(view: RedisView, nodes: list[int], moments: Moments) -> Reason:
    """Why these writes wait."""
    picture = view.picture
    if part(picture, nodes, Kind.THROTTLE) >= MOSTLY * moments.ns:
        return "throttled"
    if within(moments, _background_syncs(view)).ns >= MOSTLY * moments.ns:
        return "behind-fsync"
    children = [*view.values("rdb_bgsave_in_progress"), *view.values("aof_rewrite_in_progress")]
    return "behind-child" if any(children) else "slow-disk"


def _background_syncs(view: RedisView) -> list[tuple[int, int]]:
    """When threads of the server other than the main one were in a sync call, [start, end) in ns."""
    capture, window = view.picture.capture, view.picture.capture.manifest.window
    numbers = sorted(Numbers(capture.manifest.host.machine).of(SYNC))
    others = (pl.col("pid") == view.pid) & (pl.col("tid") != view.pid) & pl.col("nr").is_in(numbers)
    if view.picture.sampled:
        rows = capture.frame(schema.SAMPLES).filter(others)
        step = window.end_ns - window.start_ns
        gaps = capture.frame(schema.SWEEPS)["ts_ns"].unique().sort().diff().drop_nulls()
        step = int(gaps.median() or step) if len(gaps) else step  # type: ignore[arg-type]  # a column of integers
        return [(ts, ts + step) for ts in rows["ts_ns"].to_list()]
    rows = capture.frame(schema.SYSCALLS).filter(others)
    calls = rows.select(pl.col("enter_ns").fill_null(window.start_ns), pl.col("exit_ns").fill_null(window.end_ns))
    return list(calls.iter_rows())


def _evidence(view: RedisView, nodes: list[int], moments: Moments) -> Iterator[Evidence]:
    picture = view.picture
    yield Evidence(
        fact="main thread waited in write to the append-only file", value=seconds(moments.ns), unit="s", threshold=None,
        source="samples of /proc" if picture.sampled else "offcpu and syscalls",
    )  # fmt: skip
    if synced := within(moments, _background_syncs(view)).ns:
        yield Evidence(
            fact="of it, while a background thread synced that server's files", value=seconds(synced), unit="s",
            threshold=None, source="syscalls",
        )  # fmt: skip
    if throttled := part(picture, nodes, Kind.THROTTLE):
        yield Evidence(
            fact="of it, made to pause because too much is dirty", value=seconds(throttled), unit="s", threshold=None,
            source="offcpu: kernel stacks",
        )  # fmt: skip
    if device := part(picture, nodes, Kind.DEVICE):
        name = ", ".join(names_below(picture, nodes, Kind.DEVICE)[:2])
        yield Evidence(
            fact=f"of it, at the device {name}", value=seconds(device), unit="s", threshold=None, source="blocks"
        )
    late = view.delta("aof_delayed_fsync")
    if late is not None:
        yield Evidence(
            fact="writes the server made although a sync was under way", value=int(late), unit="", threshold=None,
            source="INFO persistence: aof_delayed_fsync",
        )  # fmt: skip
    if (size := view.number("aof_current_size")) is not None:
        yield Evidence(
            fact="size of the append-only file", value=format_bytes(int(size)), unit="", threshold=None,
            source="INFO persistence",
        )  # fmt: skip
    yield from view.stall_facts(moments)


def _fixes(view: RedisView, reason: Reason) -> tuple[Fix, ...]:
    disk = Fix(
        id="redis-aof-disk", change="find who else writes to that disk (culpa why), or give Redis a disk of its own",
        reversible=True, risk="none",
    )  # fmt: skip
    if reason == "throttled":
        argv = ("sysctl", "-w", "vm.dirty_background_bytes=67108864")
        risk = "more, smaller writes; setting the bytes form sets the ratio form to 0"
        return (Fix(id="dirty-background", argv=argv, reversible=True, risk=risk), disk)
    if reason == "behind-child" and view.setting("no-appendfsync-on-rewrite") == "no":
        risk = "a crash during a rewrite may lose what was written since it began"
        return (set_config(view, "redis-no-fsync-on-rewrite", "no-appendfsync-on-rewrite", "yes", risk=risk), disk)
    return (disk,)
