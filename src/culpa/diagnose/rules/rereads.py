"""Programs that read again what they have read before."""

from __future__ import annotations

from collections.abc import Iterator

from culpa.capture.schema import SYSCALLS
from culpa.diagnose import rereads
from culpa.diagnose.code import line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rereads import Rereading
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import code_evidence, seconds
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import format_count


@rule(
    id="app.io.rereads",
    title="It reads the same parts of a file again and again",
    needs=(SYSCALLS,),
    fixes=("app-keep-file-in-memory",),
    fires=(Lab("rereads"),),
    silent=(Lab("rereads-healthy"), Lab("small-reads"), Lab("word-pop"), Lab("word-pop-cached")),
)
def reads_again(picture: Picture) -> Iterator[Finding]:
    """What it detects: within a request a process reads each part of a file ten times or more, and a tenth of the
    request's time goes to reading what it has had before.

    Why it slows you: even what the page cache holds is copied anew by each read; what it does not hold (or may not, for
    a file opened with O_DIRECT) is fetched from the disk again.

    How sure: where each read begins is followed from the file's opening, through each read and lseek. Of reads that
    carry their place themselves (pread) that is not known: they count where ten times more is read than the file is
    long. A file that anybody writes meanwhile is left out, and so are those of /proc and /sys: there is something new
    to be read.

    What to do: read the file once in a request, or once and for all, and keep it in memory; or map it.
    """
    for entry in picture.rereadings:
        yield _finding(picture, entry)


def _finding(picture: Picture, entry: Rereading) -> Finding:
    requests = picture.request_count if picture.has_price else 1
    each = " a request" if picture.has_price else ""
    line = line_of(picture, entry.by_thread)
    evidence = [
        Evidence(
            fact=f"{picture.objects.thread_name(entry.tid)} in calls that read {entry.path} again",
            value=seconds(entry.moments.ns), unit="s", threshold=seconds(rereads.MIN_SHARE * picture.root.ns),
            source="syscalls",
        ),
        Evidence(fact="of it, waiting", value=seconds(entry.waits.ns), unit="s", threshold=None, source="offcpu"),
        Evidence(
            fact=f"each part of it is read{each}", value=round(entry.times, 1), unit="times",
            threshold=rereads.MIN_TIMES, source="syscalls",
        ),
        Evidence(
            fact=f"read{each} by {format_count(entry.calls / requests)} calls", value=entry.bytes // requests, unit="B",
            threshold=None, source="syscalls",
        ),
        Evidence(
            fact=f"of it for the first time{each}", value=entry.new // requests, unit="B",
            threshold=None, source="syscalls",
        ),
    ]  # fmt: skip
    if line is not None:
        evidence.append(code_evidence(line))
    return Finding(
        moments=entry.moments, nearness=Nearness.CODE, pid=entry.pid, tid=entry.tid,
        on=On(path=entry.path, code=line.place if line else None), evidence=tuple(evidence), confidence=0.9,
        fixes=(
            Fix(
                id="app-keep-file-in-memory",
                change="read the file once and keep what is needed of it in memory, or map it",
                reversible=True, risk="memory for it; a change of the file is seen when it is read next",
            ),
        ),
    )  # fmt: skip
