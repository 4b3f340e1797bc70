"""Redis' main thread held up while it writes its append-only file."""

from __future__ import annotations

from collections.abc import Iterator

from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import names_below, part, seconds
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.units import format_bytes

WRITES = frozenset({"write", "pwrite64", "writev", "pwritev", "pwritev2"})
MOSTLY = 0.5
"""Of the time: what holds for less of it is not what the rest waited for."""


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
        raise Unseen("its process is not visible from here")
    nodes = _write_nodes(view)
    if not nodes:
        return
    moments = view.picture.moments(*nodes)
    if part(view.picture, nodes, Kind.THROTTLE) < MOSTLY * moments.ns:
        return
    on = view.picture.blame.nodes[nodes[0]].on
    yield Finding(
        moments=moments, nearness=Nearness.LIMIT, pid=view.pid, tid=view.pid,
        on=On(path=on.path if on else None, syscall="write"), evidence=tuple(_evidence(view, nodes, moments)),
        confidence=0.9, fixes=_FIXES,
    )  # fmt: skip


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


def _evidence(view: RedisView, nodes: list[int], moments: Moments) -> Iterator[Evidence]:
    picture = view.picture
    yield Evidence(
        fact="main thread waited in write to the append-only file", value=seconds(moments.ns), unit="s", threshold=None,
        source="offcpu and syscalls",
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


_FIXES = (
    Fix(
        id="dirty-background", argv=("sysctl", "-w", "vm.dirty_background_bytes=67108864"), reversible=True,
        risk="more, smaller writes; setting the bytes form sets the ratio form to 0",
    ),
    Fix(
        id="redis-aof-disk", change="find who else writes to that disk (culpa why), or give Redis a disk of its own",
        reversible=True, risk="none",
    ),
)  # fmt: skip
