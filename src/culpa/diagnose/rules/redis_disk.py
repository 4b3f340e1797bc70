"""Redis' main thread held up while it writes its append-only file, and by whose data.

Four causes that look alike from outside, and to Redis itself, which only knows whether a sync or a child was under way:
the pages that everybody has dirtied, the server's own sync, a child of its own, another process on the same disk.
"""

from __future__ import annotations

from collections.abc import Iterator

from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.root import STALL_NS
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.aofwrites import Worked, WriteWait, write_wait
from culpa.diagnose.rules.evidence import names_below, part, seconds, waits_source
from culpa.diagnose.rules.redis_fixes import set_config
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.units import format_bytes

MOSTLY = 0.5
"""Of the time: what holds for less of it is not what the rest waited for."""
MAX_WORKED = 3
"""Of those whose data the disk worked on, so many are named."""


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
    if view.pid is None:
        raise Unseen(ELSEWHERE)
    wait = write_wait(view)
    if wait is None or not _is_throttled(wait):
        return
    yield Finding(
        moments=wait.moments, nearness=Nearness.LIMIT, pid=view.pid, tid=view.pid,
        on=On(path=wait.path, syscall="write"), evidence=tuple(_evidence(view, wait)), confidence=0.9,
        fixes=(_BACKGROUND, _DISK),
    )  # fmt: skip


@rule(
    id="redis.aof.write-behind-fsync",
    title="Redis' write to its append-only file waits for its own sync of it",
    needs=(),
    fixes=("redis-aof-disk",),
    fires=(Lab("redis-aof-sync"),),
    silent=(Lab("redis-aof-sync-healthy"), Lab("redis-aof-save"), Lab("redis-aof-neighbour")),
)
@each_server
def write_behind_fsync(view: RedisView) -> Iterator[Finding]:
    """What it detects: writes of the main thread to the append-only file that wait while the disk writes what the
    background thread syncs of that file.

    Why it slows you: Redis puts the write off for as long as a sync runs, but for no more than 2 s. Then it writes all
    the same, and on a journalling file system that write waits until the commit is on the disk which carries the
    file's own inode. A sync that is late and blocks no write is a note (redis.aof.fsync-late).

    How sure: the wait is seen in the main thread, the sync in another thread on the same file at the same time, and of
    what the disk was given meanwhile most was data of that file. It needs tracing.

    What to do: the disk takes less a second than Redis appends: a faster disk, smaller or fewer writes. appendfsync no
    avoids the sync, but not the disk.
    """
    wait = _plain_wait(view)
    if wait is None or not _is_behind_sync(wait):
        return
    yield Finding(
        moments=wait.moments, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid,
        on=_on(view, wait, "appendfsync", "everysec"), evidence=tuple(_evidence(view, wait)), confidence=0.88,
        fixes=(_DISK,),
    )  # fmt: skip


@rule(
    id="redis.aof.write-behind-child",
    title="Redis' write to its append-only file waits for what its own child saves",
    needs=(),
    fixes=("redis-incremental-fsync", "redis-no-appendfsync-on-rewrite", "redis-save-less-often"),
    fires=(Lab("redis-aof-save"),),
    silent=(Lab("redis-aof-save-healthy"), Lab("redis-aof-sync"), Lab("redis-aof-neighbour")),
)
@each_server
def write_behind_child(view: RedisView) -> Iterator[Finding]:
    """What it detects: writes of the main thread to the append-only file that wait while the disk writes what a child
    of the server has saved or rewritten.

    Why it slows you: the child's file lies on the same file system. A commit of its journal writes the data of new
    files first, and the append waits for that commit. The more the child leaves unwritten until its end, the longer:
    with rdb-save-incremental-fsync off that is the whole file.

    How sure: the wait is seen in the main thread; whose data the disk was given meanwhile is told by the inode of its
    pages and by who wrote or synced that file. It needs tracing.

    What to do: rdb-save-incremental-fsync and aof-rewrite-incremental-fsync on, fewer saves, save on a replica;
    no-appendfsync-on-rewrite spares the sync meanwhile, at the price of what is written during a rewrite.
    """
    wait = _plain_wait(view)
    if wait is None or wait.foremost is None or wait.foremost.whose != "child":
        return
    yield Finding(
        moments=wait.moments, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid,
        on=_on(view, wait, "rdb-save-incremental-fsync", "no"), evidence=tuple(_evidence(view, wait)), confidence=0.88,
        fixes=tuple(_child_fixes(view)),
    )  # fmt: skip


@rule(
    id="redis.aof.write-slow-disk",
    title="Redis' write to its append-only file waits for a disk that others load",
    needs=(),
    fixes=("neighbour-io-limit", "redis-aof-disk"),
    fires=(Lab("redis-aof-neighbour"),),
    silent=(Lab("redis-aof-neighbour-healthy"), Lab("redis-aof-sync"), Lab("redis-aof-save")),
)
@each_server
def write_slow_disk(view: RedisView) -> Iterator[Finding]:
    """What it detects: writes of the main thread to the append-only file that wait while the disk works on the data of
    another process, or of nobody who was seen.

    Why it slows you: a file system has one journal and a device one queue; who writes much and syncs it holds up the
    commit that Redis' small append needs.

    How sure: as for the two causes above; Redis itself may call such a write one beside a sync, as its own sync is
    held up as well. Where the disk wrote for nobody who was seen, the disk itself is slow, and the confidence is lower.

    What to do: hold the other process to a rate (io.max of its control group), run it at another time, or give Redis a
    disk of its own.
    """
    wait = _plain_wait(view)
    if wait is None or _is_behind_sync(wait):
        return
    most = wait.foremost
    if most is not None and most.whose == "child":
        return
    other = most if most is not None and most.whose == "other" else None
    title = None if other else "Redis' write to its append-only file waits for a slow disk"
    yield Finding(
        moments=wait.moments, nearness=Nearness.LIMIT, pid=other.pid if other else view.pid, tid=None, title=title,
        on=On(path=wait.path, device=wait.device, syscall="write"), evidence=tuple(_evidence(view, wait)),
        confidence=0.88 if other else 0.7, fixes=tuple(_neighbour_fixes(view, other)),
    )  # fmt: skip


