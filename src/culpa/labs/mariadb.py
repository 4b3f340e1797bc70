"""A real MariaDB server of the lab's own, on loopback and on a unix socket, with its data where a lab wants it."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from culpa.errors import LabError
from culpa.labs import loopdev
from culpa.labs.apps.shop import Connection
from culpa.labs.ports import LOOPBACK, free_port
from culpa.labs.site import Program, Site
from culpa.labs.waiting import wait_until

NOBODY = 65534
"""The server refuses to run as root."""
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
READY_WORDS = b"ready for connections"
SMALL = {"innodb-buffer-pool-size": "8M", "innodb-log-file-size": "16M", "aria-pagecache-buffer-size": "8M"}
"""So little memory of its own that a table of a lab does not fit into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MariadbServer:
    """A running server, which lets everybody on this host in. `directory` holds a folder for each database."""

    program: Program
    port: int
    directory: Path

    @property
    def pid(self) -> int:
        """Its process, with a thread for each connection."""
        return self.program.pid

    @property
    def socket(self) -> Path:
        """Its unix socket."""
        return self.directory / "socket"

    def tell(self, *statements: str) -> list[bytes]:
        """Have statements run one after the other; the rows of the last one. LabError if the server refuses one."""
        try:
            connection, rows = Connection(str(self.socket)), []
            for statement in statements:
                rows = connection.rows(statement)
            connection.close()
        except (OSError, RuntimeError) as error:
            raise LabError(f"MariaDB refused: {error}") from error
        return rows

    def number(self, statement: str) -> int:
        """The number in the last column of a statement's last row, each value of which is short."""
        row, value = self.tell(statement)[-1], b""
        while row:
            value, row = row[1 : 1 + row[0]], row[1 + row[0] :]
        return int(value)


def executable() -> str | None:
    """The server's program; None if there is none."""
    return shutil.which("mariadbd", path=PATH)


def why_not() -> str | None:
    """Why this host cannot have such a server; None if it can."""
    if executable() is None:
        return "no mariadbd: install mariadb-server-core"
    if os.geteuid() == 0 and loopdev.tool("setpriv") is None:
        return "no setpriv: install util-linux"
    return None


def start(site: Site, parent: Path) -> MariadbServer:
    """Start a server with its data below `parent`; it is stopped with the site.

    It does without tables of its own: it asks nobody for a password, and makes what InnoDB and Aria need by itself.

    Raises:
        LabError: there is no MariaDB, or it did not start.
    """
    server = executable()
    if server is None:
        raise LabError("there is no MariaDB here", way_out="install mariadb-server-core")
    directory, port = parent / "mariadb", free_port()
    directory.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    settings = SMALL | {
        "datadir": str(directory),
        "socket": str(directory / "socket"),
        "pid-file": str(directory / "pid"),
        "port": str(port),
        "bind-address": LOOPBACK,
        "innodb-flush-log-at-trx-commit": "0",
    }
    words = [f"--{name}={value}" for name, value in settings.items()]
    argv = [*_as_nobody(), server, "--no-defaults", "--skip-grant-tables"]
    program = site.start([*argv, *words], name="mariadbd", cwd=directory)
    site.stack.callback(program.stop, by=signal.SIGKILL)  # at once: nobody needs the data afterwards

    def ready() -> bool:
        program.require_running()
        return READY_WORDS in program.log.read_bytes()

    wait_until(ready, what="MariaDB to be ready")
    return MariadbServer(program=program, port=port, directory=directory)


def _as_nobody() -> list[str]:
    if os.geteuid() != 0:
        return []
    return [loopdev.tool("setpriv") or "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
