"""`-- COMMAND`: run it so that nothing of it is missed, as one request from exec to exit.

The command is first a small waiting process (`launcher.py`) whose pid the tracer gets; only then it executes. It has
the terminal: its input and, except beside `--json`, its output. Gives one row of `schema.REQUESTS`.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import polars as pl

from culpa.collect.exchange import Sent
from culpa.collect.probe import request_rows
from culpa.errors import CulpaError, UsageError
from culpa.units import Pid, printable

LAUNCHER: Final = Path(__file__).with_name("launcher.py")
SIGNAL_STATUS: Final = 128
"""Exit status of a command that a signal ended: 128 + its number, as shells have it."""
READY_SECONDS: Final = 10.0


def user_for(asked: str | None) -> str | None:
    """The user a command runs as: the one asked for, else who called sudo, else (None) this process's own.

    Raises:
        UsageError: no such user, or only root could become that user.
    """
    name = asked or (os.environ.get("SUDO_USER") if os.geteuid() == 0 else None)
    if not name:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise UsageError(f"there is no user {printable(name, 40)}", way_out="name another one with --user") from error
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise UsageError(
            f"cannot run a command as {printable(name, 40)} without root", way_out="use sudo, or no --user"
        )
    return name


class CommandProbe:
    """One run of a command. `prepare` gives its pid, `release` lets it execute, `stop` never kills it."""

    def __init__(self, argv: Sequence[str], *, user: str | None = None, output_to_stderr: bool = False) -> None:
        self._argv = tuple(argv)
        self._user = user
        self._output = sys.stderr.fileno() if output_to_stderr else None
        self._process: subprocess.Popen[bytes] | None = None
        self._go = self._status = -1
        self._sent: Sent | None = None
        self.finished = threading.Event()
        self._waiter = threading.Thread(target=self._wait, name="culpa-command", daemon=True)

    def prepare(self) -> Pid:
        """Start the waiting process; it does nothing until `release`.

        Raises:
            CulpaError: it could not be started.
        """
        go_read, self._go = os.pipe()
        self._status, status_write = os.pipe()
        arguments = [str(LAUNCHER), str(go_read), str(status_write), self._user or "", *self._argv]
        before = signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGINT}
        )  # the launcher unblocks it when it can take it
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", *arguments], pass_fds=(go_read, status_write), stdout=self._output
            )
        except OSError as error:
            self._close_pipes()
            raise CulpaError(f"cannot start a process: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(go_read)
            os.close(status_write)
        if os.read(self._status, 1) != b".":
            self.stop()
            raise CulpaError("cannot start a process for the command", way_out="try again, or watch it by its PID")
        return Pid(self._process.pid)

    def release(self) -> None:
        """Let the command execute; the span starts here.

        Raises:
            CulpaError: it is not there, or may not be executed.
        """
        self._sent = Sent(start_ns=time.monotonic_ns())
        try:
            os.write(self._go, b".")
        except BrokenPipeError as error:  # ended by somebody else while the tracer was being set up
            self._sent = None
            self.stop()
            raise CulpaError("the process for the command is gone", way_out="try again") from error
        failed = os.read(self._status, 16)
        self._close_pipes()
        if failed:
            self._sent = None
            self.stop()
            reason = os.strerror(int(failed)).lower()
            raise CulpaError(f"cannot run {printable(self._argv[0])}: {reason}", way_out="check the command's path")
        self._waiter.start()

    def in_flight(self) -> Sent | None:
        """The run, while it is not over."""
        return self._sent if self._sent is not None and self._sent.end_ns is None else None

    def sent(self) -> tuple[Sent, ...]:
        """The run, once it is over."""
        return (self._sent,) if self._sent is not None and self._sent.end_ns is not None else ()

    def interrupt(self, grace_seconds: float = 2.0) -> None:
        """Pass an interrupt on, as a shell would, and give the command a moment to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self.finished.wait(grace_seconds)

    def stop(self) -> Pid | None:
        """Let go: a process still waiting ends, a running command is left alone and its pid returned."""
        self._close_pipes()
        if self._process is None:
            return None
        if not self._waiter.is_alive() and self._sent is None:
            self._process.wait(READY_SECONDS)
        self.finished.wait(0.05)
        running = self._waiter.is_alive() and not self.finished.is_set()
        return Pid(self._process.pid) if running else None

    def rows(self) -> pl.DataFrame:
        """`schema.REQUESTS`: one row, or none before `release`."""
        return request_rows([self._sent] if self._sent else [])

    def _wait(self) -> None:
        assert self._process is not None
        assert self._sent is not None
        code = self._process.wait()
        status = code if code >= 0 else SIGNAL_STATUS - code
        self._sent = replace(self._sent, end_ns=time.monotonic_ns(), status=status, outcome="answered")
        self.finished.set()

    def _close_pipes(self) -> None:
        for name in ("_go", "_status"):
            descriptor: int = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)
