"""A stand for Redis labs: a redis-server with an append-only file on some disk, and a service that uses it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from culpa.labs import ports, redis_server, stand, stopwatch
from culpa.labs.lab import Conditions
from culpa.labs.site import Site
from culpa.labs.site import opened as open_site


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisStand(stand.Stand):
    """The running case, with its server."""

    server: redis_server.RedisServer

    def settings(self) -> Mapping[str, str]:
        """All that CONFIG GET tells."""
        return self.server.settings()


@contextmanager
def opened(conditions: Conditions, *, app: str, slow: bool) -> Iterator[RedisStand]:
    """A stand on a site of its own; see `raised`."""
    with open_site(conditions.progress) as here:
        yield raised(here, conditions, app=app, slow=slow)


def raised(here: Site, conditions: Conditions, *, app: str, slow: bool) -> RedisStand:
    """Start server and service; the server's data lies on the slow disk (if `slow`) or on the ordinary one.

    Args:
        here: the site it stands on, which also undoes it.
        conditions: parameters and where progress goes.
        app: a module in `labs/apps`, a program that takes --port, --redis and --seed.
        slow: whether to throttle the disk, where this host allows it.

    Raises:
        LabError: one of the parts cannot be had here.
    """
    disk = stand.disk(here, conditions, slow=slow)
    server = redis_server.start(here, disk.directory, appendonly="yes", appendfsync="no")
    disk.admit(server.pid)
    file = stand.copied(here, f"{app}.py", "app.py")
    port = ports.free_port()
    seed = str(conditions.parameters.seed)
    argv = [sys.executable, str(file), "--port", str(port), "--redis", server.url, "--seed", seed]
    program = here.start(argv, name="app")
    url = f"http://{ports.LOOPBACK}:{port}"
    stopwatch.wait_ready(f"{url}/", program)
    return RedisStand(site=here, conditions=conditions, disk=disk, server=server, app=program, app_file=file, url=url)
