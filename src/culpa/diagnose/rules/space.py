"""File systems without room."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from culpa.capture.schema import SYSCALLS
from culpa.diagnose import nospace
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.nospace import EDQUOT, FileSystem
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.verdict import Evidence, On
from culpa.units import format_count

MIN_SHARE = 0.1
"""Of the root's time: from here on the time is told, below it the danger to the data alone."""


@rule(
    id="fs.full",
    title="The file system is full",
    needs=(SYSCALLS,),
    fixes=(),
    fires=(Lab("disk-full"),),
    silent=(Lab("disk-full-healthy"), Lab("word-pop"), Lab("fsync-loop"), Lab("herring-full")),
)
def full(picture: Picture) -> Iterator[Finding]:
    """What it detects: a process on the request's chain writes, or makes a file, and the kernel refuses because there
    is no space left, or no inodes, or because a quota is used up.

    Why it slows you: what was to be kept is not kept. A program that tries again waits for room that nobody makes; the
    time from one refusal to the next within a request is counted here.

    How sure: the refusals are results of the calls themselves (ENOSPC, EDQUOT), and statvfs says what is left at the
    end. A file system that is nearly full and refuses nothing is no cause. Without tracing, results of calls are not
    seen.

    What to do: `df -h PATH` and `df -i PATH` show which of the two is used up; delete or move what is not needed (`du
    -xsh`), or make the file system larger. Space of a deleted file that is still open comes back only when it is
    closed (`lsof +L1`).
    """
    if picture.graph is None:
        raise Unseen("results of system calls are seen by tracing only")
    calls = nospace.refused(picture)
    systems = nospace.file_systems(picture)
    on_file = calls.with_columns(
        dev=pl.when(pl.col("file_type").is_in(["reg", "dir"]).fill_null(value=False)).then("dev")
    )
    for (pid, dev), mine in on_file.group_by("pid", "dev", maintain_order=True):
        system = nospace.holding(systems, None if dev is None else int(str(dev)))
        yield _finding(picture, int(str(pid)), mine, system)


def _finding(picture: Picture, pid: int, calls: pl.DataFrame, system: FileSystem | None) -> Finding:
    moments = nospace.in_vain(picture, calls)
    tid = int(calls["tid"].mode().sort()[0])
    path = _path(picture, calls) or (system.point if system else None)
    return Finding(
        moments=moments,
        nearness=Nearness.LIMIT,
        pid=pid,
        tid=tid,
        on=On(path=path),
        evidence=tuple(_evidence(picture, tid, calls, system, seconds(moments.ns))),
        confidence=0.95 if system is not None and system.is_full else 0.85,
        kind="slowness" if picture.share(moments.ns) >= MIN_SHARE else "risk",
        title="The quota is used up" if (calls["ret"] == -EDQUOT).all() else None,
    )


def _path(picture: Picture, calls: pl.DataFrame) -> str | None:
    """The file of most of the refused calls, where they name one."""
    files = calls.filter(pl.col("file_type") == "reg").drop_nulls(["dev", "ino"]).group_by("dev", "ino").len()
    if files.is_empty():
        return None
    dev, ino, _ = files.sort("len", "ino", descending=[True, False]).row(0)
    return picture.objects.file(dev, ino)


def _evidence(
    picture: Picture, tid: int, calls: pl.DataFrame, system: FileSystem | None, lost_s: float
) -> Iterator[Evidence]:
    names = calls.group_by("nr").len().sort("len", "nr", descending=[True, False])["nr"].to_list()
    told = ", ".join(picture.call_name(nr) for nr in names[:3])
    reason = "the quota is used up" if (calls["ret"] == -EDQUOT).all() else "no space left"
    yield Evidence(
        fact=f"calls of {picture.objects.thread_name(tid)} that were refused, {reason} ({told})", value=len(calls),
        unit="", threshold=1, source="syscalls",
    )  # fmt: skip
    if lost_s:
        fact = "time in them, and from one to the next within a request"
        yield Evidence(fact=fact, value=lost_s, unit="s", threshold=None, source="syscalls, offcpu")
    if system is not None:
        place = f"left on {system.point}, of {format_count(system.bytes / 1e6)} MB"
        yield Evidence(fact=place, value=system.available_bytes, unit="B", threshold=0, source="statvfs")
        if system.inodes:
            place = f"inodes left there, of {format_count(system.inodes)}"
            yield Evidence(fact=place, value=system.free_inodes, unit="", threshold=0, source="statvfs")
