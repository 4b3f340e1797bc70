"""Waits for disks and file systems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import polars as pl

from culpa.capture.schema import BLOCKS
from culpa.diagnose.code import line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import (
    calls_behind,
    code_evidence,
    names_below,
    part,
    seconds,
    threads_of,
    waits_source,
)
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kernelwaits import QUEUE
from culpa.model.kinds import Kind
from culpa.units import format_count

MIN_DEVICE_SHARE = 0.1
MIN_SYNCS = 10
"""Syncs in one request, or in one window of a process, from which they are a habit and not a commit or a checkpoint."""
SLOW_NS = 500_000
"""Mean time of the waits for a device, queue or service, below which no device is slow: flash answers in less."""


@rule(
    id="disk.fsync-heavy",
    title="One process syncs small pieces to disk again and again",
    needs=(),
    fixes=("app-sync-less-often",),
    fires=(Lab("fsync-loop"),),
    silent=(Lab("fsync-loop-healthy"), Lab("redis-slow-healthy"), Lab("cpu-busy")),
)
def fsync_heavy(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits in fsync or fdatasync of one process, many times.

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
        who = picture.objects.thread_name(picture.blame.nodes[nodes[0]].who)
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
        for kind, words in ((Kind.JOURNAL, "of it, waiting for the journal"), (Kind.DEVICE, "of it, at the device")):
            time = part(picture, nodes, kind)
            if time:
                names = ", ".join(names_below(picture, nodes, kind)[:2])
                evidence.append(
                    Evidence(
                        fact=f"{words} ({names})",
                        value=seconds(time),
                        unit="s",
                        threshold=None,
                        source="offcpu, blocks",
                    )
                )
        if line is not None:
            evidence.append(code_evidence(line))
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=pid,
            tid=picture.blame.nodes[nodes[0]].who,
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


def _device_nodes(picture: Picture) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.DEVICE):
        on = picture.blame.nodes[node].on
        if on is not None and on.device:
            found[on.device].append(node)
    return found


def _device_finding(picture: Picture, device: str, nodes: list[int]) -> Finding:
    """The device's part of the root's time, split into queueing and service, with what one request took."""
    moments = picture.moments(*nodes)
    queue = picture.moments(*[n for n in nodes if getattr(picture.blame.nodes[n].on, "stage", None) == QUEUE]).ns
    evidence = [
        Evidence(fact=f"waited for {device}: queued", value=seconds(queue), unit="s", threshold=None, source="blocks"),
        Evidence(
            fact=f"waited for {device}: being served", value=seconds(moments.ns - queue), unit="s", threshold=None,
            source="blocks",
        ),
    ]  # fmt: skip
    evidence.extend(_service(picture, device))
    return Finding(
        moments=moments, nearness=Nearness.DEVICE, pid=None, tid=None, on=On(device=device), evidence=tuple(evidence),
        confidence=0.85,
    )  # fmt: skip


def _service(picture: Picture, device: str) -> Iterator[Evidence]:
    """Requests that the device finished in the window, and the mean time each spent queued and in service."""
    rows = picture.capture.frame(BLOCKS).drop_nulls(["dev", "issue_ns", "complete_ns"])
    rows = rows.filter(pl.col("dev").map_elements(picture.objects.device, return_dtype=pl.String) == device)
    if rows.is_empty():
        return
    service = (rows["complete_ns"] - rows["issue_ns"]).mean()
    yield Evidence(
        fact=f"{device}: {format_count(len(rows))} requests finished, mean service time",
        value=round(float(str(service)) / 1e6, 4), unit="ms", threshold=None, source="blocks",
    )  # fmt: skip


def _is_slow(picture: Picture, nodes: list[int]) -> bool:
    """The waits for the device matter to the root, and each is longer than a sound device takes."""
    ns = picture.moments(*nodes).ns
    stages: dict[str | None, int] = defaultdict(int)
    for node in nodes:
        stages[getattr(picture.blame.nodes[node].on, "stage", None)] += picture.blame.nodes[node].count
    waits = max(stages.values(), default=0)  # one that queues and is served counts in both
    return picture.share(ns) >= MIN_DEVICE_SHARE and ns / max(1, waits) >= SLOW_NS


def _queues(picture: Picture, nodes: list[int]) -> bool:
    queued = [n for n in nodes if getattr(picture.blame.nodes[n].on, "stage", None) == QUEUE]
    return bool(queued) and picture.moments(*queued).ns > picture.moments(*nodes).ns / 2


@rule(
    id="disk.saturated",
    title="Requests queue for the device",
    needs=(BLOCKS,),
    fixes=(),
    fires=(Lab("redis-slow"),),
    silent=(Lab("redis-slow-healthy"),),
)
def saturated(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for a block device, more than half of it before the device was given the
    request.

    Why it slows you: more is asked of the device than it takes at once, by whomever.

    How sure: each wait is matched with the block request whose completion ended it; time before that request was
    handed to the device is queueing. Utilisation alone proves nothing and is not used.

    What to do: fewer or larger requests, a faster device, or a limit for whoever fills the queue.
    """
    for device, nodes in _device_nodes(picture).items():
        if _queues(picture, nodes) and _is_slow(picture, nodes):
            yield _device_finding(picture, device, nodes)


@rule(
    id="disk.slow-device",
    title="The device itself takes long",
    needs=(BLOCKS,),
    fixes=(),
    fires=(Lab("redis-slow"),),
    silent=(Lab("redis-slow-healthy"),),
)
def slow_device(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for a block device, at least half of it while the device works on its request.

    Why it slows you: each request takes the device this long, even with nothing before it.

    How sure: each wait is matched with the block request whose completion ended it. Whether the device is slow or is
    held back (a limit of a control group, a stacked device) is not told apart here.

    What to do: a faster device, or fewer requests that somebody waits for.
    """
    for device, nodes in _device_nodes(picture).items():
        if not _queues(picture, nodes) and _is_slow(picture, nodes):
            yield _device_finding(picture, device, nodes)
