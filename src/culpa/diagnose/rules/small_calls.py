"""Programs that move a few bytes at a time to or from a file."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from culpa.capture.schema import SYSCALLS
from culpa.diagnose import smallcalls
from culpa.diagnose.code import line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import code_evidence, seconds
from culpa.diagnose.smallcalls import Habit
from culpa.diagnose.verdict import Evidence, Fix, On, Predicted
from culpa.units import NS_PER_SECOND, format_count

BUFFER_BYTES = 64 << 10
"""A buffer of this size makes the calls too few to matter."""


@rule(
    id="app.io.small-writes",
    title="It writes a file a few bytes at a time",
    needs=(SYSCALLS,),
    fixes=("app-buffer-writes",),
    fires=(Lab("small-writes"),),
    silent=(Lab("small-writes-healthy"), Lab("small-reads"), Lab("node-sync-healthy"), Lab("sync-open")),
)
def small_writes(picture: Picture) -> Iterator[Finding]:
    """What it detects: within a request a process makes a thousand or more writes of at most a kilobyte to a file.

    Why it slows you: each call costs a way into the kernel and back, and a look at the file's place, whatever it moves.

    How sure: the calls are counted and their time is measured one by one. It fires only if 15 % of the request's
    time lie in the calls themselves; what they wait for (a disk, the journal) is left out and has other causes. What
    the program does between two calls counts for a microsecond at most.

    What to do: collect what is written in a buffer, and hand it over some ten thousand bytes at a time.
    """
    for habit in picture.habits["write"]:
        fix = Fix(
            id="app-buffer-writes",
            change="collect what is written in a buffer of some ten thousand bytes, and write that",
            reversible=True,
            risk="what is still in the buffer is lost if the program dies, and seen late by whoever reads the file",
        )
        yield _finding(picture, habit, fix)


@rule(
    id="app.io.small-reads",
    title="It reads a file a few bytes at a time",
    needs=(SYSCALLS,),
    fixes=("app-buffer-reads",),
    fires=(Lab("small-reads"),),
    silent=(Lab("small-reads-healthy"), Lab("small-writes"), Lab("word-pop-cached")),
)
def small_reads(picture: Picture) -> Iterator[Finding]:
    """What it detects: within a request a process makes a thousand or more reads that ask for at most a kilobyte of a
    file.

    Why it slows you: each call costs a way into the kernel and back, whatever it moves.

    How sure: as for `app.io.small-writes`. A call that asks for more and gets little is not counted: the file has no
    more.

    What to do: read some ten thousand bytes at a time, or map the file; in a shell, let one program read the file
    instead of a loop around `read`.
    """
    for habit in picture.habits["read"]:
        fix = Fix(
            id="app-buffer-reads",
            change="read some ten thousand bytes at a time into a buffer, or map the file",
            reversible=True,
            risk="none to speak of: memory for the buffer",
        )
        yield _finding(picture, habit, fix)


def _finding(picture: Picture, habit: Habit, fix: Fix) -> Finding:
    requests = picture.request_count if picture.has_price else 1
    each = " a request" if picture.has_price else ""
    who = picture.objects.thread_name(habit.tid)
    verb = "writes to" if habit.operation == "write" else "reads of"
    source = "syscalls" if picture.seen == "events" else "sums"
    line = line_of(picture, habit.by_thread)
    evidence = [
        Evidence(
            fact=f"{who}: {format_count(habit.count / requests)} {verb} {habit.pattern}{each}, in the calls themselves",
            value=seconds(habit.inside.ns), unit="s", threshold=seconds(smallcalls.MIN_SHARE * picture.root.ns),
            source=source,
        ),
        Evidence(
            fact="with what lies between two of them", value=seconds(habit.spent.ns), unit="s", threshold=None,
            source=source,
        ),
        *_sizes(habit, requests, each),
    ]  # fmt: skip
    if line is not None:
        evidence.append(code_evidence(line))
    return Finding(
        moments=habit.spent, nearness=Nearness.CODE, pid=habit.pid, tid=habit.tid,
        on=On(path=habit.pattern, code=line.place if line else None), evidence=tuple(evidence), confidence=0.9,
        predicted=_buffered(picture, habit), fixes=(fix,),
    )  # fmt: skip


def _sizes(habit: Habit, requests: int, each: str) -> Iterator[Evidence]:
    """What the calls moved, where that is known, and how few would have done."""
    if habit.bytes is not None:
        yield Evidence(
            fact="bytes a call, in the mean", value=round(habit.bytes / habit.count, 1), unit="B",
            threshold=smallcalls.SMALL_BYTES, source="syscalls",
        )  # fmt: skip
        fact, enough = f"calls{each} that would do, of 64 KiB each", -(-habit.bytes // (requests * BUFFER_BYTES))
        yield Evidence(fact=fact, value=enough, unit="calls", threshold=None, source="syscalls")


def _buffered(picture: Picture, habit: Habit) -> Predicted | None:
    """What a request would take with its calls buffered: at most without the calls themselves, at least without what
    lies between them either. The likely value lies between, on a log scale.
    """
    if not picture.has_price or picture.typical_ns is None or not picture.root.ns:
        return None
    whole = picture.typical_ns
    high = max(whole * (1 - picture.share(habit.inside.ns)), 1.0)
    low = min(max(whole * (1 - picture.share(habit.spent.ns)), 1.0), high)
    return Predicted(p50=sqrt(low * high) / NS_PER_SECOND, low=low / NS_PER_SECOND, high=high / NS_PER_SECOND)
