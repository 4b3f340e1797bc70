"""What programs do to files in a request: temporary files, logs."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from culpa.capture.schema import BLOCKS, SYSCALLS
from culpa.diagnose import pathpattern
from culpa.diagnose.code import CodeLine, line_of, sampled_threads
from culpa.diagnose.filecalls import FileCalls
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import code_evidence, seconds, waited_for
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import NS_PER_SECOND, format_count

MIN_FILES = 20
"""Files made and deleted in a request, or in a window, from which they are a habit and not a lock or an upload."""
MIN_DELETED = 0.5
"""Of the files made, how many must be deleted again for them to be temporary."""
MIN_WAIT_SHARE = 0.1
"""Of the root's time, waited in these calls; with less the page cache takes it all, and nobody is held up."""
LARGE_RECORD_BYTES = 1 << 20
"""A line of a log is a few hundred bytes, a long stack trace some ten thousand."""
MANY_RECORDS = 100
"""Records in one request."""
LOUD_BYTES_PER_SECOND = 10_000_000
"""A log that grows by a terabyte a day is worth a note even if nobody waits for it."""
ASKED_BY_HAND = ("HUP", "USR1", "USR2")
"""Signals that a program handles in order to be told something, not to be ended."""
MANY_SIGNALS = 16
"""A run-time library that handles so many takes all there are, which says nothing about the program."""


def _per_request(picture: Picture) -> int:
    return picture.request_count if picture.has_price else 1


def _each(picture: Picture) -> str:
    return " a request" if picture.has_price else ""


def _code(picture: Picture, calls: FileCalls, rows: pl.DataFrame) -> CodeLine | None:
    """The line that asked for these calls: samples of their threads at those moments."""
    return line_of(picture, calls.by_thread(rows, sampled_threads(picture)))


def _waited(waits: Moments) -> Evidence:
    source = "offcpu, syscalls"
    return Evidence(fact="of it, waiting", value=seconds(waits.ns), unit="s", threshold=None, source=source)


def _disk(picture: Picture, rows: pl.DataFrame, pids: set[int]) -> Iterator[Evidence]:
    """What the device wrote of these files meanwhile, and who else had requests there."""
    blocks = picture.capture.frame(BLOCKS).drop_nulls(["dev", "complete_ns"])
    files = rows.select(ino_dev="dev", ino="ino").drop_nulls().unique()
    written = blocks.filter(pl.col("op") == "write").join(files, on=["ino_dev", "ino"], how="semi")
    if written.is_empty():
        return
    # Devices that lie on one another carry the same pages: count at the uppermost, where a request is longest.
    length = pl.col("complete_ns") - pl.coalesce("queued_ns", "issue_ns", "complete_ns")
    device = int(written.group_by("dev").agg(length.sum()).sort("complete_ns", "dev")["dev"][-1])
    written = written.filter(pl.col("dev") == device)
    fact = f"of these files, written to {picture.objects.device(device)} meanwhile"
    total = int(written["bytes"].sum() or 0)
    yield Evidence(fact=fact, value=total, unit="B", threshold=None, source=f"blocks: {len(written)} requests")
    yield from _bystanders(picture, blocks.filter(pl.col("dev") == device), pids)


def _bystanders(picture: Picture, blocks: pl.DataFrame, pids: set[int]) -> Iterator[Evidence]:
    """Processes outside the root whose own requests stood in the same device's queue, the longest first."""
    others = blocks.filter(pl.col("sync").fill_null(value=False) & ~pl.col("pid").is_in(list(pids))).drop_nulls(
        ["pid", "queued_ns"]
    )
    kernel = [pid for pid in others["pid"].unique().to_list() if pid in picture.objects.kernel_tids]
    waits = others.filter(~pl.col("pid").is_in(kernel)).group_by("pid").agg(
        pl.len().alias("requests"), (pl.col("complete_ns") - pl.col("queued_ns")).max().alias("longest")
    )  # fmt: skip
    for pid, count, longest in waits.sort(["longest", "pid"], descending=[True, False]).head(3).iter_rows():
        if longest >= NS_PER_SECOND // 10:
            fact = f"{picture.objects.thread_name(pid)} waits for the same disk: {count} requests, the longest"
            yield Evidence(fact=fact, value=seconds(longest), unit="s", threshold=None, source="blocks")


