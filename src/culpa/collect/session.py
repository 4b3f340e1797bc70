"""One recording: resolve the target, attach, ask, decide when enough was seen, and hand over a capture.

The only room that knows the order of things: attach before the probe's first request or the command's exec, detach
before the probe is cut off. Whatever happens, an interrupt included, everything that was started is stopped.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType
from typing import Final

import msgspec
import polars as pl

from culpa.capture import bundle, manifest, schema
from culpa.capture.bundle import Capture
from culpa.capture.manifest import BlindSpot, EndedBy
from culpa.collect.checkup import Checkup
from culpa.collect.checkup_host import HostView
from culpa.collect.command import CommandProbe, user_for
from culpa.collect.commandline import masked_arguments
from culpa.collect.exchange import Sent
from culpa.collect.groups import find_group
from culpa.collect.options import Options, credentials_of, request_plan
from culpa.collect.pings import PINGS_PER_SECOND, PingProbe
from culpa.collect.probe import HttpProbe
from culpa.collect.procfs import PROC, own_pid, require_proc
from culpa.collect.ranking import busiest
from culpa.collect.redis_answers import NotAnswered
from culpa.collect.redis_link import Link
from culpa.collect.resolve import process_stat, resolve
from culpa.collect.watch import Limits, Watch
from culpa.collect.window import Kind, Share, Window
from culpa.errors import CulpaError, Interrupted, TargetVanished, UsageError
from culpa.priority import PRIORITY
from culpa.target import CaptureTarget, CommandTarget, GroupTarget, HostTarget, RedisTarget, Target, UrlTarget
from culpa.units import NS_PER_SECOND, format_ns, printable

TICK_SECONDS: Final = 0.1
SOMETHING_NS: Final = NS_PER_SECOND // 10
"""A window shorter than this saw nothing worth a verdict."""
SLOWER_THAN_NS: Final = NS_PER_SECOND // 5
"""Default of `--slower-than`."""
GRACE_SECONDS: Final = 1.0
"""A request that is nearly done is not cut off: servers complain about that."""
TELL_AFTER_NS: Final = 15 * NS_PER_SECOND
_DEAD: Final = frozenset("ZXx")


def opened(target: CaptureTarget, options: Options) -> Capture:
    """A saved capture, with `--slower-than` put in where it was said.

    Raises:
        CaptureError: it cannot be read.
    """
    capture = bundle.open_capture(target.path)
    if options.slower_than_ns is None:
        return capture
    watched = msgspec.structs.replace(capture.manifest.target, slower_than_ns=options.slower_than_ns)
    return replace(capture, manifest=msgspec.structs.replace(capture.manifest, target=watched))


def record(
    target: Target,
    options: Options,
    *,
    progress: Callable[[str], None],
    enough: Callable[[Capture], Share | None],
    live: Callable[[str], None] = lambda _: None,
) -> Capture:
    """Watch the target until enough was seen.

    Args:
        target: anything but a saved capture.
        options: already checked by `check`.
        progress: takes sentences that stay.
        enough: judges a capture of what was seen so far.
        live: takes the line that changes.

    Raises:
        UsageError: the target means several things, or an option is wrong.
        CulpaError: there is no such target, or it cannot be asked.
        TargetVanished: it ended before anything was seen.
        Interrupted: so did culpa.
    """
    require_proc()
    with _interrupts() as stopping, ExitStack() as stack:
        recording = _Recording(target, options, progress, enough, live, stopping)
        recording.open(stack)
        return recording.run()


class _Recording:
    """One run of `record`."""

    def __init__(
        self,
        target: Target,
        options: Options,
        progress: Callable[[str], None],
        enough: Callable[[Capture], Share | None],
        live: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        self._target = target
        self._options = options
        self._say = progress
        self._enough = enough
        self._live = live
        self._stopping = stopping
        self._spots: list[BlindSpot] = []
        self._identity: dict[int, int] = {}
        self._probe: HttpProbe | CommandProbe | PingProbe | None = None
        self._checkup: Checkup | None = None
        self._host_view: HostView | None = None
        self._told = False
        self._watch: Watch
        self._window: Window

    def open(self, stack: ExitStack) -> None:
        """Find the processes and attach to them; nothing is asked yet."""
        target, options = self._target, self._options
        plan = request_plan(target, options) if isinstance(target, UrlTarget) and not options.passive else None
        if isinstance(target, CommandTarget):
            self._probe = CommandProbe(
                target.argv, user=user_for(options.user), output_to_stderr=options.output_to_stderr
            )
            stack.callback(self._probe.stop)
            with PRIORITY.taking_part():  # the command is started like any other
                pids: tuple[int, ...] = (self._probe.prepare(),)
        elif options.checkup is not None:
            pids = self._examine(options.checkup, stack)
        else:
            pids = self._resolved(asks=plan is not None)
        self._stop_if_interrupted()
        self._remember(pids)
        credentials = credentials_of(target)
        self._watch = stack.enter_context(
            Watch(
                pids,
                Limits(
                    trace=options.trace,
                    budget_percent=options.budget_percent,
                    credentials=credentials,
                    silent=options.passive,
                    redis=isinstance(target, RedisTarget),
                    examined=options.checkup is not None,
                ),
                find_group(target).members if isinstance(target, GroupTarget) else frozenset,
            )
        )
        self._watch.start()
        self._window = Window(start_ns=self._watch.start_ns, for_ns=options.for_ns, kind=self._kind())
        if plan is not None:
            self._probe = HttpProbe(plan, proceed=self._proceed, say=self._say)
            stack.callback(self._probe.stop)

    def run(self) -> Capture:
        """Ask, wait until enough was seen, and put the capture together."""
        self._begin()
        ended_by = self._wait()
        if isinstance(self._probe, HttpProbe | PingProbe):
            self._probe.halt()
        capture = self._watch.stop(self._named(), self._requests, ended_by)
        if isinstance(self._probe, HttpProbe):
            self._probe.stop(grace_seconds=0.0 if ended_by == "interrupt" else GRACE_SECONDS)
            self._spots.extend(self._probe.blind_spots())
            if self._probe.failure is not None:
                raise self._probe.failure
        if isinstance(self._probe, CommandProbe):
            capture = self._close_command(self._probe, capture)
        if isinstance(self._probe, PingProbe):
            self._probe.stop()
            self._spots.extend(self._probe.blind_spots())
        if self._checkup is not None:
            capture = self._close_checkup(self._checkup, capture)
        self._refuse_empty(capture, ended_by)
        spots = (*capture.manifest.blind_spots, *self._spots)
        return replace(capture, manifest=msgspec.structs.replace(capture.manifest, blind_spots=spots))

    def _examine(self, link: Link, stack: ExitStack) -> tuple[int, ...]:
        """Reach the server and ask it everything once; its processes, where they are on this host."""
        try:
            self._checkup = Checkup(link, raises_monitor=self._options.latency_monitor)
            stack.callback(self._checkup.close)
            self._checkup.start()
            for sentence in self._checkup.monitor.settled:
                self._say(sentence)
            self._probe = PingProbe(link)
            stack.callback(self._probe.stop)
        except NotAnswered as reason:
            raise CulpaError(f"cannot ask {self._target.display}: {reason.why}", way_out=reason.way_out) from reason
        pids = self._resolved(asks=True)
        mine = self._checkup.recognise(pids)
        if pids and mine is None:
            self._blind(
                "the server's process",
                "the server names another process id as its own than the process that listens here has",
                "run culpa on the host where the server runs",
            )
        self._host_view = HostView(mine)
        if self._options.baseline:
            self._say("keeps one CPU busy for a second, to see how late this host lets it run")
            with PRIORITY.taking_part():
                self._host_view.baseline()
        self._host_view.start()
        return () if mine is None else (mine,)

    def _kind(self) -> Kind:
        if isinstance(self._target, CommandTarget):
            return "command"
        return "url" if isinstance(self._target, UrlTarget) and not self._options.passive else "watch"

    def _resolved(self, *, asks: bool) -> tuple[int, ...]:
        if isinstance(self._target, HostTarget):
            return self._busiest()
        try:
            resolution = resolve(self._target)
        except UsageError:
            raise
        except CulpaError as error:
            if not asks:
                raise
            self._blind("the server's processes", error.what, error.way_out)
            return ()
        if not resolution.pids:
            if not asks:
                reason = resolution.reason or "no process of this host belongs to it"
                raise CulpaError(f"cannot watch {self._target.display}: {reason}", way_out="run culpa on that host")
            self._blind("the server's processes", resolution.reason or "they are not on this host", "run culpa there")
        return resolution.pids

    def _busiest(self) -> tuple[int, ...]:
        self._say("looks for one second at which processes do not idle")
        found = busiest(exclude={own_pid()}, stopping=self._stopping)
        if not found:
            self._blind("idle processes", "no process did more than idle", "watch one by its PID while it is slow")
        return tuple(one.pid for one in found)

    def _remember(self, pids: tuple[int, ...]) -> None:
        """A pid may be used again: with its start time it is the process that was meant."""
        for pid in pids:
            stat = process_stat(PROC, pid)
            if stat is not None and stat.state not in _DEAD:
                self._identity[pid] = stat.starttime
        if pids and not self._identity:
            raise TargetVanished(f"{self._target.display} ended before anything was seen", way_out="start it again")

    def _begin(self) -> None:
        if isinstance(self._probe, CommandProbe):
            self._probe.release()
        elif isinstance(self._probe, HttpProbe):
            plan = self._probe.plan
            again = "again and again, one at a time, at most 20 a second" if plan.repeats else "once"
            self._say(f"asks {plan.method} {plan.shown} {again}")
            self._probe.start()
        elif isinstance(self._probe, PingProbe):
            self._say(f"sends PING to {self._target.display} {PINGS_PER_SECOND} times a second, and INFO once a second")
            if self._checkup is not None and self._checkup.monitor.is_raised:
                self._say("has its latency monitor switched on meanwhile (CONFIG SET), and back at the end")
            self._probe.start()
        else:
            asks = "sends nothing" if self._options.passive else "sends it no requests"
            self._say(f"watches {self._target.display}, {asks}")

    def _wait(self) -> EndedBy:
        while True:
            if self._stopping.wait(TICK_SECONDS):
                return "interrupt"
            now = time.monotonic_ns()
            self._hear_probe()
            events = self._watch.events()
            if self._watch.detail_ended():
                self._window.detail_over()
            ended_by = self._exited() or self._window.ends(now, events)
            if ended_by is not None:
                return ended_by
            self._watch.tick()
            self._remember(tuple(self._watch.targets - self._identity.keys()))
            self._tell(now)
            if self._window.wants_judgement(now, events):
                capture = self._watch.snapshot(self._named(), self._requests())
                self._window.judged(now, self._enough(capture), time.monotonic_ns())

    def _hear_probe(self) -> None:
        if self._probe is None:
            return
        for sent in self._probe.sent()[:1]:
            if sent.end_ns is not None:
                self._window.request_ended(sent.start_ns, sent.end_ns)
        if self._probe.finished.is_set():
            self._window.requests_over()

    def _exited(self) -> EndedBy | None:
        """Whether there is nothing left to watch: the command or the target is gone, or cannot be asked."""
        if isinstance(self._probe, CommandProbe):
            return "exit" if self._probe.finished.is_set() else None
        if isinstance(self._probe, HttpProbe) and self._probe.failure is not None:
            return "exit"
        if not self._identity or isinstance(self._target, HostTarget):
            return None
        return None if any(self._alive(pid) for pid in self._identity) else "exit"

    def _alive(self, pid: int) -> bool:
        stat = process_stat(PROC, pid)
        return stat is not None and stat.state not in _DEAD and stat.starttime == self._identity[pid]

    def _tell(self, now: int) -> None:
        elapsed = now - self._watch.start_ns
        pending = self._probe.in_flight() if self._probe is not None else None
        waiting = f", a request open for {format_ns(now - pending.start_ns)}" if pending is not None else ""
        self._live(f"watching {self._target.display} for {format_ns(elapsed)}{waiting} (Ctrl-C: verdict now)")
        if elapsed > TELL_AFTER_NS and pending is not None and not self._told and self._options.for_ns is None:
            self._told = True
            self._say(f"waits for the end of the request, at most {self._window.longest_ns // NS_PER_SECOND} s in all")

    def _proceed(self, sent: Sent) -> bool:
        return sent.end_ns is None or not self._window.is_whole_picture(sent.start_ns, sent.end_ns)

    def _requests(self) -> pl.DataFrame:
        return schema.REQUESTS.empty() if self._probe is None else self._probe.rows()

    def _named(self) -> manifest.Target:
        slower_than_ns = self._options.slower_than_ns
        return manifest.Target(
            kind=_kind_of(self._target),
            name=self._target.display,
            pids=tuple(sorted(self._identity)),
            method=self._method(),
            slower_than_ns=SLOWER_THAN_NS if slower_than_ns is None else slower_than_ns,
        )

    def _method(self) -> str:
        if isinstance(self._probe, PingProbe):
            return "PING"
        return self._probe.plan.method if isinstance(self._probe, HttpProbe) else "GET"

    def _close_command(self, probe: CommandProbe, capture: Capture) -> Capture:
        if self._stopping.is_set():
            probe.interrupt()
        running = probe.stop()
        if running is not None:
            self._say(f"the command still runs as process {running}; culpa leaves it running")
        for sent in probe.sent():
            self._say(f"the command ended with status {sent.status}")
        assert isinstance(self._target, CommandTarget)
        return _with_command(capture, self._target.argv)

    def _close_checkup(self, checkup: Checkup, capture: Capture) -> Capture:
        checkup.stop()
        self._spots.extend(checkup.blind_spots())
        more = {schema.REDIS: checkup.rows()}
        if self._host_view is not None:
            more[schema.COUNTERS] = self._host_view.stop()
        tables = {table.name: pl.concat([capture.frame(table), rows]) for table, rows in more.items()}
        return replace(capture, tables=dict(capture.tables) | tables)

    def _refuse_empty(self, capture: Capture, ended_by: EndedBy) -> None:
        window = capture.manifest.window
        long_enough = window.end_ns - window.start_ns >= SOMETHING_NS
        quiet = ended_by == "interrupt"  # who watched until they had enough may well have watched a process that idles
        told = capture.manifest.cost.events or capture.frame(schema.SWEEPS).height or quiet
        seen = capture.frame(schema.REQUESTS).height or (long_enough and told)
        if seen:
            return
        if ended_by == "interrupt":
            raise Interrupted("interrupted before anything was seen")
        if ended_by == "exit":
            raise TargetVanished(f"{self._target.display} ended before anything was seen", way_out="start it again")

    def _stop_if_interrupted(self) -> None:
        if self._stopping.is_set():
            raise Interrupted("interrupted before anything was seen")

    def _blind(self, what: str, why: str, way_out: str) -> None:
        self._spots.append(BlindSpot(what=what, why=why, way_out=way_out))


def _kind_of(target: Target) -> manifest.TargetKind:
    if isinstance(target, HostTarget):
        return "host"
    if isinstance(target, UrlTarget):
        return "url"
    if isinstance(target, RedisTarget):
        return "redis"
    return "command" if isinstance(target, CommandTarget) else "process"


def _with_command(capture: Capture, argv: tuple[str, ...]) -> Capture:
    """Give a command that ended before anyone looked its own name in place of the launcher's."""
    (pid,) = capture.manifest.target.pids or (0,)
    processes = capture.frame(schema.PROCESSES)
    launcher = (pl.col("pid") == pid) & pl.col("cmdline").str.contains("launcher.py", literal=True)
    own = {
        "cmdline": printable(" ".join(masked_arguments(argv)), 500),
        "comm": printable(argv[0].rpartition("/")[2], 15),
        "exe": None,
    }
    renamed = processes.with_columns(
        pl.when(launcher).then(pl.lit(text, dtype=pl.String)).otherwise(pl.col(name)).alias(name)
        for name, text in own.items()
    )
    return replace(capture, tables=dict(capture.tables) | {schema.PROCESSES.name: renamed})


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C (or SIGTERM) sets; a second Ctrl-C raises KeyboardInterrupt as ever."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    watched = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in watched}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
