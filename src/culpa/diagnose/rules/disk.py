"""Waits for disks and file systems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

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
from culpa.model.kinds import Kind
from culpa.units import format_count

MIN_SYNCS = 10
"""Syncs in one window from which they are a habit and not a shutdown or a checkpoint."""


@rule(
    id="disk.fsync-heavy",
    title="One process syncs small pieces to disk again and again",
    needs=(),
    fixes=("app-sync-less-often",),
    fires=(Lab("fsync-loop"),),
    silent=(Lab("redis-slow-healthy"),),
)
def fsync_heavy(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits in fsync or fdatasync of one process, many times.

    Why it slows you: every sync waits for the file system's journal and for the device to flush its cache.

    How sure: the waits are measured inside those calls on that file. Redis' append-only file under `appendfsync
    always` has a cause of its own and is left out here.

    What to do: sync once for many writes (group commit, one transaction for a batch), or use a device with a protected
    write cache.
    """
    found: dict[tuple[int, str], list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.FSYNC):
        blamed = picture.blame.nodes[node]
        pid = picture.objects.pid_of.get(blamed.who, blamed.who)
        if blamed.on is None or (pid in picture.redis_pids and blamed.who == pid):
            continue
        found[pid, blamed.on.path or blamed.on.syscall or "?"].append(node)
    for (pid, path), nodes in found.items():
        calls = calls_behind(picture, nodes)
        count = calls.count if calls else len(picture.blame.inside(*nodes).item)
        if count < MIN_SYNCS:
            continue
        moments = picture.moments(*nodes)
        line = line_of(picture, threads_of(picture, nodes), moments)
        who = picture.objects.thread_name(picture.blame.nodes[nodes[0]].who)
        mean = f" x {calls.ns / calls.count / 1e6:.3g} ms" if calls else ""
        unit = f"{format_count(count)} calls{mean}" if calls else f"{count} samples"
        evidence = [
            Evidence(
                fact=f"{who} in {calls.name if calls else 'fsync'}: {unit}",
                value=seconds(moments.ns),
                unit="s",
                threshold=MIN_SYNCS,
                source=waits_source(picture),
            ),
            Evidence(fact="file", value=path, unit="", threshold=None, source="files"),
        ]
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
