"""A stand: one HTTP service of a lab, running on a site, asked by the lab's own clock and judged by culpa."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from culpa.labs import ledger, leftovers, ports, product, repair, slowdisk, stopwatch, throttle
from culpa.labs.lab import Conditions, Measured, Played, Repair, Stage, Truth, TruthWho
from culpa.labs.score import score
from culpa.labs.site import Program, Site
from culpa.units import format_seconds

FAST_REQUESTS = 3
SERVER = "serve.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """The running case. `app_file` is the service's source as it runs: a copy in the run's directory, because code
    inside site-packages counts as a library."""

    site: Site
    conditions: Conditions
    disk: slowdisk.Disk
    app: Program
    app_file: Path
    url: str

    def seconds(self, action: str, *, requests: int = 1) -> float:
        """Median time of a request by the lab's own clock; says it."""
        seconds = stopwatch.median_seconds(f"{self.url}/{action}", requests=requests)
        self.conditions.progress(f"GET /{action}: {format_seconds(seconds)}")
        return seconds

    def longest_seconds(self, action: str, *, for_s: float) -> float:
        """The longest request of some seconds by the lab's own clock; says it."""
        seconds = stopwatch.longest_seconds(f"{self.url}/{action}", for_s=for_s)
        self.conditions.progress(f"GET /{action}: at most {format_seconds(seconds)}")
        return seconds

    def ready(self, action: str) -> None:
        """Wait until an action gives its answer; raises LabError if it never does."""
        stopwatch.wait_ready(f"{self.url}/{action}", self.app)

    def judge(self, action: str, *, show: bool = False) -> product.Judged:
        """Have culpa look for the culprit of a request, and try a fix of its verdict where that is asked for; with
        `show` whoever looks on sees the page of it.
        """
        url, on_page = f"{self.url}/{action}", self.conditions.on_page if show else None
        self.conditions.progress(f"culpa why {url}")
        capture = self.site.directory / "shown.culpa" if on_page else None
        judged = product.why(self.site, url, trace=self.conditions.trace, save=capture)
        if capture and on_page:
            on_page(product.page(self.site, capture, self.conditions.page_options))
        return replace(judged, repair=self._repair(action, judged)) if self.conditions.fix else judged

    def settings(self) -> Mapping[str, str]:
        """What a fix might change, read without culpa: CPUs and nice value of each of the run's programs."""
        read = {}
        for entry in ledger.read(self.site.places.ledger):
            if isinstance(entry, ledger.Started) and leftovers.starttime(entry.pid) == entry.starttime:
                cpus = sorted(os.sched_getaffinity(entry.pid))
                read[str(entry.pid)] = f"{cpus} {os.getpriority(os.PRIO_PROCESS, entry.pid)}"
        return read

    def _repair(self, action: str, judged: product.Judged) -> Repair:
        clock = repair.Clock(
            before=lambda: self.seconds(action), after=lambda: self.seconds(action, requests=FAST_REQUESTS),
            settings=self.settings, say=self.conditions.progress,
        )  # fmt: skip
        return repair.tried(self.site, judged.verdict, clock)

    def stage(self, name: str, action: str, truth: Truth, judged: product.Judged, measured: Measured) -> Stage:
        """One scored diagnosis."""
        return Stage(
            name=name,
            url=f"{self.url}/{action}",
            truth=truth,
            verdict=judged.verdict,
            measured=measured,
            score=score(judged.verdict, truth, measured, acquit=self.conditions.trace),
            seconds=judged.seconds,
            repair=judged.repair,
        )

    def troubled(self, action: str, truth: Truth, *, repaired: str, mend: Callable[[], None] | None = None) -> Played:
        """A case of one stage: measured, judged, and measured again the repaired way, after the mending if there is."""
        before = self.seconds(action)
        judged = self.judge(action, show=True)
        if mend is not None:
            mend()
        after = self.seconds(repaired, requests=FAST_REQUESTS)
        stage = self.stage("as found", action, truth, judged, Measured(before=before, after_fix=after))
        return Played(stages=(stage,), disk=self.disk.kind)

    def sound(self, action: str) -> Played:
        """A case of one stage in which nothing is wrong."""
        measured = Measured(before=self.seconds(action, requests=FAST_REQUESTS))
        judged = self.judge(action)
        stage = self.stage("healthy", action, Truth(causes=()), judged, measured)
        return Played(stages=(stage,), disk=self.disk.kind)


def who(cause: str, pid: int) -> TruthWho:
    """A living process that must be named in a cause."""
    comm = Path(f"/proc/{pid}/comm").read_text(errors="replace").removesuffix("\n")
    return TruthWho(cause=cause, pid=pid, comm=comm)


def raised(
    here: Site, conditions: Conditions, *, app: str, on: slowdisk.Disk, arguments: tuple[str, ...] = ()
) -> Stand:
    """Start a service and wait until it answers.

    Args:
        here: the site it stands on, which also undoes it.
        conditions: parameters and where progress goes.
        app: a module in `labs/apps` that `serve.py` can serve.
        on: the disk that its data lies on, whose limit is to hold for it.
        arguments: what the module takes.

    Raises:
        LabError: it does not start.
    """
    server, file = copied(here, SERVER, SERVER), copied(here, f"{app}.py", "app.py")
    return started(here, conditions, server, on=on, arguments=(str(file), *arguments), app_file=file)


def started(
    here: Site,
    conditions: Conditions,
    script: Path,
    *,
    on: slowdisk.Disk,
    arguments: tuple[str, ...],
    app_file: Path | None = None,
    name: str = "app",
) -> Stand:
    """Start a script that takes `--port` before its arguments, and wait until it answers.

    `app_file` is the source to be named where that is not the script itself.

    Raises:
        LabError: it does not start.
    """
    port = ports.free_port()
    argv = [sys.executable, str(script), "--port", str(port), *arguments]
    return served(here, conditions, argv, file=app_file or script, port=port, on=on, name=name)


def served(
    here: Site, conditions: Conditions, argv: list[str], *, file: Path, port: int, on: slowdisk.Disk, name: str = "app"
) -> Stand:
    """Start a service of any kind, with its source in `file`, and wait until it answers on `port`.

    Raises:
        LabError: it does not start.
    """
    program = here.start(argv, name=name)
    on.admit(program.pid)
    url = f"http://{ports.LOOPBACK}:{port}"
    stopwatch.wait_ready(f"{url}/", program)
    return Stand(site=here, conditions=conditions, disk=on, app=program, app_file=file, url=url)


def disk(here: Site, conditions: Conditions, *, slow: bool) -> slowdisk.Disk:
    """The slow disk (if `slow`, and where this host allows it) or the ordinary one."""
    if not slow:
        return slowdisk.ordinary_disk(here)
    rate = throttle.Rate(per_second=conditions.parameters.write_iops)
    return slowdisk.slow_or_ordinary(here, slowdisk.Slowness(rate=rate), progress=conditions.progress)


def copied(here: Site, app: str, name: str) -> Path:
    """A copy of a file of `labs/apps` in the run's directory."""
    file = here.directory / name
    file.write_text(resources.files("culpa.labs.apps").joinpath(app).read_text())
    return file
