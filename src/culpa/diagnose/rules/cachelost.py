"""Waits for a disk because memory no longer holds what it held."""

from __future__ import annotations

from collections.abc import Iterator

from culpa.capture.schema import BLOCKS, UNCACHED
from culpa.diagnose import cachelost, pathpattern
from culpa.diagnose.cachelost import Lost
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.rules.memorylimits import host_memory, memory_users
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import format_count

MIN_SHARE = 0.1
"""Of the root's time, waiting for what was in memory before."""


@rule(
    id="mem.cache-lost",
    title="What it reads had been in memory, and was taken out of the page cache",
    needs=(BLOCKS, UNCACHED),
    fixes=("mem-keep-cache",),
    fires=(Lab("cache-lost"),),
    silent=(
        Lab("cache-lost-healthy"),
        Lab("cache-cold"),
        Lab("cache-cold-healthy"),
        Lab("rereads"),
        Lab("page-faults-healthy"),
    ),
)
def cache_lost(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for a device to read what was read before in the same window, and in between
    pages of that file were taken out of the page cache.

    Why it slows you: what memory holds is read in microseconds, what the device has to bring in milliseconds.

    How sure: each page that leaves the cache is seen with its file and whoever makes it: a program that asks for it
    (posix_fadvise, drop_caches), one that needs the memory, or the kernel as it makes room. Only reads of places of the
    disk, or of the file, that were read before count. What was in memory before the window and is read once in it is
    missed.

    What to do: let the one who is named leave the files of others alone; where memory is short, less of it for whoever
    grew, or a reserve for the group that lives on the cache (memory.low).
    """
    for lost in cachelost.found(picture):
        if picture.share(lost.moments.ns) >= MIN_SHARE:
            yield _finding(picture, lost)


def _finding(picture: Picture, lost: Lost) -> Finding:
    name = picture.objects.thread_name(lost.tid)
    kernel = lost.tid in picture.objects.kernel_tids
    itself = lost.pid in lost.readers | set(picture.capture.manifest.target.pids)
    path = pathpattern.patterns(lost.paths)[lost.paths[0]] if len(lost.paths) > 1 else lost.paths[0]
    files = f"{format_count(len(lost.paths))} files, {path}" if len(lost.paths) > 1 else path
    evidence = [
        Evidence(
            fact=f"waited until the device had read again {files}", value=seconds(lost.moments.ns), unit="s",
            threshold=seconds(MIN_SHARE * picture.root.ns), source="offcpu, blocks",
        ),
        Evidence(
            fact="read from the device again, after it had been read before", value=lost.read_again, unit="B",
            threshold=None, source="blocks",
        ),
        Evidence(
            fact=f"taken out of the page cache by {name}{', to make room' if kernel else ''}", value=lost.taken,
            unit="B", threshold=None, source="uncached",
        ),
    ]  # fmt: skip
    if kernel:
        evidence += [*host_memory(picture), *memory_users(picture)]
    return Finding(
        moments=lost.moments, nearness=Nearness.CODE if itself else Nearness.NEIGHBOUR, pid=lost.pid, tid=lost.tid,
        on=On(path=path), evidence=tuple(evidence), confidence=0.9,
        title=f"{_TITLE}, by itself" if itself else None, fixes=(_fix(name, kernel=kernel, itself=itself),),
    )  # fmt: skip


_TITLE = "What it reads had been in memory, and was taken out of the page cache"


def _fix(name: str, *, kernel: bool, itself: bool) -> Fix:
    how = (
        "more memory, or less for whoever grew; memory.low for the group that lives on the page cache"
        if kernel
        else f"let {name} keep what it reads again: no POSIX_FADV_DONTNEED, or a higher limit for its group"
        if itself
        else f"let {name} leave files of others in the page cache (no POSIX_FADV_DONTNEED, drop_caches), or run it "
        "in a control group with a memory limit of its own"
    )
    return Fix(id="mem-keep-cache", change=how, reversible=True, risk="the cache is memory that others do not have")
