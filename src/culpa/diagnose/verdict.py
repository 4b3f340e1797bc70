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
    """One node of the blame tree. Children never add up to more than their node; leaves add up to the root.

    The kind `request` is the root's, and that of small parts of several kinds added up.
    """

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


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent requests: an address, with the name it gave itself or its process, and the time they held the thread."""

    name: str
    requests: int
    seconds: float


class CommandRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of request cost a Redis server. Times are of its main thread, in seconds.

    By `sockets` a row is of a verb and a key pattern, and its requests are messages: with `calls` null each held
    several commands, a pipeline or a transaction, of which the first is named and the time is that of all.
    By `commandstats` a row is of a verb, and its time is what the server measured of the commands alone.
    """

    verb: str
    pattern: str | None
    requests: int
    calls: int | None
    seconds: float
    share: float
    """Of the main thread's time in the window."""
    p50: float | None
    p99: float | None
    """From 100 requests."""
    max: float | None
    """By `commandstats`: the longest that the slow log kept."""
    waited: tuple[float, float] | None
    """How long they lay unread, all together: at least, and at most; null: not seen."""
    behind: str | None
    """The row that held the thread for most of that (of the most it can be)."""
    behind_seconds: float | None
    reply_bytes: int | None
    askers: tuple[Asker, ...] = ()
    """The largest, at most three."""


class CountedCommand(msgspec.Struct, frozen=True, kw_only=True):
    """What the server itself counted of one verb in the window: its commands alone, no reading nor answering.

    Verbs that a check-up asks itself (INFO, CONFIG ...) are left out, as are its PINGs. `contains`: its time holds that
    of other commands, which are counted again under their own verbs (EVAL, EXEC). The
    quantiles are the server's since it was started (latencystats, since 7.0), not of the window.
    """

    verb: str
    calls: int
    seconds: float
    contains: bool = False
    p50_since_start: float | None = None
    p99_since_start: float | None = None


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    """What one Redis server was busy with: the rows with most time, and the sum of the others.

    `basis`: `sockets` (its messages, as recorded) or `commandstats` (its own counters, its slow log). `seconds`: the
    time watched. culpa's own requests are in `own_seconds` alone.
    """

    server: str
    basis: Literal["sockets", "commandstats"]
    seconds: float
    rows: tuple[CommandRow, ...]
    other_rows: int
    other_requests: int
    other_seconds: float
    own_seconds: float | None
    counted: tuple[CountedCommand, ...] = ()
    notes: tuple[str, ...] = ()
    """What these figures cannot tell."""


class StallPart(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a stall lies in the time of the causes of one id, notes among them."""

    id: str
    seconds: float


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """One PING that waited 5 ms or longer. `at`: when it was sent, on the watching host's CLOCK_MONOTONIC.

    `named_seconds` lie in the time of any cause, which may be several at once; `cpu_seconds` in none, but the server's
    main thread was ready to run then and had no CPU.
    """

    at: float
    seconds: float
    named_seconds: float
    cpu_seconds: float
    causes: tuple[StallPart, ...]


class Stalls(msgspec.Struct, frozen=True, kw_only=True):
    """A check-up's PINGs that waited 5 ms or longer, and what of their time is attributed.

    What is in neither `named_seconds` nor `cpu_seconds` no cause accounts for; `redis.stall.unattributed` names none,
    and that a thread computes or sleeps (`cpu.busy`, `sleep.by-choice`) is no reason. `since` and `until` bound the
    time judged, on CLOCK_MONOTONIC like `Stall.at`. `each` holds the longest thousand in order of time.
    """

    since: float
    until: float
    count: int
    seconds: float
    longest_seconds: float
    named_seconds: float
    cpu_seconds: float
    each: tuple[Stall, ...]


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
    commands: tuple[Commands, ...] = ()
    """What each Redis server that was asked was busy with."""
    stalls: Stalls | None = None
    """Of one Redis server: who waited for it; null where nobody asked it PING, or single moments are not known."""
    cost: CostView