def _counted(picture: Picture, fact: str, rows: pl.DataFrame, files: int) -> Evidence:
    """Files and bytes, per request where requests have a price."""
    each = _per_request(picture)
    size = int(rows["bytes"].sum() or 0)
    return Evidence(
        fact=f"{fact}{_each(picture)}: {format_count(files / each)} files", value=size // each, unit="B",
        threshold=None, source="syscalls",
    )  # fmt: skip


def _made_before(calls: pl.DataFrame, created: pl.DataFrame) -> int:
    """How many of the files made these calls are about; an inode number is used again as soon as its file is gone."""
    made = created.select("dev", "ino", made_ns="enter_ns", enter_ns="enter_ns").sort("enter_ns")
    found = calls.sort("enter_ns").join_asof(made, on="enter_ns", by=["dev", "ino"], check_sortedness=False)
    return found.drop_nulls("made_ns").select("dev", "ino", "made_ns").n_unique()


@rule(
    id="app.files.temp-churn",
    title="It writes files, reads them back and deletes them",
    needs=(SYSCALLS,),
    fixes=("app-keep-data-in-memory",),
    fires=(Lab("word-pop"),),
    silent=(Lab("word-pop-healthy"), Lab("word-pop-cached"), Lab("fsync-loop"), Lab("logapp")),
)
def temp_churn(picture: Picture) -> Iterator[Finding]:
    """What it detects: within a request many files of one kind are created, written and deleted again.

    Why it slows you: what is written has to go to the disk sooner or later, also if it is deleted a moment after; once
    the disk has fallen behind, whoever writes waits for it.

    How sure: the calls and their files are counted one by one, and the waits are measured inside them. A deletion names
    its file only by a path, which is not recorded: deletions are counted, not matched. Files that the page cache takes
    without a wait are a note.

    What to do: keep the data in memory, or in a file system that is in memory.
    """
    calls = picture.file_calls
    if calls is None:
        return
    created = calls.rows.filter(pl.col("creates") & ~pl.col("appends")).drop_nulls(["dev", "ino"])
    names = pathpattern.patterns(created["path"].drop_nulls().to_list())
    created = created.with_columns(pattern=pl.col("path").replace_strict(names, default=None, return_dtype=pl.String))
    deleted = calls.rows.filter(pl.col("operation") == "unlink")
    # A file that is renamed was made to stay: saved at one stroke, or put aside by a rotation.
    left = len(deleted) - len(calls.rows.filter(pl.col("operation") == "rename"))
    groups = [(str(pattern), group) for (pattern,), group in created.drop_nulls("pattern").group_by("pattern")]
    for pattern, group in sorted(groups, key=lambda entry: (-len(entry[1]), entry[0])):
        gone = max(0, min(left, len(group)))
        left -= gone
        unfinished = gone < MIN_DELETED * len(group)
        if len(group) < MIN_FILES or (unfinished and not (pathpattern.is_temporary(pattern) and _in_flight(picture))):
            continue
        yield from _churn(picture, calls, pattern, group, deleted if gone else deleted.clear())


def _in_flight(picture: Picture) -> bool:
    """Whether a request was still being worked on when the window ended: what it leaves behind is not yet known."""
    return picture.root.basis == "threads" or not bool(picture.root.requests["done"].all())


