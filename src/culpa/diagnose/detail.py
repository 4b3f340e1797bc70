"""Where records ended within the window: the part that is judged, and what the sums of the rest say to it.

Above the budget the kernel only sums up (`schema.SUMS`). The picture is drawn from the part that has records; the sums
then tell whether what was blamed there went on.
"""

from __future__ import annotations

import msgspec
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.finding import Finding
from culpa.diagnose.picture import Picture
from culpa.diagnose.verdict import Evidence
from culpa.units import NS_PER_SECOND, format_share

SHORT_NS = 3 * NS_PER_SECOND
FEW_REQUESTS = 10
"""A shorter part with fewer requests is a small sample of the window."""
SMALL_SAMPLE = 0.85
"""What the confidence of a verdict on such a part is multiplied by."""


def part(capture: Capture) -> Capture:
    """The capture as if the window had ended with the records; the same capture where there are some to its end."""
    end_ns = capture.manifest.evidence.detail_end_ns
    if end_ns is None:
        return capture
    requests = capture.frame(schema.REQUESTS)
    open_ = pl.col("end_ns") > end_ns
    answer = [pl.when(open_).then(None).otherwise(pl.col(n)).alias(n) for n in ("status", "bytes", "error", "end_ns")]
    clipped = requests.filter(pl.col("start_ns") < end_ns).with_columns(answer)
    window = msgspec.structs.replace(capture.manifest.window, end_ns=end_ns)
    return Capture(
        manifest=msgspec.structs.replace(capture.manifest, window=window),
        tables=dict(capture.tables) | {schema.REQUESTS.name: clipped},
    )


def doubt(picture: Picture) -> float:
    """What the confidence of every cause is multiplied by, 1 where the records cover the window or enough of it."""
    if picture.capture.manifest.evidence.detail_end_ns is None or picture.request_count >= FEW_REQUESTS:
        return 1.0
    return SMALL_SAMPLE if picture.root.wall_ns < SHORT_NS else 1.0


def went_on(picture: Picture, finding: Finding) -> tuple[Evidence, ...]:
    """How much of its time the blamed thread spent in the blamed call while sums were kept, beside before."""
    if finding.tid is None or not picture.capture.has(schema.SUMS):
        return ()
    sums = picture.capture.frame(schema.SUMS).filter(pl.col("tid") == finding.tid)
    before = _calls(picture, finding, finding.tid)
    if before.is_empty() or sums.is_empty():
        return ()
    top = before.row(0, named=True)
    same = [pl.col(name).eq_missing(pl.lit(top[name])) for name in ("nr", "dev", "ino")]
    after_ns = int(sums.filter(pl.col("what") == "call", *same)["total_ns"].sum())
    whole_ns = int(sums.filter(pl.col("what") != "call")["total_ns"].sum())
    if whole_ns == 0:
        return ()
    name = picture.call_name(int(top["nr"]))
    earlier = format_share(min(1.0, top["ns"] / max(1, picture.root.wall_ns)))
    return (
        Evidence(
            fact=f"in the rest of the window, by sums, part of its time in {name} (before: {earlier})",
            value=format_share(min(1.0, after_ns / whole_ns)), unit="", threshold=None, source="sums",
        ),
    )  # fmt: skip


def _calls(picture: Picture, finding: Finding, tid: int) -> pl.DataFrame:
    """nr, dev, ino, ns of the thread's recorded calls that the finding is about, the one with the most time first."""
    on, window = finding.on, picture.capture.manifest.window
    rows = picture.capture.frame(schema.SYSCALLS).filter(pl.col("tid") == tid)
    if on is None or (on.path is None and on.syscall is None):
        return rows.clear()
    length = pl.col("exit_ns").fill_null(window.end_ns).clip(upper_bound=window.end_ns) - pl.col("enter_ns").fill_null(
        window.start_ns
    ).clip(lower_bound=window.start_ns)
    # Sums know sockets only as one.
    socket = pl.col("file_type") == "sock"
    keys = [pl.when(socket).then(None).otherwise(pl.col(name)).alias(name) for name in ("dev", "ino")]
    spent = rows.with_columns(*keys, ns=length).group_by("nr", "dev", "ino").agg(pl.col("ns").sum())
    wanted = spent.filter(
        [
            (on.syscall is None or picture.call_name(nr) == on.syscall)
            and (on.path is None or (ino is not None and picture.objects.file(dev or 0, ino) == on.path))
            for nr, dev, ino in spent.select("nr", "dev", "ino").iter_rows()
        ]
    )
    return wanted.sort("ns", "nr", "ino", descending=[True, False, False])
