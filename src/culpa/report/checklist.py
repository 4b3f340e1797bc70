"""The list for a slow Redis, gone through: what is commonly asked, in its order, each with the answer and the figures.

Nine questions to ask when a Redis is slow, the five operations that block it, and what its disk does to it. Takes a
verdict, computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from culpa.diagnose.verdict import Cause, Check, Verdict
from culpa.report import wording
from culpa.report.page import BLANK, Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One entry of the list and the checks that answer it; `advice` is said where one of them fired, and of their
    `figures` so many are shown.
    """

    text: str
    checks: tuple[str, ...]
    advice: str = ""
    figures: int = 3


QUESTIONS: tuple[Question, ...] = (
    Question(
        text="Is it slower than this environment's baseline? (twice the baseline is slow)",
        checks=("redis.cpu.host-latency", "redis.stall.unattributed"),
    ),
    Question(
        text="Are there slow commands?",
        checks=("redis.command.slow", "redis.script.long", "redis.cycle.batch"),
        advice="use SCAN and its kin, sort and intersect in the client; KEYS is not for production",
    ),
    Question(text="Do many keys expire at the same time?", checks=("redis.expire.burst",), figures=5),
    Question(
        text="Are there big keys?",
        checks=("redis.bigkey.read", "redis.bigkey.delete", "redis.reply.large", "redis.hotkey"),
        figures=4,
    ),
    Question(
        text="How is the append-only file written?",
        checks=(
            "redis.aof.fsync-always",
            "redis.aof.write-behind-fsync",
            "redis.aof.write-behind-child",
            "redis.aof.write-slow-disk",
            "redis.aof.dirty-throttle",
            "redis.aof.fsync-late",
            "redis.aof.failing",
            "redis.aof.rewrite-loop",
            "redis.disk.slow",
        ),
    ),
    Question(
        text="Does it use too much memory, and is it swapped?",
        checks=(
            "redis.mem.no-limit",
            "redis.evict.storm",
            "redis.evict.refuse",
            "redis.fork.oom-risk",
            "redis.mem.defrag-stall",
        ),
    ),
    Question(text="Does it run with huge pages?", checks=("redis.fork.thp", "redis.fork.slow")),
    Question(
        text="Does it replicate, and does a replica load a large RDB file?",
        checks=("redis.repl.load-blocks", "redis.repl.down"),
        advice="keep an instance at 2 to 4 GB, so that its RDB file loads fast",
    ),
    Question(
        text="Do cores or NUMA nodes get in its way?",
        checks=(
            "redis.cpu.pinned",
            "redis.cpu.numa",
            "redis.cpu.quota",
            "redis.cpu.starved",
            "redis.cpu.io-threads",
            "redis.cpu.clocksource",
        ),
        advice="bind it to a core with all its logical CPUs, not to one of them: its background threads and its "
        "children need one as well",
    ),
)
BLOCKING: tuple[Question, ...] = (
    Question(
        text="Whole collections read, or aggregated",
        checks=("redis.bigkey.read", "redis.command.slow"),
        advice="cannot be made asynchronous: read in steps (SCAN), aggregate in the client",
    ),
    Question(
        text="A big key deleted",
        checks=("redis.bigkey.delete",),
        advice="asynchronous since 4.0: UNLINK, lazyfree-lazy-user-del",
    ),
    Question(
        text="The database flushed",
        checks=("redis.flush.sync",),
        advice="asynchronous since 4.0: FLUSHALL ASYNC, lazyfree-lazy-user-flush",
    ),
    Question(
        text="The append-only file synced at each write",
        checks=("redis.aof.fsync-always",),
        advice="asynchronous with appendfsync everysec",
    ),
    Question(
        text="A replica loads an RDB file",
        checks=("redis.repl.load-blocks",),
        advice="cannot be made asynchronous: keep the instance at 2 to 4 GB",
    ),
)
DISK: tuple[Question, ...] = (
    Question(
        text="A write put off while a sync runs, and made after 2 s all the same",
        checks=("redis.aof.write-behind-fsync", "redis.aof.fsync-late"),
        advice="a late sync alone delays nobody; a write waits once the journal commits the data that is synced",
    ),
    Question(
        text="A write beside a child that saves or rewrites",
        checks=("redis.aof.write-behind-child",),
        advice="rdb-save-incremental-fsync and aof-rewrite-incremental-fsync yes; save less often or on a replica",
    ),
    Question(
        text="A write to a disk that others load",
        checks=("redis.aof.write-slow-disk",),
        advice="hold the others to a rate, or give the append-only file a disk of its own",
    ),
    Question(
        text="A write that pauses because too much is dirty",
        checks=("redis.aof.dirty-throttle",),
        advice="vm.dirty_background_ratio 5 with vm.dirty_ratio 10 uses little memory, 50 with 80 much, "
        "5 with 80 takes peaks and empties in calm times",
        figures=4,
    ),
    Question(
        text="The end of a rewrite, written by the main thread in one go (up to 6.2)",
        checks=("redis.aof.rewrite-tail",),
        advice="gone with 7.0; before, let the kernel write back early and often (vm.dirty_background_ratio), and "
        "rewrite in quiet hours",
    ),
    Question(
        text="A large file that is renamed over, deleted or closed",
        checks=("redis.aof.rename-unlink",),
        advice="whoever lets go of a file last frees it: close alone writes nothing, and deletes nothing unless the "
        "file was unlinked before",
    ),
    Question(
        text="A disk that is slow by itself, and saves that take long",
        checks=("redis.disk.slow", "redis.rdb.slow"),
        advice="1 to 2 ms is ordinary for a write that is synced",
        figures=4,
    ),
)


def lines(verdict: Verdict) -> Iterator[Line]:
    """The three lists."""
    yield Line(text="The list for a slow Redis", style="head")
    for number, question in enumerate(QUESTIONS, start=1):
        yield from _answered(f"{number}", question, verdict)
    yield BLANK
    yield Line(text="What blocks the main thread", style="head")
    for number, question in enumerate(BLOCKING, start=1):
        yield from _answered(f"{number}", question, verdict)
    yield BLANK
    yield Line(text="What the disk does to it", style="head")
    for number, question in enumerate(DISK, start=1):
        yield from _answered(f"{number}", question, verdict)


def _answered(label: str, question: Question, verdict: Verdict) -> Iterator[Line]:
    checks = [check for id in question.checks for check in verdict.checks if check.id == id]
    causes = [cause for cause in _all(verdict.causes) if cause.id in question.checks]
    yield Line(label=label, text=question.text, tail=_verdict(checks, causes))
    for cause in causes[:2]:
        yield Line(text=f"{wording.sentence(cause.title)} ({cause.id}, {cause.level})", indent=1)
    facts = [fact for check in checks for fact in check.evidence]
    for fact in facts[: question.figures]:
        yield Line(text=wording.fact(fact, source=False), indent=1)
    for check in checks:
        if check.answer == "skipped" and check.why:
            yield Line(text=f"not seen: {wording.sentence(check.why)}", indent=1, style="faint")
    if causes and question.advice:
        yield Line(text=question.advice, indent=1)


def _verdict(checks: list[Check], causes: list[Cause]) -> str:
    """In a word: what was found weighs more than what was cleared, and that more than what was not seen."""
    if any(cause.level != "note" for cause in causes):
        return "yes, and it costs time"
    if any(check.answer == "fired" for check in checks):
        return "worth a note"
    return "no" if any(check.answer == "clear" for check in checks) else "not seen"


def _all(causes: tuple[Cause, ...]) -> Iterator[Cause]:
    for cause in causes:
        yield cause
        yield from _all(cause.because)
