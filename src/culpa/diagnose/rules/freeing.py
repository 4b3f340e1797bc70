"""Calls that give back the space of large files while somebody waits for them."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from culpa.capture.schema import FREED, SYSCALLS
from culpa.diagnose import freeing, pathpattern
from culpa.diagnose.code import line_of, sampled_threads
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.freeing import Freeing
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import code_evidence, seconds, waited_for
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import format_count


@rule(
    id="fs.unlink-big-file",
    title="Deleting a large file holds it up",
    needs=(SYSCALLS, FREED),
    fixes=("fs-delete-in-background",),
    fires=(Lab("unlink-big-file"),),
    silent=(Lab("unlink-big-file-healthy"), Lab("word-pop-healthy"), Lab("logapp-healthy"), Lab("journal-wait")),
)
def unlink_big_file(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits in unlink, rename, close, ftruncate or open, and the call gives back the space
    of a large file: the last name goes and nobody has it open, the last descriptor of a deleted one is closed, a rename
    puts another in its place, or it is cut.

    Why it slows you: the call returns only when all of the file is freed: its pages in memory, then its blocks, extent
    by extent, through the journal. What lists the extents is read from the disk first if it is not in memory.

    How sure: the kernel tells each file that is let go of, with its size and the thread that does it; the time is that
    from this moment to the end of the call. What a call waits for before (the lock of a folder, a commit) is left out.
    Only ext4, btrfs and f2fs tell it; XFS frees files in the background by itself. Before Linux 6.6 the last close
    frees a file after the call has ended, which is missed.

    What to do: let a thread that nobody waits for delete it. Where the program cannot be changed: give the file a
    second name (a hard link) before the program deletes the first, and cut it through that name step by step.
    """
    for one in picture.freeings:
        yield _finding(picture, one)


def _finding(picture: Picture, found: Freeing) -> Finding:
    calls, rows = picture.file_calls, found.rows
    assert calls is not None
    pid, tid = calls.busiest(rows)
    who = picture.objects.thread_name(tid)
    line = line_of(picture, calls.by_thread(rows, sampled_threads(picture)))
    name = picture.call_name(int(rows["nr"].mode().sort()[0]))
    path = _path(picture, rows)
    evidence = [
        Evidence(
            fact=f"{who} in {format_count(len(rows))} calls of {name} that free large files",
            value=seconds(found.moments.ns), unit="s", threshold=seconds(freeing.MIN_SHARE * picture.root.ns),
            source="freed, syscalls",
        ),
        Evidence(fact="of it, waiting", value=seconds(found.waits.ns), unit="s", threshold=None, source="offcpu"),
        *waited_for(picture, found.waits),
        Evidence(
            fact="space given back by them", value=int(rows["freed"].sum()), unit="B", threshold=None, source="freed",
        ),
        Evidence(
            fact="by the largest", value=int(str(rows["freed"].max())), unit="B", threshold=freeing.LARGE_BYTES,
            source="freed",
        ),
    ]  # fmt: skip
    if line is not None:
        evidence.append(code_evidence(line))
    return Finding(
        moments=found.moments, nearness=Nearness.CODE, pid=pid, tid=tid,
        on=On(path=path, syscall=name, code=line.place if line else None), evidence=tuple(evidence), confidence=0.92,
        title=None if name.startswith("unlink") else f"Freeing a large file in {name} holds it up", fixes=(_FIX,),
    )  # fmt: skip


def _path(picture: Picture, rows: pl.DataFrame) -> str | None:
    """What was deleted: the pattern of most of the paths, where these are known."""
    files = rows.select("freed_dev", "freed_ino").iter_rows()
    paths = [path for dev, ino in files if (path := picture.objects.file(dev, ino)).startswith("/")]
    if not paths:
        return None
    names = pathpattern.patterns(paths) if len(set(paths)) > 1 else {paths[0]: paths[0]}
    return str(pl.Series([names[path] for path in paths]).mode().sort()[0])


_FIX = Fix(
    id="fs-delete-in-background",
    change="let a thread or process that nobody waits for delete it, or cut it in steps of some ten megabytes with "
    "pauses between (truncate), then delete it; a hard link made before keeps the file until that is done",
    reversible=True,
    risk="its space is free later",
)
