"""A verdict as fixes: those that culpa can apply with their parameters, the others in words.

Of a verdict only ids, names and values are taken, and the process that a cause names. Its command lines are read, not
run: one that is not what the catalogue would make is refused, and stands in the list as refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from msgspec import structs

from culpa.diagnose.verdict import Cause, Fix, Verdict, Who
from culpa.errors import CulpaError
from culpa.fix.catalogue import GIVEN, HELD_TO, IDLE, REMEDIES, Remedy, remedy
from culpa.fix.parameters import GroupSetting, KernelSetting, Parameters, ProcessSetting, RedisSetting, check
from culpa.units import printable

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
MOST_PROPOSALS: Final = 200
DEEPEST_BECAUSE: Final = 20
_SYSTEM_WIDE: Final = {"redis-no-thp": KernelSetting(setting="transparent_hugepage/enabled", value="madvise")}
"""Fixes that rules give in words because a shell would be needed, and which need no parameter from the verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A fix for a cause. `parameters` None: for a person, in the words of `change`; `refused`: why not even that."""

    id: str
    cause: str
    title: str
    remedy: Remedy | None = None
    parameters: Parameters | None = None
    change: str = ""
    risk: str = ""
    refused: str = ""


def seen_unix(verdict: Verdict) -> float:
    """When the verdict's window began.

    Raises:
        CulpaError: it says nothing that is a time.
    """
    try:
        return datetime.fromisoformat(verdict.window.start).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        shown = printable(verdict.window.start, 40)
        raise CulpaError(f"the verdict says that its window began at {shown!r}", way_out="make a new one") from error


def proposals(verdict: Verdict) -> tuple[Proposal, ...]:
    """Every fix of a verdict once; ids are unique, a second one of the same id is called ID.2."""
    found: list[Proposal] = []
    for cause in _everywhere(verdict.causes):
        for one in _of_cause(cause, verdict.target.pids):
            alike = [other for other in found if other.id.partition(".")[0] == one.id]
            same = [other for other in alike if (other.parameters, other.change) == (one.parameters, one.change)]
            if not same and len(found) < MOST_PROPOSALS:
                found.append(replace(one, id=f"{one.id}.{len(alike) + 1}") if alike else one)
    return tuple(found)


def _everywhere(causes: Sequence[Cause], depth: int = 0) -> Iterator[Cause]:
    for cause in causes if depth < DEEPEST_BECAUSE else ():
        yield cause
        yield from _everywhere(cause.because, depth + 1)


def _of_cause(cause: Cause, spares: Sequence[int]) -> Iterator[Proposal]:
    for fix in cause.fixes:
        yield _proposal(cause, fix)
        for other in REMEDIES:
            if (cause.id, fix.id) in other.derived_from:
                yield from _derived(cause, other, tuple(spares))


def _proposal(cause: Cause, fix: Fix) -> Proposal:
    known = remedy(fix.id)
    words = shlex.join(fix.argv) if fix.argv else fix.change or ""
    plain = Proposal(
        id=printable(fix.id, 60), cause=printable(cause.id, 60), title=printable(cause.title),
        change=printable(words, 500), risk=printable(fix.risk, 300),
    )  # fmt: skip
    if known is None:
        return plain
    try:
        parameters = _SYSTEM_WIDE.get(fix.id) or (_read(known, fix.argv, cause.who) if fix.argv else None)
        if parameters is None:
            return plain
        check(known, parameters)
    except CulpaError as error:
        return replace(plain, refused=error.what)
    return replace(plain, remedy=known, parameters=parameters)


def _derived(cause: Cause, known: Remedy, spares: tuple[int, ...]) -> Iterator[Proposal]:
    plain = Proposal(id=known.id, cause=printable(cause.id, 60), title=printable(cause.title), remedy=known)
    (setting,) = known.settings
    try:
        if known.kind != "group":
            yield replace(plain, parameters=_process(setting, IDLE, cause.who, None))
        elif (group := _group(cause, known, setting, spares)) is not None:
            check(known, group)
            yield replace(plain, parameters=group)
    except CulpaError as error:
        yield replace(plain, remedy=None, refused=error.what)


def _group(cause: Cause, known: Remedy, setting: str, spares: tuple[int, ...]) -> GroupSetting | None:
    """The group that has the limit, or the one that a neighbour is in; None where the cause names neither."""
    device = (cause.on.device or "") if cause.on is not None and setting == "I/O limit" else ""
    value = HELD_TO.get(known.id) or GIVEN[setting]
    if not known.id.startswith("neighbour-"):
        where = cause.on.path if cause.on is not None else None
        return GroupSetting(setting=setting, value=value, group=where, device=device) if where else None
    who = cause.who
    if who is None or who.pid is None or who.starttime is None or who.cgroup in (None, "", "/"):
        return None
    return GroupSetting(
        setting=setting, value=value, group=who.cgroup or "", device=device, pid=who.pid, starttime=who.starttime,
        comm=who.comm or "", spares=spares,
    )  # fmt: skip


def _read(known: Remedy, argv: Sequence[str], who: Who | None) -> Parameters:
    """The parameters in a command line, which must have the one form that rules give it."""
    words = list(argv)
    if known.kind == "redis" and words[:1] == ["redis-cli"] and words[-4:-2] == ["CONFIG", "SET"]:
        return _redis(words[1:-4], words[-2], words[-1], who)
    if known.kind == "kernel" and words[:2] == ["sysctl", "-w"] and len(words) == 3:
        name, _, value = words[2].partition("=")
        return KernelSetting(setting=name, value=value)
    (setting, *_) = known.settings
    if known.kind == "cpus" and words[:2] == ["taskset", "-acp"] and len(words) == 4:
        return _process(setting, words[2], who, words[3])
    if known.kind == "nice" and words[:2] == ["renice", "-n"] and words[3:4] == ["-p"] and len(words) == 5:
        return _process(setting, words[2], who, words[4])
    raise CulpaError(f"refused: the command of {known.id} is not one that culpa makes")


def _redis(where: Sequence[str], setting: str, value: str, who: Who | None) -> RedisSetting:
    pid, starttime = (who.pid, who.starttime) if who and who.pid and who.starttime else (None, None)
    plain = RedisSetting(setting=setting, value=value, pid=pid, starttime=starttime)
    if len(where) == 2 and where[0] == "-s":
        return structs.replace(plain, path=where[1])
    if len(where) == 4 and (where[0], where[2]) == ("-h", "-p") and _PORT.fullmatch(where[3]):
        return structs.replace(plain, host=where[1], port=int(where[3]))
    raise CulpaError("refused: it does not say which Redis server is meant")


def _process(setting: str, value: str, who: Who | None, pid: str | None) -> ProcessSetting:
    """The process that the cause names; a command that names another one is refused."""
    if who is None or who.pid is None or who.starttime is None:
        raise CulpaError("refused: the cause does not say which process it was, and when that was started")
    if pid is not None and pid != str(who.pid):
        raise CulpaError(f"refused: the command is for process {printable(pid, 12)}, the cause names {who.pid}")
    return ProcessSetting(setting=setting, value=value, pid=who.pid, starttime=who.starttime, comm=who.comm or "")
