"""Labs of `culpa redis URL`: a server, clients with a habit, and a check-up of the server while they are at it.

Each `Case` makes two labs: the habit as found, and its healthy twin, the same work done in a way that harms nobody.
The lab's own clock is a client that reads one small value at a fixed pace; what counts is how late each answer is
after the moment its question was due, so that a stall counts for all who would have asked meanwhile.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from culpa.labs import product, redis_server, repair, slowdisk, stand, standstills
from culpa.labs.lab import Conditions, Family, Lab, Measured, Need, Played, Stage, Truth, TruthOn
from culpa.labs.rates import quantile
from culpa.labs.score import score
from culpa.labs.site import Program, Site, opened
from culpa.labs.waiting import wait_until
from culpa.units import format_seconds

LATE = 0.98
"""The share of questions that are answered no later than what is measured."""
ASK_EVERY_S = 0.005
MEASURED_S = 1.8
STALL_S = 0.2
"""Nothing but the trouble makes anybody wait that long."""
WATCHED_S, WATCHED_SMALL_S = 10, 5
"""How long culpa watches; as long as its default, and in CI."""
ALSO_TRUE = ("cpu.runqueue", "redis.cpu.starved")
"""On a host with few CPUs culpa itself and the lab's clients take some of the server's time."""


Programs = tuple[Program, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What `apps/redis_load.py` is told: how often (ms), what, with which arguments."""

    every_ms: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A case with everything that was chosen at random.

    `load` is the habit as found and `sound` what it should be; `wrong` are settings as found and `right` as they should
    be. `fill`: commands that put the data there; `sound_fill`: those of the twin, if others. `beside` starts what
    disturbs the server from outside, and `harmless` what does not; `mend` is the repair, if it is not to end what
    disturbs, and `after` what is done once that has ended. `url`: where clients reach the server, if not at its own
    port. `device`: the one that must be named. `amounts`: what was drawn, for the record.
    """

    load: Load
    sound: Load | None = None
    wrong: Mapping[str, str] = field(default_factory=dict)
    right: Mapping[str, str] = field(default_factory=dict)
    fill: tuple[tuple[str, ...], ...] = ()
    sound_fill: tuple[tuple[str, ...], ...] | None = None
    beside: Callable[[], Programs] | None = None
    harmless: Callable[[], Programs] | None = None
    mend: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    url: str | None = None
    device: str | None = None
    amounts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A verdict, and how long the lab's own client waited meanwhile."""

    judged: product.Judged
    waits: tuple[standstills.Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A running server on its site; `disk` is where its files are, if the case has a disk of its own."""

    site: Site
    conditions: Conditions
    server: redis_server.RedisServer
    disk: slowdisk.Disk | None = None
    measured_s: float = MEASURED_S

    def load(self, load: Load) -> Program:
        """Clients at work; returns once they go round."""
        return self.program("redis_load.py", str(self.server.port), str(load.every_ms), *load.words)

    def program(self, app: str, *arguments: str) -> Program:
        """A program of `labs/apps` that says `ready` when it is."""
        file = stand.copied(self.site, app, app)
        name = app.removesuffix(".py")
        program = self.site.start([sys.executable, str(file), *arguments], name=name)
        program.wait_ready()
        return program

    def lateness(self) -> float:
        """How late (s) the answer to a GET comes after the GET was due; says it."""
        late, due = [], time.monotonic()
        end = due + self.measured_s
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            self.server.client.get("ordinary:1")
            late.append(time.monotonic() - due)
            due += ASK_EVERY_S
        seconds = quantile(late, LATE) or 0.0
        self.conditions.progress(f"GET: {LATE:.0%} answered within {format_seconds(seconds)}")
        return seconds

    def await_stall(self) -> None:
        """Wait until the trouble has shown itself once; LabError if it does not."""
        ping = self.server.client.ping

        def is_late() -> bool:
            asked = time.monotonic()
            ping()
            return time.monotonic() - asked >= STALL_S

        wait_until(is_late, what="a client to wait")

    def judge(self, url: str) -> Examined:
        """Have culpa examine the server, while a client of the lab's own measures how long it keeps one waiting."""
        seconds = WATCHED_SMALL_S if self.conditions.parameters.small else WATCHED_S
        clock = self.program("redis_clock.py", str(self.server.port))
        self.conditions.progress(f"culpa redis {url}")
        judged = product.redis(self.site, url, trace=self.conditions.trace, seconds=seconds)
        clock.require_running()
        clock.stop()
        waits = standstills.told(clock)
        if self.conditions.fix:
            own = repair.Clock(
                before=self.lateness, after=self.lateness, settings=self.server.settings, say=self.conditions.progress
            )
            judged = replace(judged, repair=repair.tried(self.site, judged.verdict, own))
        return Examined(judged=judged, waits=waits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One habit, and what culpa must say of it.

    `draw` chooses its amounts. `cause` must come first; `command` is the verb it must name. `of_host`: whether the
    server's process must be named (it cannot be where only its protocol is seen), or with `culprit_beside` the first
    program beside it. `settings`: what the server is started with; `disk` makes the disk for its files; `measured_s`:
    how long the lab's own clock looks.
    """

    name: str
    cause: str
    draw: Callable[[Scene, random.Random], Drawn]
    fix: str
    silent: tuple[str, ...]
    command: str | None = None
    may: tuple[str, ...] = ()
    of_host: bool = True
    culprit_beside: bool = False
    seed: str | None = None
    needs: tuple[Need, ...] = ("redis-server",)
    settings: Mapping[str, str] = field(default_factory=dict)
    disk: Callable[[Site], slowdisk.Disk] | None = None
    measured_s: float = MEASURED_S
    fast: bool = True
    family: Family = "redis"


Cases = tuple[Case, ...]


def labs(case: Case) -> tuple[Lab, Lab]:
    """The lab of a case and its healthy twin."""
    name, needs, family = case.name, case.needs, case.family
    sick = Lab(
        name=name, family=family, needs=needs, seed=case.seed, fires=(case.cause,), silent=case.silent, fast=case.fast,
        play=lambda conditions: _play((case,), conditions),
    )  # fmt: skip
    silent = (case.cause, *case.silent)
    healthy = Lab(
        name=f"{name}-healthy", family=family, needs=needs, seed=None, fires=(), silent=silent, fast=True,
        play=lambda conditions: _play_healthy(case, conditions),
    )  # fmt: skip
    return sick, healthy


def double(first: Case, second: Case, *, fast: bool = False) -> Lab:
    """Two cases at once, on one server: both causes must be named, in whichever order."""
    cases = (first, second)
    causes = tuple(case.cause for case in cases)
    return Lab(
        name="-".join(("double", *(case.name.removeprefix("redis-") for case in cases))),
        family="double", needs=tuple(dict.fromkeys(need for case in cases for need in case.needs)), seed=None,
        fires=causes, silent=tuple(cause for cause in first.silent if cause in second.silent and cause not in causes),
        fast=fast, play=lambda conditions: _play(cases, conditions),
    )  # fmt: skip


def _play(cases: Cases, conditions: Conditions) -> Played:
    with opened(conditions.progress) as here:
        scene, drawn = _prepared(cases, here, conditions)
        for one in drawn:
            _fill(scene, one.fill)
            _set(scene, one.wrong)
        loads = [scene.load(one.load) for one in drawn]
        beside = [one.beside() if one.beside else () for one in drawn]
        if scene.disk is not None:
            scene.await_stall()  # a disk has some writes to spare at first
        before = scene.lateness()
        truth, examined = _truth(cases, scene, drawn, beside), scene.judge(_url(scene, drawn))
        _require(*loads, *(program for programs in beside for program in programs))
        for one, load, programs in zip(drawn, loads, beside, strict=True):
            _repair(scene, one, load, programs)
        measured = Measured(before=before, after_fix=scene.lateness())
        return _played(scene, drawn, truth, examined, measured)


def _repair(scene: Scene, drawn: Drawn, load: Program, beside: Programs) -> None:
    if drawn.mend is not None:
        drawn.mend()
    else:
        for program in beside:
            program.stop()
    if drawn.after is not None:
        drawn.after()
    _set(scene, drawn.right)
    if drawn.sound is not None:
        load.stop()
        scene.load(drawn.sound)


def _play_healthy(case: Case, conditions: Conditions) -> Played:
    with opened(conditions.progress) as here:
        scene, (drawn,) = _prepared((case,), here, conditions)
        _fill(scene, drawn.fill if drawn.sound_fill is None else drawn.sound_fill)
        _set(scene, drawn.right)
        load = scene.load(drawn.sound or drawn.load)
        beside = drawn.harmless() if drawn.harmless else ()
        measured = Measured(before=scene.lateness())
        examined = scene.judge(_url(scene, (drawn,)))
        _require(load, *beside)
        return _played(scene, (drawn,), Truth(causes=()), examined, measured)


def _prepared(cases: Cases, here: Site, conditions: Conditions) -> tuple[Scene, tuple[Drawn, ...]]:
    """The server, and the cases as drawn; at most one of several has a disk of its own."""
    disk = next((case.disk(here) for case in cases if case.disk is not None), None)
    data = (disk.directory if disk is not None else here.directory) / "data"
    data.mkdir()
    settings = {name.replace("-", "_"): value for case in cases for name, value in case.settings.items()}
    server = redis_server.start(here, data, **settings)
    if disk is not None:
        disk.admit(server.pid)
    measured_s = max(case.measured_s for case in cases)
    scene = Scene(site=here, conditions=conditions, server=server, disk=disk, measured_s=measured_s)
    return scene, tuple(case.draw(scene, conditions.parameters.chance(case.name)) for case in cases)


def _url(scene: Scene, drawn: tuple[Drawn, ...]) -> str:
    return next((one.url for one in drawn if one.url is not None), scene.server.url)


def _fill(scene: Scene, commands: tuple[tuple[str, ...], ...]) -> None:
    for words in commands:
        scene.server.client.execute_command(*words)  # type: ignore[no-untyped-call]  # the client's own lack


def _set(scene: Scene, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        scene.server.set(name, value)


def _require(*programs: Program) -> None:
    """That what makes the case was at it to the end."""
    for program in programs:
        program.require_running()


def _truth(cases: Cases, scene: Scene, drawn: tuple[Drawn, ...], beside: list[Programs]) -> Truth:
    who = []
    for case, programs in zip(cases, beside, strict=True):
        if case.of_host:
            who.append(stand.who(case.cause, programs[0].pid if case.culprit_beside else scene.server.pid))
    return Truth(
        causes=tuple(case.cause for case in cases),
        any_order=len(cases) > 1,
        may=(*(cause for case in cases for cause in case.may), *ALSO_TRUE),
        who=tuple(who),
        on=tuple(
            TruthOn(cause=case.cause, command=case.command, device=one.device)
            for case, one in zip(cases, drawn, strict=True)
            if case.command or one.device
        ),
        fix="; ".join(case.fix for case in cases),
    )


def _played(scene: Scene, drawn: tuple[Drawn, ...], truth: Truth, examined: Examined, measured: Measured) -> Played:
    conditions, judged = scene.conditions, examined.judged
    true = {*truth.causes, *truth.may, *ALSO_TRUE}
    stage = Stage(
        name="as found" if truth.causes else "healthy",
        url=_url(scene, drawn),
        truth=truth,
        verdict=judged.verdict,
        measured=measured,
        score=score(judged.verdict, truth, measured, acquit=conditions.trace),
        seconds=judged.seconds,
        standstills=standstills.held_against(judged.verdict, examined.waits, true=true),
        repair=judged.repair,
    )
    amounts = {name: amount for one in drawn for name, amount in one.amounts.items()}
    return Played(stages=(stage,), disk="ordinary", drawn=amounts)