ELSEWHERE = "its process is not visible from here"


def _plain_wait(view: RedisView) -> WriteWait | None:
    """Waits that a client notices and that are not pauses of the dirty throttle.

    Raises:
        Unseen: whose data the disk worked on is not known.
    """
    if view.picture.is_checkup and not view.stalls.ns:
        return None
    if view.pid is None:
        raise Unseen(ELSEWHERE)
    if view.picture.graph is None:
        raise Unseen("whose data the disk works on is seen with tracing only")
    wait = write_wait(view)
    return None if wait is None or wait.moments.ns < STALL_NS or _is_throttled(wait) else wait


def _is_throttled(wait: WriteWait) -> bool:
    return wait.throttled_ns >= MOSTLY * wait.moments.ns


def _is_behind_sync(wait: WriteWait) -> bool:
    """Whether a sync of the same file was under way, and the disk worked for it more than for anybody else."""
    synced = wait.synced_ns is not None and wait.synced_ns >= MOSTLY * wait.moments.ns
    return synced and (wait.foremost is None or wait.foremost.whose == "own")


def _on(view: RedisView, wait: WriteWait, setting: str, wrong: str) -> On:
    """The file, and the setting where it is as it should not be."""
    named = f"{setting} {wrong}" if view.setting(setting) == wrong else None
    return On(path=wait.path, syscall="write", setting=named)


def _evidence(view: RedisView, wait: WriteWait) -> Iterator[Evidence]:
    picture, nodes = view.picture, wait.nodes
    yield Evidence(
        fact="main thread waited in write to the append-only file", value=seconds(wait.moments.ns), unit="s",
        threshold=None, source=waits_source(picture),
    )  # fmt: skip
    if wait.throttled_ns:
        yield Evidence(
            fact="of it, made to pause because too much is dirty", value=seconds(wait.throttled_ns), unit="s",
            threshold=None, source="offcpu: kernel stacks",
        )  # fmt: skip
    for kind, words, source in (
        (Kind.JOURNAL, "for the journal, ", "offcpu: kernel stacks"),
        (Kind.DEVICE, "at the device ", "blocks"),
    ):
        if time := part(picture, nodes, kind):
            fact = f"of it, {words}{', '.join(names_below(picture, nodes, kind)[:2])}"
            yield Evidence(fact=fact, value=seconds(time), unit="s", threshold=None, source=source)
    if wait.synced_ns:
        yield Evidence(
            fact="of it, while another thread of the server synced that file", value=seconds(wait.synced_ns), unit="s",
            threshold=None, source="syscalls",
        )  # fmt: skip
    for entry in [entry for entry in wait.worked if entry.whose != "unknown"][:MAX_WORKED]:
        fact = f"meanwhile {wait.device} worked on {_told(view, entry)}"
        yield Evidence(fact=fact, value=seconds(entry.ns), unit="s", threshold=None, source="blocks, dirtied, syscalls")
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
    yield from view.stall_facts(wait.moments)


def _told(view: RedisView, entry: Worked) -> str:
    if entry.whose == "own":
        return "data of the server itself"
    whom = f"its child {entry.pid}" if entry.whose == "child" else view.picture.objects.thread_name(entry.pid or 0)
    return f"data of {whom}{f', {entry.path}' if entry.path else ''}"


def _child_fixes(view: RedisView) -> Iterator[Fix]:
    for name in ("rdb-save-incremental-fsync", "aof-rewrite-incremental-fsync"):
        if view.setting(name) == "no":
            yield set_config(view, "redis-incremental-fsync", name, "yes", risk="the save takes a little longer")
    if view.setting("no-appendfsync-on-rewrite") == "no":
        risk = "a power failure during a save or rewrite may lose all that was written since it began"
        yield set_config(view, "redis-no-appendfsync-on-rewrite", "no-appendfsync-on-rewrite", "yes", risk=risk)
    yield Fix(
        id="redis-save-less-often", change="save less often or on a replica, or keep the RDB file on another disk",
        reversible=True, risk="more is lost if the server's files are",
    )  # fmt: skip


def _neighbour_fixes(view: RedisView, other: Worked | None) -> Iterator[Fix]:
    if other is not None:
        name = view.picture.objects.thread_name(other.pid or 0)
        yield Fix(
            id="neighbour-io-limit", change=f"hold {name} to a rate (io.max of its control group), or move it",
            reversible=True, risk="the neighbour gets slower",
        )  # fmt: skip
    yield _DISK


_BACKGROUND = Fix(
    id="dirty-background", argv=("sysctl", "-w", "vm.dirty_background_bytes=67108864"), reversible=True,
    risk="more, smaller writes; setting the bytes form sets the ratio form to 0",
)  # fmt: skip
_DISK = Fix(
    id="redis-aof-disk", change="find who else writes to that disk (culpa why), or give Redis a disk of its own",
    reversible=True, risk="none",
)  # fmt: skip
