"""Redis' append-only file: who waits for its fsync."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import calls_behind, names_below, part, seconds, waits_source
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.units import format_count

MIN_CALLS = 10
"""Fewer syncs in one window can be a rewrite or a shutdown; `always` makes one per event loop that wrote (aof.c)."""
ALWAYS = "always"
ALWAYS_EVENT = "aof-fsync-always"
"""What the server's latency monitor calls it (aof.c)."""


@rule(
    id="redis.aof.fsync-always",
    title="Every Redis write waits for the disk (appendfsync always)",
    needs=(),
    fixes=("redis-appendfsync-everysec",),
    fires=(Lab("redis-slow"), Lab("containers")),
    silent=(Lab("redis-slow-healthy"), Lab("containers-healthy")),
)
def fsync_always(picture: Picture) -> Iterator[Finding]:
    """What it detects: Redis' main thread sits in fsync or fdatasync on its append-only file while a request waits.

    Why it slows you: with `appendfsync always` Redis syncs the file before it answers, in the one thread that serves
    everybody, so every write costs a journal commit and a device flush, and every other client queues behind it. The
    slow log does not show it: the sync happens outside of commands.

    How sure: the waits are measured in that thread on that file; the setting is read from the server where it can be
    asked. Where it cannot, the repeated sync in the main thread stands alone and the confidence is lower. A background
    thread in fsync (`everysec`) does not fire this rule.

    What to do: `CONFIG SET appendfsync everysec` if losing about a second of writes on a power failure is acceptable;
    otherwise a device with a fast, protected write cache, or fewer writes.
    """
    found: dict[tuple[int, str], list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.FSYNC):
        blamed = picture.blame.nodes[node]
        pid = picture.objects.pid_of.get(blamed.who, blamed.who)
        if pid in picture.redis_pids and blamed.who == pid and blamed.on is not None and blamed.on.path is not None:
            found[pid, blamed.on.path].append(node)
    for (pid, path), nodes in found.items():
        setting = picture.redis_setting(pid, "appendfsync")
        calls = calls_behind(picture, nodes)
        samples = len(picture.blame.inside(*nodes).item)
        if (setting or ALWAYS) != ALWAYS or (calls.count if calls else samples) < MIN_CALLS:
            continue
        yield Finding(
            moments=picture.moments(*nodes),
            nearness=Nearness.SETTING,
            pid=pid,
            tid=pid,
            on=On(
                path=path,
                syscall=calls.name if calls else "fdatasync",
                setting=f"appendfsync {setting}" if setting else None,
            ),
            evidence=(
                *_evidence(picture, pid, nodes, setting),
                *(fact for view in picture.redis_servers if view.pid == pid for fact in view.monitored(ALWAYS_EVENT)),
            ),
            confidence=_confidence(picture, setting),
            fixes=(_everysec(picture, pid),),
        )


def _confidence(picture: Picture, setting: str | None) -> float:
    if picture.sampled:
        return 0.85 if setting == ALWAYS else 0.6
    return 0.97 if setting == ALWAYS else 0.75


def _evidence(picture: Picture, pid: int, nodes: list[int], setting: str | None) -> Iterator[Evidence]:
    source = waits_source(picture)
    who = picture.objects.thread_name(pid)
    total = picture.moments(*nodes).ns
    calls = calls_behind(picture, nodes)
    if calls is not None:
        mean_ms = round(calls.ns / calls.count / 1e6, 3)
        yield Evidence(
            fact=f"main thread of {who} in {calls.name}: {format_count(calls.count)} calls x {mean_ms:.3g} ms",
            value=seconds(total), unit="s", threshold=None, source=f"{source}: tid {pid}",
        )  # fmt: skip
    else:
        hits, of = len(picture.blame.inside(*nodes).item), len(picture.blame.inside(0).item)
        yield Evidence(
            fact=f"main thread of {who} seen in fdatasync in {hits} of {of} samples",
            value=seconds(total), unit="s", threshold=None, source=f"{source}: tid {pid}",
        )  # fmt: skip
    journal = part(picture, nodes, Kind.JOURNAL)
    if journal:
        thread = ", ".join(names_below(picture, nodes, Kind.JOURNAL)[:2])
        yield Evidence(
            fact=f"of it, waiting for the journal ({thread})",
            value=seconds(journal),
            unit="s",
            threshold=None,
            source="offcpu: kernel stacks, waker",
        )
    device = part(picture, nodes, Kind.DEVICE)
    if device:
        name = ", ".join(names_below(picture, nodes, Kind.DEVICE)[:2])
        queue = part(picture, nodes, Kind.DEVICE, "queue")
        yield Evidence(
            fact=f"of it, at the device {name} (queued {seconds(queue):.3g} s)",
            value=seconds(device),
            unit="s",
            threshold=None,
            source="blocks",
        )
    if setting is not None:
        yield Evidence(
            fact="appendfsync",
            value=setting,
            unit="",
            threshold="everysec",
            source=f"CONFIG GET appendfsync at {picture.redis_address(pid)}",
        )
    else:
        yield Evidence(
            fact="appendfsync could not be read; repeated syncs in the main thread mean always",
            value=None,
            unit="",
            threshold=None,
            source="inference",
        )


def _everysec(picture: Picture, pid: int) -> Fix:
    address = picture.redis_address(pid)
    host, _, port = (address or "").rpartition(":")
    where: tuple[str, ...] = ("-h", host, "-p", port) if host and port.isdigit() else ()
    if address is not None and address.startswith("unix:"):
        where = ("-s", address.removeprefix("unix:"))
    return Fix(
        id="redis-appendfsync-everysec",
        argv=("redis-cli", *where, "CONFIG", "SET", "appendfsync", "everysec"),
        reversible=True,
        risk="a power failure or kernel crash may lose about the last second of writes",
    )
