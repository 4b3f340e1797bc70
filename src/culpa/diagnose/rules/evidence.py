"""Facts that several rules state: calls counted in the blamed time, parts of it, code lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.diagnose import summed
from culpa.diagnose.code import CodeLine
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.rules.crews import crews
from culpa.diagnose.runqueue import Occupant
from culpa.diagnose.verdict import Evidence
from culpa.model.kinds import NONE, Kind
from culpa.syscalls import Numbers
from culpa.units import NS_PER_SECOND

SHOWN = 3
"""Processes that had the CPUs: so many are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """System calls behind nodes of the blame tree: how many, how long in all (ns), their name."""

    count: int
    ns: int
    name: str


def calls_behind(picture: Picture, nodes: list[int]) -> Calls | None:
    """The distinct calls that cover the nodes' time; None where waits were sampled."""
    if picture.seen == "sums":
        found = summed.calls_behind(picture.blame, nodes)
        return None if found is None else Calls(count=found[0], ns=found[1], name=found[2])
    if picture.graph is None:
        return None
    rows = np.unique(picture.blame.inside(*nodes).call)
    rows = rows[rows != NONE]
    if len(rows) == 0:
        return None
    window = picture.capture.manifest.window
    calls = picture.graph.calls[rows.tolist()]
    lengths = calls["exit_ns"].fill_null(window.end_ns) - calls["enter_ns"].fill_null(window.start_ns)
    number = calls["nr"].mode().sort()[0]
    return Calls(
        count=len(rows), ns=int(lengths.sum()), name=Numbers(picture.capture.manifest.host.machine).name(int(number))
    )


def seconds(ns: float) -> float:
    """Nanoseconds as the verdict's seconds, to the microsecond."""
    return round(ns / NS_PER_SECOND, 6)


def had_the_cpu(picture: Picture, occupants: Sequence[Occupant]) -> Iterator[Evidence]:
    """Who had it while others waited for it: the first few of them."""
    for occupant in occupants[:SHOWN]:
        name = picture.objects.process(occupant.pid).comm or "process"
        fact = f"the CPU was with {name}[{occupant.pid}]"
        yield Evidence(fact=fact, value=seconds(occupant.ns), unit="s", threshold=None, source="offcpu: prev_tid")


def lasted(picture: Picture, fact: str, nodes: list[int], *, threshold: float | None = None) -> Evidence:
    """How long something was so (s): the nodes' time, each moment counted once."""
    value = seconds(picture.moments(*nodes).ns)
    return Evidence(fact=fact, value=value, unit="s", threshold=threshold, source=waits_source(picture))


def part(picture: Picture, nodes: list[int], kind: Kind, stage: str | None = None) -> int:
    """Time below the nodes that lies in nodes of one kind (and stage), each moment counted once."""
    below = {n for node in nodes for n in picture.blame.under(node, kind)}
    wanted = [n for n in below if stage is None or getattr(picture.blame.nodes[n].on, "stage", None) == stage]
    return picture.moments(*wanted).ns if wanted else 0


def names_below(picture: Picture, nodes: list[int], kind: Kind) -> list[str]:
    """Devices or threads that nodes of this kind below the nodes are about, largest first."""
    below = sorted(
        {n for node in nodes for n in picture.blame.under(node, kind)}, key=lambda n: -picture.blame.nodes[n].ns
    )
    names = []
    for n in below:
        on = picture.blame.nodes[n].on
        who = picture.blame.nodes[n].who
        kernel = who in picture.objects.kernel_tids
        name = on.device if kind is Kind.DEVICE and on else picture.objects.thread_name(who) if kernel else None
        if name and name not in names:
            names.append(name)
    return names


def journal_and_device(picture: Picture, nodes: list[int]) -> Iterator[Evidence]:
    """How much of the nodes' time was spent on the file system's journal, and how much at a device."""
    for kind, words in ((Kind.JOURNAL, "of it, waiting for the journal"), (Kind.DEVICE, "of it, at the device")):
        time = part(picture, nodes, kind)
        if time:
            fact = f"{words} ({', '.join(names_below(picture, nodes, kind)[:2])})"
            yield Evidence(fact=fact, value=seconds(time), unit="s", threshold=None, source="offcpu, blocks")


def waited_for(picture: Picture, waits: Moments) -> Iterator[Evidence]:
    """What calls on files waited for in the kernel, of these waits of theirs."""
    for words, nodes in (
        ("until dirty pages were written back", picture.nodes(Kind.THROTTLE)),
        ("for the journal", picture.nodes(Kind.JOURNAL)),
        ("for the device", picture.nodes(Kind.DEVICE)),
    ):
        common = waits.common(picture.moments(*nodes)) if nodes else 0
        if common:
            fact = f"of the waiting, {words}"
            yield Evidence(fact=fact, value=seconds(common), unit="s", threshold=None, source="offcpu, stacks")


