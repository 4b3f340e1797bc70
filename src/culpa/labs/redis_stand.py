"""A stand for Redis labs: a redis-server with an append-only file on some disk, and a service that uses it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from culpa.diagnose.verdict import Verdict
from culpa.labs import product, redis_server, slowdisk, stopwatch
from culpa.labs.lab import Conditions, Measured, Stage, Truth, TruthWho
from culpa.labs.score import score
from culpa.labs.site import Program, Site
from culpa.labs.site import opened as open_site
from culpa.units import format_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """The running case. `app_file` is the service's source as it runs: a copy in the run's directory, because code
    inside site-packages counts as a library."""

    site: Site
    conditions: Conditions
    disk: slowdisk.Disk
    server: redis_server.RedisServer
    app: Program
    app_file: Path
    url: str

    def seconds(self, action: str, *, requests: int = 1) -> float:
        """Median time of a request by the lab's own clock; says it."""
        seconds = stopwatch.median_seconds(f"{self.url}/{action}", requests=requests)
        self.conditions.progress(f"GET /{action}: {format_seconds(seconds)}")
        return seconds

    def judge(self, action: str, *, save: Path | None = None) -> Verdict:
        """Have culpa look for the culprit of a request."""
        url = f"{self.url}/{action}"
        self.conditions.progress(f"culpa why {url}")
        return product.why(self.site, url, trace=self.conditions.trace, save=save)

    def stage(self, name: str, action: str, truth: Truth, verdict: Verdict, measured: Measured) -> Stage:
        """One scored diagnosis."""
        return Stage(
            name=name,
            url=f"{self.url}/{action}",
            truth=truth,
            verdict=verdict,
            measured=measured,
            score=score(verdict, truth, measured),
        )


def who(cause: str, pid: int) -> TruthWho:
    """A living process that must be named in a cause."""
    return TruthWho(cause=cause, pid=pid, comm=Path(f"/proc/{pid}/comm").read_text().removesuffix("\n"))


@contextmanager
def opened(conditions: Conditions, *, app: str, slow: bool) -> Iterator[Stand]:
    """A stand on a site of its own; see `raised`."""
    with open_site(conditions.progress) as here:
        yield raised(here, conditions, app=app, slow=slow)


def raised(here: Site, conditions: Conditions, *, app: str, slow: bool) -> Stand:
    """Start server and service; the server's data lies on the slow disk (if `slow`) or on the ordinary one.

    Args:
        here: the site it stands on, which also undoes it.
        conditions: parameters and where progress goes.
        app: a module in `labs/apps`, a program that takes --port, --redis and --seed.
        slow: whether to throttle the disk, where this host allows it.

    Raises:
        LabError: one of the parts cannot be had here.
    """
    disk = _disk(here, conditions, slow=slow)
    server = redis_server.start(here, disk.directory, appendonly="yes", appendfsync="no")
    disk.admit(server.pid)
    file = here.directory / "app.py"
    file.write_text(resources.files("culpa.labs.apps").joinpath(f"{app}.py").read_text())
    port = redis_server.free_port()
    seed = str(conditions.parameters.seed)
    argv = [sys.executable, str(file), "--port", str(port), "--redis", server.url, "--seed", seed]
    program = here.start(argv, name="app")
    url = f"http://{redis_server.LOOPBACK}:{port}"
    stopwatch.wait_ready(f"{url}/", program)
    return Stand(site=here, conditions=conditions, disk=disk, server=server, app=program, app_file=file, url=url)


def _disk(here: Site, conditions: Conditions, *, slow: bool) -> slowdisk.Disk:
    if not slow:
        return slowdisk.ordinary_disk(here)
    iops = conditions.parameters.write_iops
    return slowdisk.slow_or_ordinary(here, write_iops=iops, progress=conditions.progress)
