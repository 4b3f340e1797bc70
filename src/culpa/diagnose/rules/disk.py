"""Waits for disks and file systems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from culpa.capture.schema import BLOCKS
from culpa.diagnose import predict, workers
from culpa.diagnose.code import line_of
from culpa.diagnose.devicequeue import Waited
from culpa.diagnose.devicewaits import DeviceWait
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import (
    calls_behind,
    code_evidence,
    journal_and_device,
    part,
    seconds,
    threads_of,
    waits_source,
)
from culpa.diagnose.rules.iolimits import limits_on
from culpa.diagnose.rules.neighbour import neighbours
from culpa.diagnose.verdict import Evidence, Fix, On, Predicted
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND, format_count

MIN_SYNCS = 10
"""Syncs in one request, or in one window of a process, from which they are a habit and not a commit or a checkpoint."""
SEVERAL = "{} processes sync small pieces to disk again and again"
MAX_FILLERS = 3
"""Of those whose requests fill the queue, so many are named."""


@rule(
    id="disk.fsync-heavy",
    title="One process syncs small pieces to disk again and again",
    needs=(),
    fixes=("app-sync-less-often",),
    fires=(Lab("fsync-loop"), Lab("node-sync"), Lab("shell-script"), Lab("postgres-commits"), Lab("prefork")),
    silent=(
        Lab("fsync-loop-healthy"),
        Lab("node-sync-healthy"),
        Lab("shell-script-healthy"),
        Lab("postgres-commits-healthy"),
        Lab("prefork-healthy"),
        Lab("redis-slow-healthy"),
        Lab("cpu-busy"),
        Lab("herring-syncs"),
    ),
)
def fsync_heavy(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits in fsync or fdatasync of one process, many times, or in writes to a file that
    was opened so that every write is synced (O_DSYNC, O_SYNC).

    Why it slows you: every sync waits for the file system's journal and for the device to flush its cache.

    How sure: the waits are measured inside those calls on that file. Redis' append-only file under `appendfsync
    always` has a cause of its own and is left out here.

    What to do: sync once for many writes (group commit, one transaction for a batch), or use a device with a protected
    write cache.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.FSYNC):
        blamed = picture.blame.nodes[node]
        pid = picture.objects.pid_of.get(blamed.who, blamed.who)
        if blamed.on is None or (pid in picture.redis_pids and blamed.who == pid):
            continue
        # A script syncs through many short processes of one name.
        found[picture.objects.process(pid).comm or str(pid)].append(node)
    for nodes in found.values():
        files = _files(picture, nodes)
        path = files[0]
        largest = picture.blame.nodes[nodes[0]].who
        pid = picture.objects.pid_of.get(largest, largest)
        calls = calls_behind(picture, nodes)
        count = calls.count if calls else len(picture.blame.inside(*nodes).item)
        if count < MIN_SYNCS * (picture.request_count if picture.has_price else 1):
            continue
        moments = picture.moments(*nodes)
        line = line_of(picture, threads_of(picture, nodes))
        others = workers.beside(picture, nodes, pid)
        who = picture.objects.thread_name(largest) + (f" and {format_count(len(others))} more" if others else "")
        mean = f" x {calls.ns / calls.count / 1e6:.3g} ms" if calls else ""
        unit = f"{format_count(count)} calls{mean}" if calls else f"{count} samples"
        evidence = [
            Evidence(
                fact=f"{who} in {calls.name if calls else 'fsync'}: {unit}",
                value=seconds(moments.ns),
                unit="s",
                threshold=None,
                source=waits_source(picture),
            ),
            *workers.more_like_it(picture, others),
            Evidence(fact="file", value=path, unit="", threshold=None, source="files"),
        ]
        if len(files) > 1:
            more = f"{', '.join(files[1:4])}{', ...' if len(files) > 4 else ''}"
            fact = f"and {len(files) - 1} more files"
            evidence.append(Evidence(fact=fact, value=more, unit="", threshold=None, source="files"))
        queued = part(picture, nodes, Kind.RUNNABLE)
        if queued:
            fact = "of it, runnable and waiting for a CPU"
            evidence.append(Evidence(fact=fact, value=seconds(queued), unit="s", threshold=None, source="offcpu"))
        evidence += journal_and_device(picture, nodes)
        if line is not None:
            evidence.append(code_evidence(line))
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=pid,
            tid=largest,
            title=SEVERAL.format(format_count(len(others) + 1)) if others else None,
            on=On(path=path, syscall=calls.name if calls else None, code=line.place if line else None),
            evidence=tuple(evidence),
            confidence=0.7 if picture.sampled else 0.92,
            fixes=(
                Fix(
                    id="app-sync-less-often",
                    change="sync once for many writes: one transaction or one fsync for a batch",
                    reversible=True,
                    risk="what was written since the last sync is lost on a power failure",
                ),
            ),
        )


def _files(picture: Picture, nodes: list[int]) -> list[str]:
    """What was synced, the file that took the most time first."""
    spent: dict[str, int] = defaultdict(int)
    for node in nodes:
        on = picture.blame.nodes[node].on
        spent[(on.path or on.syscall if on else None) or "?"] += picture.blame.nodes[node].ns
    return sorted(spent, key=lambda name: (-spent[name], name))


def device_evidence(wait: DeviceWait) -> Iterator[Evidence]:
    """The device's part of the root's time, split into others' requests and the waiter's own."""
    waited, device = wait.waited, wait.device
    yield Evidence(
        fact=f"waited for {device}: behind others' requests", value=seconds(waited.queued_ns), unit="s",
        threshold=None, source="blocks",
    )  # fmt: skip
    yield Evidence(
        fact=f"waited for {device}: for its own requests", value=seconds(waited.served_ns), unit="s",
        threshold=None, source="blocks",
    )  # fmt: skip
    yield Evidence(
        fact="requests in flight meanwhile, in the mean", value=round(waited.in_flight, 1), unit="requests",
        threshold=None, source="blocks",
    )  # fmt: skip
    finished = wait.queue.finished()
    if finished.count:
        fact = f"{device}: {format_count(finished.count)} requests finished, mean time from made to finished"
        yield Evidence(fact=fact, value=round(finished.mean_ns / 1e6, 4), unit="ms", threshold=None, source="blocks")
        fact = "of that, the device's own time for it"
        yield Evidence(fact=fact, value=round(finished.own_ns / 1e6, 4), unit="ms", threshold=None, source="blocks")


@rule(
    id="disk.saturated",
    title="Requests queue for the device",
    needs=(BLOCKS,),
    fixes=(),
    fires=(Lab("disk-saturated"),),
    silent=(
        Lab("disk-saturated-healthy"),
        Lab("disk-neighbour"),
        Lab("disk-slow"),
        Lab("redis-slow-healthy"),
        Lab("word-pop-cached"),
    ),
)
def saturated(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for a block device, more than half of it while the device works on other
    requests than its own.

    Why it slows you: more is asked of the device than it takes at once; each request waits until its turn.

    How sure: at each moment a device with k requests in flight counts as giving a k-th of itself to each, wherever they
    queue. A thread's own requests, and those a kernel thread sends with data that it wrote, are its own; the rest have
    owners. Utilisation alone proves nothing and is not used. Where one other process fills most of the queue, that is
    `disk.neighbour`.

    What to do: fewer or larger requests, a faster device, or a limit for whoever fills the queue.
    """
    for wait in picture.device_waits:
        fillers = wait.waited.fillers
        if not wait.queues or _has_one_neighbour(picture, wait.waited):
            continue
        first = fillers[0] if fillers else None
        named = first.pid if first and first.pid is not None and first.ns >= wait.waited.queued_ns / 2 else None
        foreign = named is not None and named not in picture.capture.manifest.target.pids
        yield Finding(
            moments=wait.moments, nearness=Nearness.NEIGHBOUR if foreign else Nearness.DEVICE, pid=named, tid=None,
            on=On(device=wait.device, path=first.path if first and named is not None else None),
            evidence=(*device_evidence(wait), *_filler_evidence(picture, wait.waited)), confidence=0.85,
            predicted=_without_the_queue(picture, wait),
        )  # fmt: skip


