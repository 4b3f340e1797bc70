"""A real PostgreSQL server of the lab's own, on loopback, with its cluster where a lab wants it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from culpa.errors import LabError
from culpa.labs import loopdev
from culpa.labs.ports import LOOPBACK, free_port
from culpa.labs.site import Program, Site

USER = "culpa"
"""The cluster's superuser; it needs no password from this host."""
NOBODY = 65534
"""The server refuses to run as root."""
QUIET = {"autovacuum": "off", "lc_messages": "C"}
READY_WORDS = b"ready to accept connections"
READY_TIMEOUT_S = 30.0
INIT_TIMEOUT_S = 120.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A running server. `directory` is its cluster."""

    program: Program
    port: int
    directory: Path

    @property
    def pid(self) -> int:
        """The process that starts one for each connection."""
        return self.program.pid

    def log_file(self, name: str) -> Path:
        """A file of the write-ahead log."""
        return (self.directory / "pg_wal" / name).resolve()


def executable(name: str) -> str | None:
    """A server program: on the PATH, or where Debian keeps those of the newest version; None if there is none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("[0-9]*"), key=lambda path: float(path.name))
    return shutil.which(name) or next((found for path in versions[::-1] if (found := _in(path, name))), None)


def why_not() -> str | None:
    """Why this host cannot have such a server; None if it can."""
    missing = [name for name in ("postgres", "initdb") if executable(name) is None]
    if missing:
        return f"no {' and no '.join(missing)}: install postgresql"
    if os.geteuid() == 0 and loopdev.tool("setpriv") is None:
        return "no setpriv: install util-linux"
    return None


def start(site: Site, parent: Path, **settings: str) -> PostgresServer:
    """Make a cluster below `parent` and start a server that syncs as it does by default; it is stopped with the site.

    Args:
        site: the run it belongs to.
        parent: the directory that gets the cluster.
        settings: of postgresql.conf.

    Raises:
        LabError: there is no PostgreSQL, or it did not start.
    """
    server = executable("postgres")
    if server is None:
        raise LabError("there is no PostgreSQL here", way_out="install postgresql")
    directory, port = parent / "cluster", free_port()
    directory.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    _make_cluster(directory)
    base = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "autovacuum": "off",
        "lc_messages": "C",
    }
    words = [word for name, value in (base | settings).items() for word in ("-c", f"{name}={value}")]
    program = site.start([*_as_nobody(), server, "-D", str(directory), *words], name="postgres", cwd=directory)
    site.stack.callback(program.stop, by=signal.SIGQUIT)  # at once: nobody needs the cluster afterwards
    _wait_ready(program)
    return PostgresServer(program=program, port=port, directory=directory)


def _in(version: Path, name: str) -> str | None:
    return shutil.which(name, path=str(version / "bin"))


def _as_nobody() -> list[str]:
    if os.geteuid() != 0:
        return []
    return [loopdev.tool("setpriv") or "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def _make_cluster(directory: Path) -> None:
    """Files and settings of a new cluster, written to the disk at the end and not one by one."""
    argv = [*_as_nobody(), executable("initdb") or "initdb", "-D", str(directory), "-U", USER, "--auth=trust"]
    options = ["--no-sync", "--no-locale", "--encoding=UTF8"]
    try:
        done = subprocess.run(
            [*argv, *options], cwd=directory, capture_output=True, text=True, timeout=INIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"initdb failed: {error}") from error
    if done.returncode:
        raise LabError(f"initdb failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _wait_ready(program: Program) -> None:
    """Wait until the server says that it takes connections: it opens its port before.

    Raises:
        LabError: it ended, or did not say so in half a minute.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while READY_WORDS not in program.log.read_bytes():
        program.require_running()
        if time.monotonic() >= deadline:
            raise LabError(f"PostgreSQL was not ready within {READY_TIMEOUT_S:.0f} s: {program.last_words()}")
        time.sleep(POLL_S)
