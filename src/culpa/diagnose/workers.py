"""Worker processes behind one port: what all of them suffer from is one cause, and not one for each.

A server that forks after it listens, or several that share a port, hand requests to whichever process is free; a rule
that looks at processes then finds the same thing in each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

import msgspec
import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.finding import Finding
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.verdict import Evidence, On
from culpa.units import format_count

MOST_NAMED = 8
"""Processes named one by one in the evidence."""


def together(picture: Picture, findings: Iterable[Finding]) -> list[Finding]:
    """One rule's findings, with those that differ only in which worker they are about made one."""
    team = teams(picture)
    groups: dict[tuple[object, ...], list[Finding]] = defaultdict(list)
    for number, finding in enumerate(findings):
        member = team.get(finding.pid) if finding.pid is not None else None
        groups[(number,) if member is None else (member, *_likeness(finding))].append(finding)
    united: list[Finding] = []
    for group in groups.values():
        several = len({finding.pid for finding in group}) > 1
        united += [_one(picture, group)] if several else group
    return united


def beside(picture: Picture, nodes: Iterable[int], pid: int) -> list[int]:
    """The other processes that nodes of the blame tree are about, in their order."""
    who = (picture.blame.nodes[node].who for node in nodes)
    return [one for one in dict.fromkeys(picture.objects.pid_of.get(tid, tid) for tid in who) if one != pid]


def more_like_it(picture: Picture, pids: Iterable[int]) -> tuple[Evidence, ...]:
    """The processes that a cause has beside the one that it names; nothing where there are none."""
    others = list(pids)
    if not others:
        return ()
    names = [f"{picture.objects.process(pid).comm or 'process'}[{pid}]" for pid in others[:MOST_NAMED]]
    said = ", ".join(names) + (", ..." if len(others) > MOST_NAMED else "")
    count = "1 more process" if len(others) == 1 else f"{format_count(len(others))} more processes"
    return (
        Evidence(
            fact=f"and {count} like it: {said}", value=len(others), unit="", threshold=None, source="processes, sockets"
        ),
    )


def teams(picture: Picture) -> dict[int, str]:
    """Processes of the target by their program, where processes of that program listen: pid to team."""
    rows = picture.capture.frame(schema.PROCESSES).drop_nulls("pid")
    theirs = pl.col("role").is_in(["target", "child"]) | pl.col("pid").is_in(list(picture.capture.manifest.target.pids))
    sockets = picture.capture.frame(schema.SOCKETS).filter(pl.col("listening").fill_null(value=False))
    listening = frozenset(sockets["pid"].drop_nulls().to_list())
    program = {pid: exe or comm for pid, exe, comm in rows.filter(theirs).select("pid", "exe", "comm").iter_rows()}
    serving = {program[pid] for pid in listening if pid in program}
    return {pid: name for pid, name in program.items() if name in serving and name is not None}


def passing(picture: Picture) -> dict[int, str]:
    """Processes that came and went within the window, by their name: a script starts one of a kind after the other."""
    came = pl.col("watched_ns") > picture.capture.manifest.window.start_ns
    went = pl.col("exit_ns").is_not_null()
    first = picture.capture.frame(schema.TASKS).filter((pl.col("tid") == pl.col("pid")) & came & went)
    return dict(first.drop_nulls(["pid", "comm"]).select("pid", "comm").iter_rows())


def _likeness(finding: Finding) -> tuple[object, ...]:
    """What findings about one thing have in common; files of a process's own may differ within a folder."""
    return finding.nearness, finding.kind, finding.title, finding.only_note, _without_file(finding.on)


def _without_file(on: On | None) -> On | None:
    if on is None or on.path is None:
        return on
    return msgspec.structs.replace(on, path=str(PurePosixPath(on.path).parent))


def _one(picture: Picture, group: list[Finding]) -> Finding:
    """The largest, with the time of all."""
    ordered = sorted(group, key=lambda f: (-f.moments.ns, f.pid or 0, f.tid or 0))
    largest = ordered[0]
    others = dict.fromkeys(f.pid for f in ordered if f.pid is not None and f.pid != largest.pid)
    parts = [f.moments for f in group]
    moments = Moments.union(
        np.concatenate([m.item for m in parts]),
        np.concatenate([m.start_ns for m in parts]),
        np.concatenate([m.end_ns for m in parts]),
    )
    return replace(
        largest, moments=moments, evidence=(*largest.evidence, *more_like_it(picture, others)), predicted=None
    )