def code_evidence(line: CodeLine) -> Evidence:
    """The code line, or the function where no line is known, as a fact, with its callers."""
    callers = "".join(f" < {caller}" for caller in line.callers)
    place = line.place if line.line is not None else line.place.removeprefix("function ")
    told = _TOLD.get(line.source)
    return Evidence(
        fact="code line" if line.line is not None else "function",
        value=place + callers,
        unit="",
        threshold=None,
        source=f"code: {line.samples} of {line.of} stack samples{f', {told}' if told else ''}",
    )


_TOLD = {
    "symbols": "named by the program's symbols",
    "lines": "named by the program's debug information",
    "jit": "named by its perf map, with the line where the function begins",
}


def waits_source(picture: Picture) -> str:
    """Where the waits were read from, in a few words."""
    return {"events": "offcpu and syscalls", "samples": "samples of /proc", "sums": "sums"}[picture.seen]


def threads_of(picture: Picture, nodes: list[int]) -> dict[int, Moments]:
    """The threads that the nodes are about, and when."""
    by_thread: dict[int, list[int]] = defaultdict(list)
    for node in nodes:
        by_thread[picture.blame.nodes[node].who].append(node)
    return {tid: picture.moments(*mine) for tid, mine in sorted(by_thread.items())}


def items_of(rows: pl.DataFrame) -> int:
    """How many root items the exchanges belong to, at least 1."""
    return max(1, rows["item"].n_unique())


def of_finished(picture: Picture, rows: pl.DataFrame) -> pl.DataFrame:
    """The exchanges of requests that were finished, whose counts are whole; all of them where none was."""
    done = picture.root.requests.filter(pl.col("done"))["item"].unique().implode()
    finished = rows.filter(pl.col("item").is_in(done))
    return rows if finished.is_empty() else finished


_DOING: dict[Kind, str] = {
    Kind.RUNNING: "running", Kind.RUNNABLE: "waiting for a CPU", Kind.IO: "in file I/O", Kind.FSYNC: "syncing a file",
    Kind.SLEEP: "asleep by choice", Kind.PEER: "waiting for another thread or process",
    Kind.REMOTE: "waiting for another host", Kind.QUEUED: "waiting for an answer", Kind.DEVICE: "waiting for a device",
    Kind.FAULT: "in a page fault", Kind.STOPPED: "stopped", Kind.UNEXPLAINED: "in a wait that is not explained",
}  # fmt: skip
MAX_ACTIVITIES = 3
"""Things done meanwhile: so many are told."""
MIN_ACTIVITY = 0.05
"""Of the time in question; less is not worth a line."""


def activities(picture: Picture, nodes: list[int]) -> list[tuple[str, list[int]]]:
    """What the threads that these nodes are about did meanwhile, largest first: words and the nodes of each."""
    found: dict[str, list[int]] = defaultdict(list)
    for child in (child for node in nodes for child in picture.blame.nodes[node].children):
        words = _DOING.get(picture.blame.nodes[child].kind)
        if words is not None:
            found[words].append(child)
    whole = picture.moments(*nodes).ns
    ordered = sorted(found.items(), key=lambda entry: (-picture.moments(*entry[1]).ns, entry[0]))
    return [entry for entry in ordered if picture.moments(*entry[1]).ns >= MIN_ACTIVITY * whole][:MAX_ACTIVITIES]


def without_run_queue(picture: Picture, nodes: list[int]) -> int:
    """Time of the nodes in which the thread they lead to did not merely queue for a CPU."""
    return picture.moments(*nodes).ns - part(picture, nodes, Kind.RUNNABLE)


def own_work(picture: Picture, groups: Iterable[list[int]]) -> Iterator[list[int]]:
    """Of each group those nodes that do not lie below a wait for a lock, or for a server thread that serves another
    request: what is done there is not done for this request, and the wait is the cause.
    """
    servers, blamed = {tid for crew in crews(picture) for tid in crew.tids}, picture.blame.nodes

    def is_wait_for_others(node: int) -> bool:
        on = blamed[node].on
        return blamed[node].kind is Kind.LOCK or (
            on is not None and on.behind is not None and blamed[node].who in servers
        )

    for nodes in groups:
        yield [n for n in nodes if not any(is_wait_for_others(above) for above in picture.blame.path(n)[:-1])]
