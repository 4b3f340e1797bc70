"""The site of one run: its lock, ledger, directory and programs, all undone at the end, however it ends.

Normal end, an exception, Ctrl-C, SIGTERM and SIGHUP undo everything here; after SIGKILL the next site does it.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from culpa.errors import LabError
from culpa.labs import ledger, leftovers, lock
from culpa.labs.endings import Endings
from culpa.labs.places import MARKER, PREFIX, Places, of_host
from culpa.labs.waiting import wait_until
from culpa.units import printable

LOCK_WAIT_S = 120.0
STOP_TIMEOUT_S = 10.0
TAIL_BYTES = 2000
WORDS_LIMIT = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A running program of the lab; what it says goes to `log`."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    def require_running(self) -> None:
        """Raise LabError with its last words if it has ended."""
        if self.popen.poll() is not None:
            raise LabError(f"{self.log.stem} ended with status {self.popen.returncode}: {self.last_words()}")

    def wait_ready(self) -> None:
        """Return once it has said `ready`."""

        def ready() -> bool:
            self.require_running()
            return b"ready" in self.log.read_bytes()

        wait_until(ready, what=f"{self.log.stem} to be ready")

    def last_words(self) -> str:
        """The last two lines it said, in one."""
        said = self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").split("\n")
        lines = [line.strip() for line in said if line.strip()]
        return printable(": ".join(lines[-2:]), limit=WORDS_LIMIT) or "it said nothing"

    def stop(self, *, by: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, then make it; returns when it has ended."""
        if self.popen.poll() is None:
            self.popen.send_signal(by)
            try:
                self.popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.popen.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A run in progress. `directory` is TEMP/`name`; what is entered on `stack` is undone in reverse order."""

    name: str
    directory: Path
    ledger: ledger.Ledger
    stack: ExitStack
    places: Places
    endings: Endings

    def start(self, argv: list[str], *, name: str, output: Path | None = None, cwd: Path | None = None) -> Program:
        """Start a program of the lab in a session of its own, so that Ctrl-C reaches only the lab, which stops it.

        Args:
            argv: program and arguments, no shell.
            name: its log is `directory/NAME.log`.
            output: where its stdout goes, if not to the log.
            cwd: its working directory, if not the run's.

        Raises:
            LabError: it cannot be started.
        """
        log = self.directory / f"{name}.log"
        with self.endings.deferred(), log.open("wb") as said, (output or log).open("ab") as out:
            try:
                popen = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=said,
                    cwd=cwd or self.directory,
                    env={**os.environ, MARKER: self.name},
                    start_new_session=True,
                )
            except OSError as error:
                raise LabError(f"cannot start {argv[0]}: {error.strerror}") from error
            program = Program(popen=popen, log=log)
            self.stack.callback(program.stop)
            begun = leftovers.starttime(popen.pid)
            if begun is not None:
                self.ledger.note(ledger.Started(pid=popen.pid, starttime=begun))
        return program


@contextmanager
def opened(
    progress: Callable[[str], None], *, places: Places | None = None, lock_wait_s: float = LOCK_WAIT_S
) -> Iterator[Site]:
    """Open the site of a new run: take the lock, remove what a killed run left, make the directory.

    Raises:
        LabError: another lab runs, or leftovers of one would not go.
    """
    places = places or of_host()
    endings = Endings()
    with lock.held(places.lock, wait_s=lock_wait_s, progress=progress), endings.caught():
        for line in leftovers.remove(places):
            progress(f"removed what a killed lab left: {line}")
        name = f"{PREFIX}{secrets.token_hex(4)}"
        book = ledger.create(places.ledger)
        stack = ExitStack()
        try:
            book.note(ledger.Run(name=name))
            directory = places.temp / name
            directory.mkdir(mode=0o755)
            yield Site(name=name, directory=directory, ledger=book, stack=stack, places=places, endings=endings)
        finally:
            endings.ignore()
            _undo(stack, book, places)


def _undo(stack: ExitStack, book: ledger.Ledger, places: Places) -> None:
    """Undo in order, then sweep as the next run would, then look whether anything is left."""
    try:
        stack.close()
    finally:
        book.close()
        leftovers.remove(places)
        leftovers.require_none(places)
