"""What a lab is: a declaration, a truth that follows from how it was built, and the result of one run.

The structs are `culpa.lab/1` and the rows of `culpa lab list --json`, field for field.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from culpa.diagnose.verdict import NodeKind, Predicted, Verdict
from culpa.errors import EXIT_LAB_MISSED, LabError

LAB_SCHEMA = "culpa.lab/1"

Need = Literal[
    "root", "trace", "redis-server", "slow-disk", "io-uring", "cpu-quota", "ip", "perl", "tun", "node", "postgres",
    "swap", "loop", "mariadb",
]  # fmt: skip
"""`trace`: the truth of the lab cannot be told by samples, which see neither sleeps nor waits for peers."""
Family = Literal["seeds", "redis", "writeback", "hosts", "double", "herring", "applications"]
"""`double`: several faults at once; `herring`: something conspicuous that has no part in what is asked about."""


class TruthWho(msgspec.Struct, frozen=True, kw_only=True):
    """The process that must be named in a cause; where `pid` is null any process of the name `comm`: the lab's own
    processes of that name end before anybody can note their numbers.
    """

    cause: str
    pid: int | None = None
    comm: str


class TruthOn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What must be named in a cause: a path, a peer's `address:port`, a device, a Redis command by its verb, or lines
    `first_line` to `last_line` of the source file `code`.

    `or_path` is as right as `path`: where the trouble spends as much time on the one as on the other.
    """

    cause: str
    path: str | None = None
    or_path: str | None = None
    peer: str | None = None
    device: str | None = None
    command: str | None = None
    code: str | None = None
    first_line: int = 0
    last_line: int = 0


class TruthStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of the chain from the root down: a node of the blame tree with all the parts given here."""

    kind: NodeKind | None = None
    pid: int | None = None
    comm: str | None = None
    path: str | None = None
    device: str | None = None


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, known from how the lab was built.

    `causes` must be named, the first one first, or with `any_order` any of them; `may` are true as well but not
    demanded. No causes: nothing is wrong.
    `bystanders` suffer under a cause beside whom it names, or without being it; its evidence must name all of them.
    """

    causes: tuple[str, ...]
    any_order: bool = False
    may: tuple[str, ...] = ()
    who: tuple[TruthWho, ...] = ()
    bystanders: tuple[TruthWho, ...] = ()
    on: tuple[TruthOn, ...] = ()
    path: tuple[TruthStep, ...] = ()
    fix: str | None = None


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict held against the truth.

    `predicted`: of the first true cause, where the lab repaired it and measured again; `within`: whether that lies in
    the predicted range.
    """

    top1: bool
    all_named: bool
    who: bool
    on: bool
    path: bool
    false_alarms: tuple[str, ...]
    prediction_error: float | None
    predicted: Predicted | None = None
    within: bool | None = None

    @property
    def found(self) -> bool:
        """Whether the whole truth was found."""
        return not self.missed

    @property
    def missed(self) -> tuple[str, ...]:
        """The measures that are not met."""
        return tuple(name for name in ("top1", "all_named", "who", "on", "path") if not getattr(self, name))


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one request by the lab's own clock: as found, and after the fix was made.

    `longest`: of many requests the longest, where the trouble meets few of them; else the median.
    """

    before: float
    after_fix: float | None = None
    longest: bool = False


