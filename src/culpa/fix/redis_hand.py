"""Settings of a Redis server: CONFIG GET and CONFIG SET over a connection; CONFIG REWRITE only for `--persist`."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Final

from culpa.errors import CulpaError
from culpa.fix.hands import CLOCKS_SECONDS, Connects, Identity, Refused, Server, Standing, Unreachable
from culpa.fix.parameters import RedisSetting, State
from culpa.fix.processes import PROC, numbers_of, starttime_of
from culpa.units import printable

LONGEST_INFO: Final = 1 << 16
_STARTED: Final = "leave --persist out, and write it where the server is started from"
_CONSOLE: Final = "set it in the provider's console, or as a user who may"


class RedisHand:
    """One setting of one server."""

    def __init__(self, parameters: RedisSetting, connects: Connects, proc_root: Path = PROC) -> None:
        self._wanted = parameters
        self._connects = connects
        self._proc_root = proc_root
        self._server: Server | None = None

    def identity(self) -> Identity:
        """The server's name for its process.

        Raises:
            Unreachable: it does not answer, or has no such name.
        """
        run_id = self._info().get("run_id", "")
        if len(run_id) != 40 or not run_id.isalnum():
            raise Unreachable(f"{self._wanted.server} has no run id", way_out="name the server itself, not a proxy")
        return Identity(run_id=run_id)

    def standing(self, noted: Identity, at_unix: float) -> tuple[Standing, str]:
        """`gone` once the server was started anew: CONFIG SET lives as long as its process."""
        if self.identity().run_id == noted.run_id:
            return "same", ""
        started = self._started_unix()
        if started is not None and started > at_unix - CLOCKS_SECONDS:
            now = self.read().get(self._wanted.setting, "")
            return "gone", (
                f"Redis at {self._wanted.server} was started anew since, and what was set is gone with its process; "
                f"{self._wanted.setting} is {now!r} there by its configuration"
            )
        return "unclear", f"another server answers at {self._wanted.server} than the one that was changed"

    def stale(self, seen_unix: float) -> str | None:
        """It was started since, or the process that was seen is not the one that answers."""
        started = self._started_unix()
        if started is not None and started > seen_unix + CLOCKS_SECONDS:
            return "the server was started anew since it was examined"
        pid = self._wanted.pid
        if pid is None:
            return None
        if starttime_of(pid, self._proc_root) != self._wanted.starttime:
            return f"process {pid}, which was examined, has ended"
        if self._info().get("process_id") not in numbers_of(pid, self._proc_root):
            return f"the server that answers at {self._wanted.server} is not process {pid}, which was examined"
        return None

    def obstacle(self) -> str | None:
        """CONFIG refused or renamed, no such setting, or no right to set it where the server says so (ACL DRYRUN)."""
        name = self._wanted.setting
        (got, who) = self._ask(("CONFIG", "GET", name), ("ACL", "WHOAMI"))
        if isinstance(got, Exception):
            said = _said(got)
            if "unknown command" in said.lower():
                return f"CONFIG is renamed or switched off there: {_CONSOLE}"
            return f"the server refuses CONFIG GET ({said}): {_CONSOLE}"
        if not isinstance(got, list) or len(got) != 2:
            return f"this server has no setting {name}: its version is too old, or it is no Redis"
        if not isinstance(who, bytes):
            return None
        (dry,) = self._ask(("ACL", "DRYRUN", who.decode("utf-8", "replace"), "CONFIG", "SET", name, self._wanted.value))
        if isinstance(dry, bytes) and dry != b"OK":
            return f"this user may not run CONFIG SET: ACL SETUSER ... +config|set, or {_CONSOLE}"
        return None

    def read(self) -> State:
        """The setting, as CONFIG GET spells it.

        Raises:
            Unreachable: the server does not tell it.
        """
        name = self._wanted.setting
        (got,) = self._ask(("CONFIG", "GET", name))
        if not isinstance(got, list) or len(got) != 2 or not isinstance(got[1], bytes):
            why = _said(got) if isinstance(got, Exception) else "it knows no such setting"
            raise Unreachable(f"{self._wanted.server} does not say what {name} is: {why}", way_out=_CONSOLE)
        return {name: got[1].decode("utf-8", "backslashreplace")}

    def plan(self, before: State) -> State:  # noqa: ARG002  # as every hand
        """The value of the fix."""
        return {self._wanted.setting: self._wanted.value}

    def goal(self, before: State, during: State, now: State) -> State:  # noqa: ARG002  # as every hand
        """The former value."""
        return before

    def write(self, wanted: State) -> None:
        """CONFIG SET.

        Raises:
            Refused: the server does not take it.
            Unreachable: it did not say whether it did.
        """
        for name, value in wanted.items():
            (reply,) = self._ask(("CONFIG", "SET", name, value))
            if isinstance(reply, Exception):
                raise Refused(f"{self._wanted.server} refuses CONFIG SET {name} {value!r}: {_said(reply)}")

    def configuration(self) -> Path:
        """The file that the server was started with, where that is a file of this host.

        Raises:
            CulpaError: it has none, or it is not known to run here, or in a container of its own.
            Unreachable: the server does not tell.
        """
        name, pid = self._info().get("config_file", ""), self._wanted.pid
        if not name.startswith("/"):
            raise CulpaError(f"{self._wanted.server} was started without a configuration file", way_out=_STARTED)
        if pid is None:
            raise CulpaError(f"{self._wanted.server} is not known to run on this host", way_out=_STARTED)
        inside, here = ((self._proc_root / str(one) / "root").stat() for one in (pid, "self"))
        if (inside.st_dev, inside.st_ino) != (here.st_dev, here.st_ino):
            what = f"{self._wanted.server} runs in a container: its configuration file is not of this host"
            raise CulpaError(what, way_out=_STARTED)
        return Path(name)

    def rewrite(self) -> None:
        """CONFIG REWRITE.

        Raises:
            Refused: the server cannot.
            Unreachable: it did not say whether it did.
        """
        (reply,) = self._ask(("CONFIG", "REWRITE"))
        if isinstance(reply, Exception):
            raise Refused(f"{self._wanted.server} refuses CONFIG REWRITE: {_said(reply)}")

    def by_hand(self, wanted: State) -> tuple[str, ...]:
        """redis-cli with the address; a password is left to REDISCLI_AUTH."""
        one = self._wanted
        where = ["-s", one.path] if one.path else ["-h", one.host, "-p", str(one.port)]
        more = [*(["--tls"] if one.tls else []), *(["--user", one.user] if one.user else [])]
        return tuple(
            shlex.join(["redis-cli", *where, *more, "CONFIG", "SET", name, value]) for name, value in wanted.items()
        )

    def lasts(self) -> str:
        """Of a CONFIG SET."""
        return "until the server is restarted: its configuration file is not written"

    def close(self) -> None:
        """End the connection."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _ask(self, *commands: tuple[str, ...]) -> list[object]:
        if self._server is None:
            self._server = self._connects(self._wanted)
        return self._server.ask(*commands)

    def _info(self) -> dict[str, str]:
        (info,) = self._ask(("INFO", "server"))
        text = info[:LONGEST_INFO].decode("utf-8", "replace") if isinstance(info, bytes) else ""
        lines = (line.partition(":") for line in text.splitlines())
        return {name: value.strip() for name, colon, value in lines if colon}

    def _started_unix(self) -> float | None:
        uptime = self._info().get("uptime_in_seconds", "")
        return time.time() - int(uptime) if uptime.isdecimal() else None


def _said(error: Exception) -> str:
    return printable(str(error), 120) or "no reason given"
