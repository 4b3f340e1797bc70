"""The case of seed 000 in containers: a service and its Redis, each in namespaces of its own with an overlay as root.

The append-only file has two names, and two inodes: the container's, and that of the layer on the slow disk, which is
what is dirtied and written. The twin asks the same service for what it does without writing, under `everysec`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import redis

from culpa.labs import container, redis_server, source, stand, stopwatch
from culpa.labs.lab import Conditions, Lab, Measured, Need, Played, Truth, TruthOn, TruthStep
from culpa.labs.redis_slow import FSYNC_ALWAYS, ROUND_TRIPS, SYNC_SEEN_FROM_BELOW, WRITE_IN_READ
from culpa.labs.site import Site, opened
from culpa.labs.stand import FAST_REQUESTS, who
from culpa.units import format_count

APP = "redis_slow"
DATA = "/var/lib/store"
PORT = 6379
HTTP_PORT = 8080
NEEDS: tuple[Need, ...] = ("root", "trace", "redis-server", "slow-disk", "ip")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """The service as `stand`, and the server that it talks to."""

    stand: stand.Stand
    app: int
    server: redis_server.RedisServer
    server_pid: int


def play(conditions: Conditions) -> Played:
    """`appendfsync always` on an overlay on the slow disk."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        case.server.set("appendfsync", "always")
        before = case.stand.seconds("get_cache")
        judged = case.stand.judge("get_cache")
        case.server.set("appendfsync", "everysec")
        after = case.stand.seconds("get_cache", requests=FAST_REQUESTS)
        measured = Measured(before=before, after_fix=after)
        stage = case.stand.stage("always", "get_cache", _truth(case), judged, measured)
        return Played(stages=(stage,), disk=case.stand.disk.kind)


def play_healthy(conditions: Conditions) -> Played:
    """The same containers, asked for what needs few commands and no write."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        case.server.set("appendfsync", "everysec")
        return case.stand.sound("get_cache_data")


def _raised(here: Site, conditions: Conditions) -> _Case:
    disk = stand.disk(here, conditions, slow=True)
    network = here.stack.enter_context(container.bridged(here))
    server, server_pid = _server(here, network, disk.directory)
    disk.admit(server_pid)
    file = stand.copied(here, f"{APP}.py", "app.py")
    argv = [sys.executable, str(file), "--host", "{address}", "--port", str(HTTP_PORT)]
    argv += ["--redis", f"redis://{server.client.connection_pool.connection_kwargs['host']}:{PORT}/0"]
    app = network.start([*argv, "--seed", str(conditions.parameters.seed)], name="app", number=3, on=disk.directory)
    url = f"http://{app.address}:{HTTP_PORT}"
    stopwatch.wait_ready(f"{url}/", app.program)
    case = stand.Stand(site=here, conditions=conditions, disk=disk, app=app.program, app_file=file, url=url)
    keys = conditions.parameters.keys
    conditions.progress(f"filling {format_count(keys)} keys")
    case.seconds(f"init/{keys}")
    return _Case(stand=case, app=app.pid, server=server, server_pid=server_pid)


def _server(here: Site, network: container.Bridge, on: Path) -> tuple[redis_server.RedisServer, int]:
    """A redis-server in its container, and the host's pid of it; its data lie in the upper layer of the overlay."""
    program = redis_server.executable() or "redis-server"
    folder = on / "upper" / "redis-server" / DATA.lstrip("/")
    folder.mkdir(parents=True)
    settings = {
        "bind": "{address}", "port": str(PORT), "dir": DATA, "save": "", "protected-mode": "no", "appendonly": "yes",
        "appendfsync": "no",
    }  # fmt: skip
    argv = [program, *(word for name, value in settings.items() for word in (f"--{name}", value))]
    inside = network.start(argv, name="redis-server", number=2, on=on)
    client = redis.Redis(
        host=inside.address, port=PORT, decode_responses=True, socket_timeout=redis_server.CLIENT_TIMEOUT_S
    )
    here.stack.callback(client.close)
    redis_server.wait_ready(inside.program, client)
    server = redis_server.RedisServer(program=inside.program, port=PORT, directory=folder, client=client)
    return server, inside.pid


def _truth(case: _Case) -> Truth:
    aof = str(case.server.append_only_file())
    lines = source.call_lines(case.stand.app_file, function="get_cache", method="sadd")
    code = TruthOn(cause=WRITE_IN_READ, code=str(lines.file), first_line=lines.first_line, last_line=lines.last_line)
    return Truth(
        causes=(FSYNC_ALWAYS, WRITE_IN_READ),
        may=(*SYNC_SEEN_FROM_BELOW, ROUND_TRIPS),
        who=(who(FSYNC_ALWAYS, case.server_pid), who(WRITE_IN_READ, case.app)),
        on=(TruthOn(cause=FSYNC_ALWAYS, path=aof), code),
        path=(
            TruthStep(kind="peer", pid=case.server_pid),
            TruthStep(kind="fsync", pid=case.server_pid, path=aof),
            TruthStep(kind="device", device=case.stand.disk.device_name),
        ),
        fix="CONFIG SET appendfsync everysec",
    )


CONTAINERS = Lab(
    name="containers",
    family="hosts",
    needs=NEEDS,
    seed=None,
    fires=(FSYNC_ALWAYS, WRITE_IN_READ),
    silent=("net.remote-slow",),
    fast=False,
    play=play,
)
CONTAINERS_HEALTHY = Lab(
    name="containers-healthy",
    family="hosts",
    needs=NEEDS,
    seed=None,
    fires=(),
    silent=(FSYNC_ALWAYS, WRITE_IN_READ, ROUND_TRIPS),
    fast=True,
    play=play_healthy,
)
