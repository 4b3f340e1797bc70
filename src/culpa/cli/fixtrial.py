"""`culpa fix --verify` and `--try`: who is asked meanwhile, and the trial itself.

What is asked is the verdict's own target: a URL by GET, a Redis server by PING; else the Redis server that the fix is
for, or what `--ask` names. Nothing but these questions is sent: the load is the one there is.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from culpa.cli.fixsource import Ways
from culpa.errors import CulpaError
from culpa.talk import Talk
from culpa.units import NS_PER_SECOND, printable

if TYPE_CHECKING:
    from culpa.collect.exchange import HttpPlan, Sent
    from culpa.collect.probe import HttpProbe
    from culpa.collect.redis_link import Link
    from culpa.diagnose.verdict import Verdict
    from culpa.fix.measuring import Answer, Probe
    from culpa.fix.parameters import Parameters
    from culpa.fix.proposals import Proposal
    from culpa.fix.switch import Switch
    from culpa.fix.trial import Measured
    from culpa.target import UrlTarget

PING_INTERVAL_NS: Final = NS_PER_SECOND // 100
"""A p99 needs some answers; a server that answers 100,000 a second does not notice a hundred more."""
HIDDEN: Final = "=***"
"""What a verdict has instead of a secret in a query."""
AGAIN_SECONDS: Final = 1.0
_ASK: Final = "name what to ask, with --ask http://HOST:PORT/PATH or --ask redis://HOST:PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line says about a trial. `try_ns` None: before and after one change."""

    try_ns: int | None
    for_ns: int | None
    keep: bool
    ask: str | None
    verify_tls: bool


def measure(switch: Switch, probe: Probe, plan: Plan) -> Measured:
    """Run the trial; a request to end (SIGTERM, SIGHUP) is taken as Ctrl-C, so that the fix is taken back first."""
    import numpy as np

    from culpa.fix.trial import DEFAULT_SECONDS, Trial

    talk = Talk(quiet=False)
    talk.say(f"asks {probe.what} again and again, and sends nothing else")
    trial = Trial(switch, probe, say=talk.live, dice=np.random.default_rng())
    try:
        with _ends_well():
            if plan.try_ns is not None:
                return trial.alternate(plan.try_ns / NS_PER_SECOND, keep=plan.keep)
            return trial.verify(plan.for_ns / NS_PER_SECOND if plan.for_ns else DEFAULT_SECONDS)
    finally:
        talk.clear()


def probe_for(verdict: Verdict, chosen: Proposal, ways: Ways, plan: Plan) -> Probe:
    """Who is asked.

    Raises:
        CulpaError: there is nothing to ask, or it cannot be asked. Nothing was changed.
    """
    from culpa.target import RedisTarget, UrlTarget, parse_target

    if plan.ask is not None:
        target = parse_target(plan.ask)
        if isinstance(target, RedisTarget):
            return _Pings(_link(plan.ask, ways, Talk(quiet=False)), target.display)
        if isinstance(target, UrlTarget):
            return _Requests(target, verify_tls=plan.verify_tls)
        raise CulpaError(f"{printable(plan.ask, 80)} cannot be asked", way_out=_ASK)
    return _of_verdict(verdict, chosen.parameters, ways, verify_tls=plan.verify_tls)


def _of_verdict(verdict: Verdict, parameters: Parameters | None, ways: Ways, *, verify_tls: bool) -> Probe:
    from culpa.fix.parameters import RedisSetting
    from culpa.target import RedisTarget, UrlTarget, parse_target

    name = verdict.target.name
    target = parse_target(name) if verdict.target.kind in ("url", "redis") else None
    if isinstance(target, UrlTarget):
        if HIDDEN in name:
            what = f"a part of {printable(name)} is secret, and not kept in the verdict"
            raise CulpaError(f"{what}; nothing was changed", way_out="name the whole URL with --ask URL")
        return _Requests(target, verify_tls=verify_tls)
    server = parameters if isinstance(parameters, RedisSetting) else None
    if server is None and isinstance(target, RedisTarget):
        server = RedisSetting(
            setting="", value="", host=target.host, port=target.port, path=target.path, tls=target.tls
        )  # fmt: skip
    if server is None:
        what = f"the verdict is of {printable(name)}: there is nothing that culpa could ask, and so nothing to measure"
        raise CulpaError(f"{what}; nothing was changed", way_out=_ASK)
    return _Pings(ways.link_to(server), f"Redis at {server.server}")