def _churn(
    picture: Picture, calls: FileCalls, pattern: str, created: pl.DataFrame, deleted: pl.DataFrame
) -> Iterator[Finding]:
    files = created.select("dev", "ino").unique()
    theirs = calls.rows.join(files, on=["dev", "ino"], how="semi")
    around = calls.rows.filter(pl.col("operation").is_in(["rename", "directory"]))
    rows = pl.concat([theirs, deleted, around]).unique("row").sort("row")
    written, read = (theirs.filter(pl.col("operation") == name) for name in ("write", "read"))
    read = read.filter(pl.col("bytes") > 0)
    if written.is_empty():
        return
    waits, moments = calls.waits(rows), calls.moments(rows)
    pid, tid = calls.busiest(rows)
    line = _code(picture, calls, rows)
    gone = min(len(deleted), len(created))
    each = _per_request(picture)
    evidence = [
        Evidence(
            fact=f"{picture.objects.thread_name(tid)} in calls on {pattern}", value=seconds(moments.ns), unit="s",
            threshold=None, source="syscalls",
        ),
        _waited(waits),
        _counted(picture, "written", written, len(created)),
        _counted(picture, "read back", read, _made_before(read, created)),
        Evidence(
            fact=f"deleted{_each(picture)}" if gone else "deleted so far", value=gone // each, unit="files",
            threshold=None, source="syscalls: unlink",
        ),
        *waited_for(picture, waits),
        *_disk(picture, theirs, set(rows["pid"].drop_nulls().to_list())),
    ]  # fmt: skip
    if line is not None:
        evidence.append(code_evidence(line))
    yield Finding(
        moments=moments, nearness=Nearness.CODE, pid=pid, tid=tid,
        on=On(path=pattern, code=line.place if line else None), evidence=tuple(evidence),
        confidence=0.93 if gone and len(read) else 0.8 if gone else 0.6,
        only_note=picture.share(waits.ns) < MIN_WAIT_SHARE,
        fixes=(
            Fix(
                id="app-keep-data-in-memory",
                change="keep the data in memory; if it must be files, put them on a tmpfs",
                reversible=True, risk="memory for the data of all requests that are served at once",
            ),
        ),
    )  # fmt: skip


# Logs --------------------------------------------------------------------------------------------------------


@rule(
    id="app.log.flood",
    title="Its log records are too many or too big",
    needs=(SYSCALLS,),
    fixes=("app-lower-log-level",),
    fires=(Lab("logapp"),),
    silent=(Lab("logapp-healthy"), Lab("logapp-cached"), Lab("word-pop"), Lab("fsync-loop"), Lab("herring-log")),
)
def log_flood(picture: Picture) -> Iterator[Finding]:
    """What it detects: within a request a process appends records of a megabyte and more, or records by the hundred,
    to a file that is a log: opened for appending, rotated, or named as one.

    Why it slows you: the disk takes only so many bytes a second; once it has fallen behind, whoever logs waits for it.

    How sure: bytes and records are counted at each write, and the waits are measured inside them. A log that is loud
    but makes nobody wait is a note. Which signal changes the level is not known; those that the program handles are
    named.

    What to do: lower the level, by the signal or interface that the program has for it; else in its configuration, and
    restart it.
    """
    calls = picture.file_calls
    if calls is None:
        return
    named = calls.rows.drop_nulls("path").filter(~pl.col("pid").is_in(list(picture.redis_pids)))
    logs = {path: pathpattern.without_rotation(path) for path in named["path"].unique().to_list()}
    named = named.with_columns(log=pl.col("path").replace_strict(logs, default=None, return_dtype=pl.String))
    written = pl.col("bytes").filter(pl.col("operation") == "write")
    large = named.group_by("pid", "log").agg(size=written.sum(), pending=written.is_null().any())
    large = large.filter((pl.col("size") >= LARGE_RECORD_BYTES) | pl.col("pending")).select("pid", "log")
    for pid, path in large.sort("pid", "log").iter_rows():
        rows = named.filter((pl.col("pid") == pid) & (pl.col("log") == path))
        if _is_log(path, rows, calls.rows.filter(pl.col("pid") == pid)):
            yield from _flood(picture, calls, path, rows.drop("log"))


def _is_log(path: str, rows: pl.DataFrame, of_process: pl.DataFrame) -> bool:
    """Whether a file grows at its end and nobody reads it: opened so, rotated, or of a name that logs have."""
    if bool(((rows["operation"] == "read") & (rows["bytes"] > 0)).any()):
        return False
    return bool(rows["appends"].any()) or _rotations(rows, of_process) > 0 or pathpattern.is_log(path)


def _rotations(rows: pl.DataFrame, of_process: pl.DataFrame) -> int:
    """How often the file of this name was made anew after the process had renamed one."""
    made = rows.filter("creates").select("dev", "ino", "enter_ns").unique(["dev", "ino"])
    renames = of_process.filter(pl.col("operation") == "rename")["enter_ns"]
    return 0 if renames.is_empty() else len(made.filter(pl.col("enter_ns") > renames.min()))


