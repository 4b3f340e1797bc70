"""Settings of all threads of a process: the CPUs they may use, their nice values, their I/O class.

One part of the state is one thread, `TID@STARTTIME`, so that a number which was given out again is nobody's. Threads
that begin while it is in place have what their creator had: at an undo they get what the main thread had before.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from culpa.fix.hands import CLOCKS_SECONDS, Identity, Refused, Standing, Unreachable
from culpa.fix.parameters import ProcessSetting, State
from culpa.fix.processes import PROC, boot_id, booted_unix, starttime_of, threads_of
from culpa.units import format_cpus, parse_cpus

MOST_THREADS: Final = 4096
MOST_PASSES: Final = 20
"""Over threads that begin while the others are set."""
HEEDS_CLASSES: Final = ("bfq", "mq-deadline")
"""I/O schedulers for which the class of a process means anything (block/ioprio.c; mq-deadline since 5.14)."""
SYS_BLOCK: Final = Path("/sys/block")
IONICE_SECONDS: Final = 10.0
_CLASSES: Final = {"none": "0", "realtime": "1", "best-effort": "2", "idle": "3"}
_IONICE: Final = re.compile(r"(none|realtime|best-effort|idle)(?:: prio ([0-7]))?")


class ProcessHand:
    """CPUs, nice value or I/O class of one process."""

    def __init__(self, parameters: ProcessSetting, proc_root: Path = PROC, sys_block: Path = SYS_BLOCK) -> None:
        self._wanted = parameters
        self._proc_root = proc_root
        self._sys_block = sys_block
        self._get, self._set = _WAYS[parameters.setting]

    def identity(self) -> Identity:
        """This boot, and when the process was started.

        Raises:
            Unreachable: it has ended.
        """
        starttime = starttime_of(self._wanted.pid, self._proc_root)
        if starttime != self._wanted.starttime:
            raise Unreachable(f"process {self._wanted.pid} has ended", way_out="make a new verdict with culpa why")
        return Identity(boot_id=boot_id(self._proc_root), starttime=starttime)

    def standing(self, noted: Identity, at_unix: float) -> tuple[Standing, str]:  # noqa: ARG002  # as every hand
        """`gone` once it has ended."""
        same_boot = boot_id(self._proc_root) == noted.boot_id
        if same_boot and starttime_of(self._wanted.pid, self._proc_root) == noted.starttime:
            return "same", ""
        return "gone", f"process {self._wanted.pid} has ended since, and what was set is gone with it"

    def stale(self, seen_unix: float) -> str | None:
        """It was seen before this boot, or has ended."""
        if seen_unix < booted_unix(self._proc_root) - CLOCKS_SECONDS:
            return "this host was booted anew since it was examined"
        if starttime_of(self._wanted.pid, self._proc_root) != self._wanted.starttime:
            return f"process {self._wanted.pid}, which was examined, has ended"
        return None

    def obstacle(self) -> str | None:
        """No right to; CPUs it may not have; no program ionice, or no disk that heeds it."""
        if os.geteuid() != 0:
            return "only root can set it and put it back: run it with sudo"
        if self._wanted.setting == "CPUs":
            wanted = parse_cpus(self._wanted.value) or frozenset()
            if not wanted <= set(range(os.cpu_count() or 0)):
                return f"this host has no CPUs {format_cpus(wanted)}"
        if self._wanted.setting == "I/O class":
            if shutil.which("ionice") is None:
                return "there is no program ionice here: install util-linux"
            if not any(name in self._schedulers() for name in HEEDS_CLASSES):
                return f"no disk here has an I/O scheduler that heeds it ({', '.join(HEEDS_CLASSES)})"
        return None

    def read(self) -> State:
        """What each thread has.

        Raises:
            Unreachable: it has ended, has more threads than can be noted, or may not be asked.
        """
        threads = threads_of(self._wanted.pid, self._proc_root)
        if not threads or starttime_of(self._wanted.pid, self._proc_root) != self._wanted.starttime:
            raise Unreachable(f"process {self._wanted.pid} has ended", way_out="make a new verdict with culpa why")
        if len(threads) > MOST_THREADS:
            what = f"process {self._wanted.pid} has more than {MOST_THREADS} threads"
            raise Unreachable(what, way_out="set it by hand")
        found = ((f"{tid}@{starttime}", self._of(tid)) for tid, starttime in threads.items())
        return {name: value for name, value in found if value is not None}

    def plan(self, before: State) -> State:
        """The value of the fix for each."""
        return dict.fromkeys(before, self._value())

    def goal(self, before: State, during: State, now: State) -> State:
        """The former value for each that lives; for one that began since and has the fix's, the main thread's."""
        main = before.get(f"{self._wanted.pid}@{self._wanted.starttime}")
        fixed = set(during.values())
        new = {name: main for name, value in now.items() if name not in before and value in fixed and main is not None}
        return {name: value for name, value in before.items() if name in now} | new

    def write(self, wanted: State) -> None:
        """Each thread; those that begin meanwhile are found in a further pass.

        Raises:
            Refused: one is not taken.
        """
        known = {*self.read(), *wanted}
        for name, value in wanted.items():
            self._put(name, value)
        like = wanted.get(f"{self._wanted.pid}@{self._wanted.starttime}", self._value())
        for _ in range(MOST_PASSES):
            new = [name for name, value in self.read().items() if name not in known and value != like]
            if not new:
                return
            for name in new:
                self._put(name, like)

    def by_hand(self, wanted: State) -> tuple[str, ...]:
        """taskset, renice or ionice: once for all threads where they have the same."""
        values = set(wanted.values())
        if len(values) == 1:
            return (_command(self._wanted.setting, values.pop(), self._wanted.pid, all_threads=True),)
        return tuple(
            _command(self._wanted.setting, value, int(name.partition("@")[0]), all_threads=False)
            for name, value in wanted.items()
        )

    def lasts(self) -> str:
        """Of what is set for a process."""
        return "until the process ends; processes that it starts meanwhile keep it"

    def close(self) -> None:
        """Nothing is held open."""

    def _value(self) -> str:
        """As `read` spells it."""
        cpus = parse_cpus(self._wanted.value) if self._wanted.setting == "CPUs" else None
        return format_cpus(cpus) if cpus else self._wanted.value

    def _of(self, tid: int) -> str | None:
        try:
            return self._get(tid)
        except ProcessLookupError:
            return None
        except PermissionError as error:
            raise Unreachable(f"thread {tid} may not be asked", way_out="run it with sudo") from error

    def _put(self, name: str, value: str) -> None:
        tid, _, starttime = name.partition("@")
        if starttime_of(self._wanted.pid, self._proc_root, tid=int(tid)) != int(starttime):
            return
        try:
            if self._get(int(tid)) != value:
                self._set(int(tid), value)
        except ProcessLookupError:
            return
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Refused(f"the kernel refuses {self._wanted.setting} {value} for thread {tid}: {why}") from error

    def _schedulers(self) -> Iterator[str]:
        for path in sorted(self._sys_block.glob("*/queue/scheduler")):
            yield path.read_text(encoding="ascii", errors="replace").partition("[")[2].partition("]")[0]


def _command(setting: str, value: str, pid: int, *, all_threads: bool) -> str:
    if setting == "CPUs":
        return f"taskset -{'a' if all_threads else ''}cp {value} {pid}"
    whom = f"$(ls /proc/{pid}/task)" if all_threads else str(pid)
    if setting == "nice":
        return f"renice -n {value} -p {whom}"
    name, _, level = value.partition(" ")
    more = f" -n {level}" if level and name in ("realtime", "best-effort") else ""
    return f"ionice -c {_CLASSES[name]}{more} -p {whom}"


def _get_cpus(tid: int) -> str:
    return format_cpus(os.sched_getaffinity(tid))


def _set_cpus(tid: int, value: str) -> None:
    os.sched_setaffinity(tid, parse_cpus(value) or ())


def _get_nice(tid: int) -> str:
    return str(os.getpriority(os.PRIO_PROCESS, tid))


def _set_nice(tid: int, value: str) -> None:
    os.setpriority(os.PRIO_PROCESS, tid, int(value))


def _get_io(tid: int) -> str:
    found = _IONICE.fullmatch(_ionice("-p", str(tid)).strip())
    if found is None:
        raise ProcessLookupError(tid)
    return f"{found[1]} {found[2]}" if found[2] else found[1]


def _set_io(tid: int, value: str) -> None:
    name, _, level = value.partition(" ")
    more = ["-n", level] if level and name in ("realtime", "best-effort") else []
    _ionice("-c", _CLASSES[name], *more, "-p", str(tid))


def _ionice(*words: str) -> str:
    """Python has no ioprio_set(2)."""
    argv = [shutil.which("ionice") or "ionice", *words]
    ended = subprocess.run(
        argv, capture_output=True, text=True, timeout=IONICE_SECONDS, check=False, env={"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if "No such process" in ended.stderr:
        raise ProcessLookupError(words[-1])
    if ended.returncode:
        raise PermissionError(1, ended.stderr.strip()[:200] or "ionice failed")
    return ended.stdout


_Way = tuple[Callable[[int], str], Callable[[int, str], None]]
_WAYS: Final[dict[str, _Way]] = {
    "CPUs": (_get_cpus, _set_cpus), "nice": (_get_nice, _set_nice), "I/O class": (_get_io, _set_io),
}  # fmt: skip
