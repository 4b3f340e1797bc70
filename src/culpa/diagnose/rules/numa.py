"""Computing on one NUMA node with memory that lies on another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import polars as pl

from culpa.capture.schema import COUNTERS, OFFCPU
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import own_work, seconds
from culpa.diagnose.verdict import Evidence, Fix, Predicted
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND, format_bytes, format_share

KILOBYTE = 1024
MIN_SHARE = 0.3
"""Of the root's time, spent on a CPU: less computing gains little from nearer memory."""
FAR_PART = 0.75
"""Of its memory, as seen from the CPUs that it ran on. Spread evenly over two nodes it is half, wherever it runs."""
HELD_LEAST = 256 << 20
"""Less than this the caches of a socket hold much of."""
NEAR_COST = 0.5
"""Of the time on a CPU: what is left of it at best. An access to another socket takes up to twice as long."""


@rule(
    id="cpu.numa-remote",
    title="It computes on one NUMA node, and most of its memory lies on another",
    needs=(OFFCPU, COUNTERS),
    fixes=("cpu-near-memory",),
    fires=(),
    silent=(Lab("cpu-busy"), Lab("cpu-pinned"), Lab("cpu-runqueue")),
    unmade="it takes a host of several NUMA nodes",
)
def remote(picture: Picture) -> Iterator[Finding]:
    """What it detects: for three tenths of the time or more a process of the target computes, and three quarters of
    its memory lie on NUMA nodes other than those of the CPUs that it ran on.

    Why it slows you: each miss of the caches then goes over the link between the sockets, and takes up to twice as
    long. Memory stays where it was first touched, and the scheduler moves the threads.

    How sure: where the memory lies is read once, at the end (/proc/PID/numa_maps, of the four largest processes of the
    target, none above 8 GiB); on which CPUs it computed is measured at each switch. How much of the computing waits for
    memory is not measured, so this is never more than a note, with a range that begins at nothing.

    What to do: run it where its memory is, or move the memory to where it runs.
    """
    if picture.is_checkup:
        raise Unseen("of a server that is examined redis.cpu.numa looks at that")
    places = _node_of_cpu(picture)
    if len(set(places.values())) < 2:
        return
    for pid, nodes in _computing(picture).items():
        moments, held = picture.moments(*nodes), _held(picture, pid)
        ran = _ran_on(picture, pid, places)
        whole, computed = sum(held.values()), sum(ran.values())
        if picture.share(moments.ns) < MIN_SHARE or whole < HELD_LEAST or not computed:
            continue
        far = sum(size * (1 - ran.get(node, 0) / computed) for node, size in held.items()) / whole
        if far < FAR_PART:
            continue
        yield Finding(
            moments=moments, nearness=Nearness.SETTING, pid=pid, tid=None, on=None,
            evidence=tuple(_evidence(picture, pid, moments.ns, held, ran, far)), confidence=0.5,
            fixes=(_nearer(pid, held, ran),), predicted=_predicted(picture, moments.ns), only_note=True,
        )  # fmt: skip


def _computing(picture: Picture) -> Mapping[int, list[int]]:
    """What each process of the target does on a CPU for the request."""
    own, found = picture.capture.manifest.target.pids, defaultdict[int, list[int]](list)
    (nodes,) = own_work(picture, [picture.nodes(Kind.RUNNING)])
    for node in nodes:
        who = picture.blame.nodes[node].who
        pid = picture.objects.pid_of.get(who, who)
        if pid in own:
            found[pid].append(node)
    return found


def _node_of_cpu(picture: Picture) -> dict[int, int]:
    rows = picture.capture.frame(COUNTERS).filter((pl.col("field") == "node") & pl.col("source").str.ends_with("/node"))
    rows = rows.select(pl.col("object").str.strip_prefix("cpu").cast(pl.Int64, strict=False), "value").drop_nulls()
    return {int(cpu): int(node) for cpu, node in rows.iter_rows()}


def _held(picture: Picture, pid: int) -> dict[int, float]:
    """Bytes of the process on each node, as read last."""
    rows = picture.capture.frame(COUNTERS).filter(
        (pl.col("source") == f"/proc/{pid}/numa_maps") & (pl.col("field") == "held_kb")
    )
    rows = rows.sort("ts_ns").select(
        pl.col("object").str.strip_prefix("node").cast(pl.Int64, strict=False), pl.col("value") * KILOBYTE
    )
    return {int(node): float(held) for node, held in rows.drop_nulls().iter_rows()}


def _ran_on(picture: Picture, pid: int, places: Mapping[int, int]) -> dict[int, int]:
    """For how long its threads ran on each node's CPUs, between their switches; ns."""
    rows = picture.capture.frame(OFFCPU).filter(pl.col("pid") == pid).sort("tid", "off_ns")
    rows = rows.with_columns(ran_ns=pl.col("off_ns") - pl.col("on_ns").shift(1).over("tid"))
    ran: dict[int, int] = defaultdict(int)
    for cpu, ran_ns in rows.select("cpu", "ran_ns").drop_nulls().filter(pl.col("ran_ns") > 0).iter_rows():
        if cpu in places:
            ran[places[cpu]] += ran_ns
    return ran


def _evidence(
    picture: Picture, pid: int, ns: int, held: Mapping[int, float], ran: Mapping[int, int], far: float
) -> Iterator[Evidence]:
    yield Evidence(
        fact=f"{picture.objects.thread_name(pid)} on a CPU", value=seconds(ns), unit="s",
        threshold=seconds(MIN_SHARE * picture.root.ns), source="offcpu",
    )  # fmt: skip
    lies = ", ".join(f"node{node} {format_bytes(int(size))}" for node, size in sorted(held.items()) if size)
    yield Evidence(
        fact="its memory lies on", value=lies, unit="", threshold=None, source=f"/proc/{pid}/numa_maps"
    )  # fmt: skip
    computed = sum(ran.values())
    where = ", ".join(f"node{node} {format_share(ns / computed)}" for node, ns in sorted(ran.items()))
    yield Evidence(fact="it ran on the CPUs of", value=where, unit="", threshold=None, source="offcpu")
    yield Evidence(
        fact="of its memory, on other nodes than it ran on", value=format_share(far), unit="",
        threshold=format_share(FAR_PART), source="numa_maps and offcpu",
    )  # fmt: skip


def _nearer(pid: int, held: Mapping[int, float], ran: Mapping[int, int]) -> Fix:
    memory, cpus = max(held, key=lambda node: held[node]), max(ran, key=lambda node: ran[node])
    return Fix(
        id="cpu-near-memory",
        change=f"run it on the CPUs of node{memory} (lscpu lists them; taskset -acp CPUS {pid}), or move its memory: "
        f"migratepages {pid} {memory} {cpus}",
        reversible=True,
        risk="none for the data; moving memory takes a moment",
    )


def _predicted(picture: Picture, ns: int) -> Predicted | None:
    """From as it is to half of the computing less: which of it waits for memory is not measured."""
    if not picture.has_price or picture.typical_ns is None:
        return None
    typical = picture.typical_ns / NS_PER_SECOND
    least = typical - NEAR_COST * ns / picture.request_count / NS_PER_SECOND
    return Predicted(p50=(typical + least) / 2, low=min(least, typical), high=typical)
