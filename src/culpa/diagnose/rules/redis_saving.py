"""What it takes a Redis to get its data onto the disk: long saves, a slow disk, the end of a rewrite."""

from __future__ import annotations

from collections.abc import Iterator

from culpa.diagnose import redissaving
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.rule import Lab, Rule, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.rules.redis_said import Said, fact, state, words
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import format_bytes, format_count, format_share

LONG_SAVE_S = 120
"""From here on a save is worth a word (BetterDB's monitor; Netdata warns at 600 s)."""
STALLED_SAVE_S = 60
SLOW_NS = 3_000_000
"""Of the device's own time for one request: a whole synchronous write ordinarily takes 1 to 2 ms."""
SLOW_PART = 0.25
"""Of the requests: fewer are hiccups of the host."""
MIN_REQUESTS = 5
LARGE_TAIL = 100_000_000
"""Redis itself logs each hundred megabytes of it (aof.c up to 6.2)."""
LONG_NS = 10_000_000
"""Shorter calls are shorter than what clients notice."""


@state(
    "redis.rdb.slow",
    "Redis' saves take minutes",
    "while a child saves, each page that is written is copied first, no other save can begin, and the append-only file "
    "may wait for the disk; a replica that wants a copy waits for all of it",
)
def rdb_slow(view: RedisView) -> Said | None:
    """A save that is under way and will take two minutes or more by its own progress, or that has stopped making any;
    or the last one that took so long.
    """
    last = view.number("rdb_last_bgsave_time_sec")
    under_way = redissaving.progress(view)
    evidence = list(_progress(under_way)) if under_way is not None else []
    long = under_way is not None and under_way.is_long(LONG_SAVE_S, stalled_s=STALLED_SAVE_S)
    if not long and (last or 0) < LONG_SAVE_S:
        return None
    if last is not None and last >= 0:
        evidence.append(fact("the last save took", last, "INFO persistence", unit="s", limit=LONG_SAVE_S))
    evidence += _child(view)
    return Said(evidence=tuple(evidence), setting="save", fixes=(_SAVES,))


def _progress(save: redissaving.Save) -> Iterator[Evidence]:
    yield fact("the save under way has taken", save.seconds, "INFO persistence: rdb_current_bgsave_time_sec", unit="s")
    if save.keys_total:
        source = "INFO persistence: current_save_keys_*"
        yield fact(f"keys saved so far, of {format_count(save.keys_total)}", save.keys_done or 0, source)
        if save.expected_s is not None:
            yield fact("at this pace all of it takes", round(save.expected_s, 1), source, unit="s", limit=LONG_SAVE_S)
        elif save.is_stalled:
            yield fact("keys saved in the window", 0, source)


def _child(view: RedisView) -> Iterator[Evidence]:
    """What the child did in the window, where that was seen."""
    spent = redissaving.child_time(view)
    if spent is None:
        return
    yield fact("its child computed in the window for", seconds(spent.running_ns), "offcpu", unit="s")
    yield fact("its child waited for the disk", seconds(spent.disk_ns), "offcpu, blocks", unit="s")
    yield fact("its child slept", seconds(spent.asleep_ns), "offcpu", unit="s")


@state(
    "redis.disk.slow",
    "The disk that Redis' files are on is slow",
    "with appendfsync always each write waits for it; else a save, a rewrite or a late sync sooner or later does",
)
def disk_slow(view: RedisView) -> Said | None:
    """The device below the files that the server and its children sync takes long for small writes, or to flush its
    cache. It needs tracing: the time in which the device works on other requests is left out.
    """
    disk = redissaving.disk(view)
    if disk is None:
        if view.picture.graph is None and (view.delta("aof_delayed_fsync") or view.stalls.ns):
            raise Unseen("how long the disk takes for each request is seen with tracing only")
        return None
    slow = [kind for kind in disk.kinds if len(kind.own_ns) >= MIN_REQUESTS and _is_slow(kind)]
    if not slow:
        return None
    evidence = list(disk_facts(disk))
    for kind in slow:
        part = format_share(kind.slower_than(SLOW_NS) / len(kind.own_ns))
        evidence.append(fact(f"of the {kind.what}, so long or longer", part, "blocks", limit=format_share(SLOW_PART)))
    return Said(evidence=tuple(evidence), setting=f"dir, on {disk.device}", fixes=(_DISK,), confidence=0.85)


def _is_slow(kind: redissaving.Answered) -> bool:
    return kind.mean_ns >= SLOW_NS and kind.slower_than(SLOW_NS) >= SLOW_PART * len(kind.own_ns)


def disk_facts(disk: redissaving.Disk) -> Iterator[Evidence]:
    """The device's own time for its requests, and the server's syncs."""
    for kind in disk.kinds:
        if len(kind.own_ns):
            told = f"{disk.device}: its own time for one of {format_count(len(kind.own_ns))} {kind.what}, mean"
            yield fact(told, round(kind.mean_ns / 1e6, 3), "blocks", unit="ms", limit=f"{SLOW_NS / 1e6:g} ms")
    if disk.syncs:
        mean_ms, longest_ms = disk.sync_ns / disk.syncs / 1e6, disk.longest_sync_ns / 1e6
        told = f"syncs by the server and its children: {format_count(disk.syncs)}, longest {longest_ms:.3g} ms, mean"
        yield fact(told, round(mean_ms, 3), "syscalls", unit="ms")