def _link(url: str, ways: Ways, talk: Talk) -> Link:
    from culpa.cli.reaching import reach

    return reach(url, ways.tls, talk)[1]


class _Requests:
    """One GET at a time, at most twenty a second; where a server refuses for a while it is asked again."""

    def __init__(self, target: UrlTarget, *, verify_tls: bool) -> None:
        from culpa.collect.options import HttpSettings, Options, request_plan

        self._plan: HttpPlan = request_plan(target, Options(http=HttpSettings(verify_tls=verify_tls)))
        self.what = f"GET {self._plan.shown}"
        self._probe: HttpProbe = self._made()
        self._answers: list[Answer] = []
        self._read = 0

    def start(self) -> None:
        self._probe.start()

    def answers(self) -> Sequence[Answer]:
        from culpa.fix.measuring import Answer

        probe = self._probe
        over = probe.finished.is_set()
        sent = probe.sent()
        self._answers += [_answer(one, Answer) for one in sent[self._read :]]
        self._read = len(sent)
        last_ns = sent[-1].start_ns if sent else 0
        if over and time.monotonic_ns() > last_ns + AGAIN_SECONDS * NS_PER_SECOND:
            self._probe, self._read = self._made(), 0
            self._probe.start()
        return self._answers

    def waits_since_ns(self) -> int | None:
        open_one = self._probe.in_flight()
        return None if open_one is None or open_one.end_ns is not None else open_one.start_ns

    def stop(self) -> None:
        self._probe.stop()

    def _made(self) -> HttpProbe:
        from culpa.collect.probe import HttpProbe

        return HttpProbe(self._plan)


class _Pings:
    """One PING at a time."""

    def __init__(self, link: Link, name: str) -> None:
        from culpa.collect.pings import PingProbe
        from culpa.collect.redis_answers import NotAnswered

        self.what = f"PING of {name}"
        self._answers: list[Answer] = []
        self._read = 0
        self._lost = 0
        try:
            self._probe = PingProbe(link, PING_INTERVAL_NS)
        except NotAnswered as reason:
            what = f"cannot ask {self.what}: {reason.why}; nothing was changed"
            raise CulpaError(what, way_out=reason.way_out) from reason

    def start(self) -> None:
        self._probe.start()

    def answers(self) -> Sequence[Answer]:
        from culpa.fix.measuring import Answer

        sent = self._probe.sent()
        self._answers += [_answer(one, Answer) for one in sent[self._read :]]
        self._read = len(sent)
        lost = self._probe.lost()
        if len(lost) > self._lost:
            self._lost = len(lost)
            self._answers.append(Answer(start_ns=time.monotonic_ns(), seconds=None, error=lost[-1]))
        return self._answers

    def waits_since_ns(self) -> int | None:
        open_one = self._probe.in_flight()
        return None if open_one is None else open_one.start_ns

    def stop(self) -> None:
        self._probe.stop()


def _answer(sent: Sent, made: type[Answer]) -> Answer:
    """An error status is an error: what took how long is then not what clients wait for."""
    error = sent.error or (f"status {sent.status}" if sent.status is not None and sent.status >= 400 else "")
    seconds = (sent.end_ns - sent.start_ns) / NS_PER_SECOND if sent.end_ns is not None else None
    return made(start_ns=sent.start_ns, seconds=seconds, error=error)


@contextmanager
def _ends_well() -> Iterator[None]:
    """A request to end comes as Ctrl-C does."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    former: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            former[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