class Standstills(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how long (s) the lab's own client of a Redis server waited 5 ms or longer while culpa watched.

    `met_seconds`: of it, what culpa's own PINGs lived through; `attributed_seconds`: of that, what the verdict puts
    down to a true cause or calls a wait for a CPU; `cpu_seconds`: the latter, where no cause covers it.
    """

    count: int
    seconds: float
    met_seconds: float
    attributed_seconds: float
    cpu_seconds: float

    @property
    def share(self) -> float | None:
        """The attributed share of what was met; None of nothing."""
        return self.attributed_seconds / self.met_seconds if self.met_seconds else None


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """The first of the verdict's fixes that culpa can apply, tried with `culpa fix` and taken back (`--fix`).

    `fix` null: there is none, or the lab cannot try it; `sentence` says why. `prediction`: of the cause that it is for;
    `before`, `after`: seconds of a request by the lab's own clock; `within`: whether `after` lies in the predicted
    range. `verified`: what `--verify` found. `undone`: taken back, and everything reads as it did before.
    """

    fix: str | None = None
    cause: str | None = None
    sentence: str
    prediction: Predicted | None = None
    before: float | None = None
    after: float | None = None
    within: bool | None = None
    verified: str | None = None
    undone: bool | None = None


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One diagnosis within a run. `seconds`: from culpa's start to its verdict. `standstills`: of a check-up.

    `repair`: null where no fix was to be tried.
    """

    name: str
    url: str
    truth: Truth
    verdict: Verdict
    measured: Measured
    score: Score
    seconds: float
    standstills: Standstills | None = None
    repair: Repair | None = None


class LabResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `truth`, `verdict`, `measured`, `score` and `repair` are those of the first stage; `stages` holds all.

    `disturbed`: what disturbed the run from outside, in sentences; a verdict may then be right about the host and miss
    the truth of the lab.
    """

    schema: str = LAB_SCHEMA
    lab: str
    parameters: dict[str, int | str | bool]
    truth: Truth
    verdict: Verdict
    measured: Measured
    score: Score
    seconds: float
    stages: tuple[Stage, ...]
    disturbed: tuple[str, ...] = ()
    repair: Repair | None = None

    @property
    def found(self) -> bool:
        """Whether the truth was found in every stage."""
        return all(stage.score.found for stage in self.stages)

    @property
    def exit_code(self) -> int:
        """Exit code of `culpa lab run`: 1 where a fix was not taken back."""
        if any(stage.repair is not None and stage.repair.undone is False for stage in self.stages):
            return LabError.exit_code
        return 0 if self.found else EXIT_LAB_MISSED


class LabListing(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `culpa lab list --json`; `why_not` is null where the lab can run here."""

    name: str
    family: Family
    needs: tuple[Need, ...]
    seed: str | None
    fires: tuple[str, ...]
    silent: tuple[str, ...]
    fast: bool
    runnable: bool
    why_not: str | None


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be varied: amount of data, speed of the slow disk, seed of everything random.

    `small`: of sizes that a lab draws, the small ones, which are as slow but on a slower disk, and sooner done.
    """

    keys: int = 5000
    write_iops: int = 800
    seed: int = 1
    small: bool = False

    def chance(self, name: str) -> random.Random:
        """The random numbers of one lab: the same for the same seed."""
        return random.Random(f"{name} {self.seed}")  # noqa: S311 - draws parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How one run is made. `on_page` takes the page a user would see of the first stage, where somebody looks on;
    `page_options` are those of `culpa why` for it. `fix`: whether a fix of each verdict is tried.
    """

    parameters: Parameters
    trace: bool
    progress: Callable[[str], None]
    on_page: Callable[[str], None] | None = None
    page_options: tuple[str, ...] = ()
    fix: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What a lab's play yields; `disk` says what the data lay on, `drawn` what was chosen at random."""

    stages: tuple[Stage, ...]
    disk: str
    drawn: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A declaration: data, and `play`, which makes the trouble, has it judged and repairs it.

    `seed` is the described case that the lab repeats; one that is not `fast` takes minutes.
    """

    name: str
    family: Family
    needs: tuple[Need, ...]
    fires: tuple[str, ...]
    silent: tuple[str, ...]
    play: Callable[[Conditions], Played]
    seed: str | None = None
    fast: bool = True

    def healthy(self, *, silent: tuple[str, ...], play: Callable[[Conditions], Played]) -> Lab:
        """Its twin: the same load on a sound set-up."""
        return replace(self, name=f"{self.name}-healthy", fires=(), silent=silent, fast=True, play=play)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRange:
    """Some lines of a source file, both ends included."""

    file: Path
    first_line: int
    last_line: int

    def named_in(self, cause: str) -> TruthOn:
        """That one of them must be named in a cause."""
        return TruthOn(cause=cause, code=str(self.file), first_line=self.first_line, last_line=self.last_line)
