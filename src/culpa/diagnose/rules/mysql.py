"""What a MySQL or MariaDB server does for the target's statements."""

from __future__ import annotations

from collections.abc import Iterator

from culpa.capture.schema import MESSAGES
from culpa.diagnose import tablescans
from culpa.diagnose.code import line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.root import STALL_NS
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import code_evidence, items_of, seconds
from culpa.diagnose.tablescans import Scan
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import format_bytes, format_count

MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""


@rule(
    id="db.mysql.missing-index",
    title="A query scans a whole table",
    needs=(MESSAGES,),
    fixes=("mysql-add-index",),
    fires=(Lab("mysql-scan"),),
    silent=(Lab("mysql-scan-healthy"),),
)
def missing_index(picture: Picture) -> Iterator[Finding]:
    """What it detects: a request waits for a statement of its own at a MySQL or MariaDB server, and the server's thread
    reads or computes its way through a whole table meanwhile to find a few rows.

    Why it slows you: without an index that fits, every row is looked at; the table's file is read again and again if
    it does not fit into memory.

    How sure: the server says itself, with its answer, that it used no index (or no good one) where that stands in the
    answer's first bytes; else its thread is seen to read at least half of the table's file for a small answer. A small
    table is quickly scanned: less than 5 ms of work for each request is no trouble, whatever the server says. Only the
    time in which that thread ran or read counts: waits for locks and sleeps do not. Statements that choose no rows (no
    WHERE, no ON) are left out. Whether an index would help a condition that most rows meet only EXPLAIN tells. It is
    silent on prepared statements and encrypted connections, which are not read.

    What to do: run the EXPLAIN that is shown, with values for `?`; where its `key` is NULL, index the columns that the
    condition compares.
    """
    for scan in tablescans.found(picture):
        rows = scan.rows
        if picture.share(scan.work_ns) < MIN_SHARE or scan.work_ns < STALL_NS * items_of(rows):
            continue
        line = line_of(picture, dict.fromkeys(rows["tid"].unique().to_list(), picture.moments(0)))
        evidence = list(_evidence(picture, scan))
        if line is not None:
            evidence.append(code_evidence(line))
        table = scan.table
        yield Finding(
            moments=scan.moments,
            nearness=Nearness.CODE,
            pid=int(rows["server_pid"][0]),
            tid=int(rows["server_tid"].mode().sort()[0]),
            on=On(path=scan.path, command=scan.digest, code=line.place if line else None),
            evidence=tuple(evidence),
            confidence=0.9 if scan.said else 0.8,
            fixes=(_fix(scan),),
            title=f"A query scans a whole table ({table})" if table else None,
        )


def _evidence(picture: Picture, scan: Scan) -> Iterator[Evidence]:
    rows = scan.rows
    yield Evidence(
        fact=f"{format_count(len(rows) / items_of(rows))} a request, its thread at the server at work: {scan.digest}",
        value=seconds(scan.work_ns), unit="s", threshold=seconds(MIN_SHARE * picture.root.ns),
        source="messages, offcpu and syscalls",
    )  # fmt: skip
    if scan.said:
        yield Evidence(
            fact=f"of {format_count(len(rows))} answers so many say that no good index was used", value=scan.said,
            unit="", threshold=None, source="messages: status flags",
        )  # fmt: skip
    if scan.path is not None:
        of = f", which has {format_bytes(scan.size)}" if scan.size is not None else ""
        yield Evidence(
            fact=f"read for each of {scan.path}{of}", value=format_bytes(scan.read_bytes // len(rows)), unit="",
            threshold=None, source="syscalls, files",
        )  # fmt: skip
    largest = rows["answer_bytes"].max()
    if isinstance(largest, int):
        yield Evidence(
            fact="the largest answer", value=format_bytes(largest), unit="", threshold=None, source="messages"
        )
    yield Evidence(
        fact="to see how it is answered, run with values for ?", value=f"EXPLAIN {scan.digest}", unit="",
        threshold=None, source="messages",
    )  # fmt: skip


def _fix(scan: Scan) -> Fix:
    columns = ", ".join(scan.compared)
    compared = f"what its condition compares ({columns})" if columns else "what its condition compares"
    return Fix(
        id="mysql-add-index",
        change=f"run the EXPLAIN; where its key is NULL, make an index on {scan.table or 'the table'} for {compared}",
        reversible=True,
        risk="making it reads the whole table once, and every later write keeps it up to date",
    )