def _has_one_neighbour(picture: Picture, waited: Waited) -> bool:
    """Whether one process fills most of the queue that has no part in the request: that has a cause of its own."""
    first = waited.fillers[0] if waited.fillers else None
    if first is None or first.ns < waited.queued_ns / 2:
        return False
    return any(owner.pid == first.pid for owner in neighbours(picture))


def _without_the_queue(picture: Picture, wait: DeviceWait) -> Predicted | None:
    """What a request would take alone at the device: without the others it still waits for its own requests, at least
    half as long: who is alone is served no slower, and may be merged.
    """
    without = predict.without(picture, wait.moments) if picture.has_price else None
    if without is None:
        return None
    own = wait.waited.served_ns / picture.request_count / NS_PER_SECOND
    return Predicted(p50=without.p50 + own, low=without.low + own / 2, high=without.high + own)


def _filler_evidence(picture: Picture, waited: Waited) -> Iterator[Evidence]:
    """Who fills the queue, and on which file."""
    for filler in waited.fillers[:MAX_FILLERS]:
        who = picture.objects.thread_name(filler.pid) if filler.pid is not None else "kernel threads"
        files = f" on {filler.path}" if filler.path else f" on {filler.files} files" if filler.files else ""
        more = f" and {filler.files - 1} more files" if filler.path and filler.files > 1 else ""
        yield Evidence(
            fact=f"in the queue: {who}{files}{more}, {format_count(filler.requests)} requests, of the waits",
            value=round(filler.ns / max(1.0, waited.queued_ns), 4), unit="share", threshold=None, source="blocks",
        )  # fmt: skip


@rule(
    id="disk.slow-device",
    title="The device itself takes long",
    needs=(BLOCKS,),
    fixes=(),
    fires=(Lab("disk-slow"), Lab("async-io"), Lab("page-faults")),
    silent=(
        Lab("disk-slow-healthy"),
        Lab("async-io-healthy"),
        Lab("page-faults-healthy"),
        Lab("io-limit"),
        Lab("disk-saturated"),
        Lab("redis-slow-healthy"),
        Lab("word-pop-cached"),
    ),
)
def slow_device(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for a block device, at least half of it while the device works on its request.

    Why it slows you: each request takes the device this long, even with nothing before it.

    How sure: as for `disk.saturated`. Where a limit of a control group on this very device is in force and the device
    is idle meanwhile, that is `disk.cgroup-throttle`; a limit below a stacked device makes the device itself slow.

    What to do: a faster device, or fewer requests that somebody waits for.
    """
    for wait in picture.device_waits:
        if not wait.queues and not (wait.finds_it_idle and limits_on(picture, wait.device)):
            yield Finding(
                moments=wait.moments, nearness=Nearness.DEVICE, pid=None, tid=None, on=On(device=wait.device),
                evidence=tuple(device_evidence(wait)), confidence=0.85,
                predicted=predict.at_a_sound_device(picture, wait.moments, wait.count),
            )  # fmt: skip