def _flood(picture: Picture, calls: FileCalls, path: str, rows: pl.DataFrame) -> Iterator[Finding]:
    written = rows.filter((pl.col("operation") == "write") & (pl.col("bytes") > 0))
    size, each = int(written["bytes"].sum() or 0), _per_request(picture)
    window = picture.capture.manifest.window
    per_second = size / max(1e-9, (window.end_ns - window.start_ns) / NS_PER_SECOND)
    pending = rows.filter((pl.col("operation") == "write") & pl.col("bytes").is_null())
    records = len(written) + len(pending)
    largest = int(str(written["bytes"].max() or 0))
    if largest < LARGE_RECORD_BYTES and not (records / each >= MANY_RECORDS and size / each >= LARGE_RECORD_BYTES):
        return
    pid, tid = calls.busiest(rows)
    beside = calls.rows.filter(
        (pl.col("pid") == pid)
        & pl.col("operation").is_in(["rename", "unlink"])
        & pl.lit(value=bool(rows["creates"].any()))
    )
    touched = pl.concat([rows, beside]).unique("row").sort("row")
    waits, moments = calls.waits(touched), calls.moments(touched)
    quiet = picture.share(waits.ns) < MIN_WAIT_SHARE
    if quiet and per_second < LOUD_BYTES_PER_SECOND:
        return
    line = _code(picture, calls, written if len(written) else rows)
    evidence = [
        Evidence(
            fact=f"{picture.objects.thread_name(tid)} in calls on {path}", value=seconds(moments.ns), unit="s",
            threshold=None, source="syscalls",
        ),
        _waited(waits),
        Evidence(fact="appended a second", value=round(per_second), unit="B", threshold=None, source="syscalls"),
        Evidence(
            fact=f"largest of {format_count(records / each)} records{_each(picture)}", value=largest, unit="B",
            threshold=LARGE_RECORD_BYTES, source="syscalls",
        ),
        *_rotation(rows, calls.rows.filter(pl.col("pid") == pid)),
        *_remedies(picture, pid),
        *waited_for(picture, waits),
        *_disk(picture, rows, {pid}),
    ]  # fmt: skip
    if line is not None:
        evidence.append(code_evidence(line))
    yield Finding(
        moments=moments, nearness=Nearness.CODE, pid=pid, tid=tid,
        on=On(path=path, code=line.place if line else None), evidence=tuple(evidence), confidence=0.9,
        only_note=quiet, fixes=(_lower_level(picture, pid),),
    )  # fmt: skip


def _rotation(rows: pl.DataFrame, of_process: pl.DataFrame) -> Iterator[Evidence]:
    times = _rotations(rows, of_process)
    if times:
        yield Evidence(
            fact="rotated by the process itself", value=times, unit="times", threshold=None, source="syscalls"
        )


def _asked_by_hand(picture: Picture, pid: int) -> list[str]:
    caught = (picture.objects.process(pid).caught or "").split()
    return [name for name in caught if name in ASKED_BY_HAND] if len(caught) < MANY_SIGNALS else []


def _remedies(picture: Picture, pid: int) -> Iterator[Evidence]:
    signals = _asked_by_hand(picture, pid)
    if signals:
        names = " ".join(signals)
        yield Evidence(
            fact="signals it handles", value=names, unit="", threshold=None, source="/proc/PID/status SigCgt"
        )


def _lower_level(picture: Picture, pid: int) -> Fix:
    """The way that this process offers, as far as it can be seen from outside."""
    signals = _asked_by_hand(picture, pid)
    if signals:
        told = " or ".join(f"kill -{name} {pid}" for name in signals)
        return Fix(
            id="app-lower-log-level",
            change=f"lower the log level: the program handles signals, look up whether one of them does it ({told}); "
            "else set it in the configuration and restart",
            reversible=True, risk="the records below the level are missing when they are needed",
        )  # fmt: skip
    return Fix(
        id="app-lower-log-level", change="lower the log level in its configuration and restart it", reversible=True,
        risk="a restart; the records below the level are missing when they are needed",
    )  # fmt: skip