@state(
    "redis.aof.rewrite-tail",
    "The end of a rewrite of the append-only file is written by Redis' main thread",
    "what clients wrote while the child rewrote, and the child did not take, the main thread writes in one go: servers "
    "were seen that were silent for minutes",
)
def rewrite_tail(view: RedisView) -> Said | None:
    """Up to Redis 6.2: a hundred megabytes or more wait for the end of a rewrite, or the server's latency monitor noted
    that the main thread took 10 ms or longer to write what was left. Since 7.0 such writes go to a file of their own,
    and there is no such end.
    """
    if view.at_least(7):
        return None
    waiting = redissaving.rewrite_buffer(view)
    noted = view.monitored(*TAIL_EVENTS)
    long = any(_is_long(one) for one in noted)
    if (waiting or 0) < LARGE_TAIL and not long:
        return None
    evidence = list(noted)
    if waiting is not None:
        evidence.insert(
            0, fact("most that waited for the end of a rewrite", format_bytes(int(waiting)), TAIL,
                    limit=format_bytes(LARGE_TAIL))
        )  # fmt: skip
    return Said(evidence=tuple(evidence), setting="auto-aof-rewrite-percentage", fixes=(_REWRITE,))


TAIL = "INFO persistence: aof_rewrite_buffer_length"
TAIL_EVENTS = ("aof-rewrite-diff-write", "aof-rewrite-done-fsync")
UNLINK_EVENTS = ("aof-rename", "rdb-unlink-temp-file", "aof-fstat")


@rule(
    id="redis.aof.rename-unlink",
    title="Redis' main thread waits while a file is renamed, deleted or closed",
    needs=(),
    fixes=("redis-rewrite-off-peak",),
    fires=(),
    silent=(Lab("redis-aof-sync-healthy"), Lab("redis-aof-save-healthy"), Lab("redis-fork")),
)
@each_server
def rename_unlink(view: RedisView) -> Iterator[Finding]:
    """What it detects: rename, unlink or close of a file, in the main thread, takes 10 ms or longer.

    Why it slows you: the last of these three that lets go of a file frees its blocks, and a large file has many; and
    the first two change a directory, which a journal commit may hold. Redis leaves the closing of an old append-only
    file to a background thread, and since 6.2 the deleting of temporary files as well.

    How sure: the calls are seen in the main thread where the host is traced; else its latency monitor notes them
    (aof-rename, rdb-unlink-temp-file, aof-fstat), if it is on.

    What to do: rewrite and save in quiet hours and less often, keep the file small, a disk of its own.
    """
    calls = redissaving.file_calls(view)
    if calls is None:
        yield from _noted(view)
        return
    long = [(start, end) for start, end, _ in calls if end - start >= LONG_NS]
    if not long:
        return
    longest_ns, name = max((end - start, name) for start, end, name in calls)
    moments = view.all_moments.within(long)
    told = f"main thread in rename, unlink or close, {len(long)} times, the longest {longest_ns / 1e6:.3g} ms"
    yield Finding(
        moments=moments, nearness=Nearness.KERNEL, pid=view.pid, tid=view.pid, on=On(peer=view.server, syscall=name),
        evidence=(
            fact(told, seconds(sum(end - start for start, end in long)), "syscalls", unit="s"),
            *view.monitored(*UNLINK_EVENTS), *view.stall_facts(moments),
        ),
        confidence=0.9, fixes=(_QUIET,),
    )  # fmt: skip


def _noted(view: RedisView) -> Iterator[Finding]:
    """By the server's latency monitor.

    Raises:
        Unseen: it was off, and somebody waited.
    """
    noted = [one for one in view.monitored(*UNLINK_EVENTS) if _is_long(one)]
    if noted:
        longest_ns = int(1e6 * max(one.value for one in noted if isinstance(one.value, int | float)))
        moments = view.free_stalls.longest(longest_ns)
        yield Finding(
            moments=moments, nearness=Nearness.KERNEL, pid=view.pid, tid=view.pid, on=On(peer=view.server),
            evidence=(*noted, *view.stall_facts(moments)), confidence=0.75, fixes=(_QUIET,),
        )  # fmt: skip
    elif view.stalls.ns and not view.number("threshold_ms", "LATENCY MONITOR"):
        raise Unseen("such calls are seen with tracing, or by the server's own monitor (--latency-monitor)")


def _is_long(noted: Evidence) -> bool:
    """Of an event of the latency monitor, in ms."""
    return isinstance(noted.value, int | float) and noted.value * 1e6 >= LONG_NS


_SAVES = words(
    "redis-shorter-saves",
    "smaller instances; save less often or on a replica; a disk that takes more; see which of the three the child did: "
    "compute (rdbcompression no), wait for the disk, or sleep (rdb-key-save-delay)",
    "more is lost after a crash where saves are rarer",
)
_DISK = words(
    "redis-faster-disk",
    "put dir on a local disk, or one with a protected write cache; appendfsync everysec waits for it in the background",
    "none for the data, as long as it is moved while the server is down",
)
_REWRITE = words(
    "redis-rewrite-off-peak",
    "Redis 7.0 or newer; until then rewrite in quiet hours (BGREWRITEAOF, auto-aof-rewrite-percentage 0)",
    "the append-only file grows until then",
)
_QUIET = Fix(
    id="redis-rewrite-off-peak", change="rewrite and save in quiet hours, less often, or on a disk of their own",
    reversible=True, risk="the append-only file grows until then",
)  # fmt: skip

SAVING: tuple[Rule, ...] = (rdb_slow, disk_slow, rewrite_tail, rename_unlink)
