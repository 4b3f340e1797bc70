"""The verdict: what `--json` prints, field for field (schema `culpa.verdict/1`).

Times are seconds, sizes bytes, shares 0..1. Reporters take a `Verdict` and compute nothing. The JSON Schema in
`docs/reference/` is generated from these types.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from culpa.capture.manifest import BlindSpot, EndedBy, TargetKind

VERDICT_SCHEMA = "culpa.verdict/1"

State = Literal["slow", "not-slow", "unknown"]
Level = Literal["critical", "warning", "note"]
NodeKind = Literal[
    "request", "running", "runnable", "io", "fsync", "journal", "device", "lock", "peer", "remote", "sleep",
    "fault", "reclaim", "throttle", "stopped", "queued", "idle", "unexplained",
]  # fmt: skip


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """A process or thread. Absent parts are null; passwords in command lines are masked."""

    pid: int | None = None
    tid: int | None = None
    starttime: int | None = None
    comm: str | None = None
    cmdline: str | None = None
    unit: str | None = None
    cgroup: str | None = None
    container: str | None = None


class On(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What something was done to, or where in the code: only the parts that are known are present."""

    path: str | None = None
    peer: str | None = None
    device: str | None = None
    lock: str | None = None
    code: str | None = None
    syscall: str | None = None
    command: str | None = None
    setting: str | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the blame tree. Children never add up to more than their node; leaves add up to the root."""

    label: str
    kind: NodeKind
    who: Who | None
    on: On | None
    seconds: float
    share: float
    count: int
    children: tuple[Node, ...] = ()


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One measured fact. `source` is the table and rows, the file or the command it was read from."""

    fact: str
    value: float | int | str | None
    unit: str
    threshold: float | int | str | None
    source: str


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """A proposed fix: a command (`argv`) or a change of program or setting in words (`change`)."""

    id: str
    argv: tuple[str, ...] | None = None
    change: str | None = None
    reversible: bool
    risk: str


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """What one request would take without the cause, in seconds: the likely median and its range."""

    p50: float
    low: float
    high: float


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A named cause. `because` holds causes of whose time at least 80 % lies on this one's chain."""

    id: str
    title: str
    kind: Literal["slowness", "risk"]
    level: Level
    share: float
    saves_seconds: float
    predicted: Predicted | None
    confidence: float
    who: Who | None
    on: On | None
    evidence: tuple[Evidence, ...]
    because: tuple[Cause, ...] = ()
    fixes: tuple[Fix, ...] = ()
    docs: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a server: `fired` (its cause is among the causes), `clear`, or `skipped` with the reason."""

    id: str
    title: str
    answer: Literal["fired", "clear", "skipped"]
    why: str | None = None
    evidence: tuple[Evidence, ...] = ()
    """How it stands, fired or not; what it is blamed for stands in its cause."""


class RuledOut(msgspec.Struct, frozen=True, kw_only=True):
    """A usual suspect with the figure that acquits it."""

    resource: str
    verdict: str
    evidence: tuple[Evidence, ...]


class Culpa(msgspec.Struct, frozen=True, kw_only=True):
    """The program that judged."""

    version: str


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """The watched host."""

    kernel: str
    machine: str
    cpus: int
    memory_bytes: int


class TargetView(msgspec.Struct, frozen=True, kw_only=True):
    """What was watched."""

    kind: TargetKind
    name: str
    pids: tuple[int, ...]


class WindowView(msgspec.Struct, frozen=True, kw_only=True):
    """When it was watched; `start` is RFC 3339 in UTC."""

    start: str
    seconds: float
    ended_by: EndedBy


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """What the shares are shares of."""

    basis: Literal["requests", "threads"]
    seconds: float
    threads: int
    idle_seconds: float


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Requests seen, in seconds. p50 from 1, p99 from 100 completed, else null."""

    completed: int
    in_flight: int
    in_flight_age: float | None
    p50: float | None
    p99: float | None
    max: float | None
    per_second: float


class CostView(msgspec.Struct, frozen=True, kw_only=True):
    """What watching and judging cost."""

    events: int
    lost_events: int
    probe_cpu_seconds: float
    culpa_cpu_seconds: float
    peak_rss_bytes: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Everything culpa says about one capture."""

    schema: str = VERDICT_SCHEMA
    culpa: Culpa
    host: HostView
    headline: str
    state: State
    target: TargetView
    window: WindowView
    root: Root
    observed: Observed | None
    blame: Node
    causes: tuple[Cause, ...]
    ruled_out: tuple[RuledOut, ...]
    blind_spots: tuple[BlindSpot, ...]
    checks: tuple[Check, ...] = ()
    """What was examined where one server was: every check with its answer."""
    cost: CostView
