"""What a killed run left behind: found, proved to be a lab's own, and removed.

Call only while holding the lab lock: then no lab is alive, and whatever bears a lab's mark is a leftover. The proofs:
a path inside `TEMP/culpa-lab-*` (images, mounts, the stack of loop devices over them and swap on these), such a run's
marker in a process's environment, or its stderr in a log of the run (redis-server overwrites its environment with its
title), pid and start time as the ledger has them, a limit or bound that the ledger names, a cgroup or network interface
that it names and that has the prefix, a perf map of a process in the ledger that names a file of the run, a record of
`culpa fix` for a target that the ledger names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from culpa.collect.undo import state_directory
from culpa.errors import LabError
from culpa.fix.hands import Server
from culpa.fix.journal import Journal, Record
from culpa.fix.parameters import RedisSetting, target_of
from culpa.fix.run import undo
from culpa.labs import dirtybound, groups, interfaces, ledger, loopdev, perfmap, throttle
from culpa.labs.places import MARKER, PREFIX, Places
from culpa.labs.waiting import wait_until

ENVIRON_LIMIT_BYTES = 1 << 20
_CONTROLS = frozenset({*throttle.V1_FILES.values(), throttle.V2_FILE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Everything on this host that bears a lab's mark. Loop devices are listed top of the stack first."""

    limits: tuple[tuple[Path, str], ...] = ()
    bounds: tuple[str, ...] = ()
    processes: tuple[int, ...] = ()
    swaps: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()
    groups: tuple[Path, ...] = ()
    controllers: tuple[ledger.Controllers, ...] = ()
    interfaces: tuple[str, ...] = ()
    maps: tuple[Path, ...] = ()
    fixes: tuple[Record, ...] = ()
    directories: tuple[Path, ...] = ()

    def sentences(self) -> tuple[str, ...]:
        """One line for each thing found."""
        return (
            *(f"limit on {device} in {control}" for control, device in self.limits),
            *(f"bound on the dirty pages of {device}" for device in self.bounds),
            *(f"process {pid}" for pid in self.processes),
            *(f"swap on {device}" for device in self.swaps),
            *(f"mount {path}" for path in self.mounts),
            *(f"loop device {device}" for device in self.loops),
            *(f"cgroup {path}" for path in self.groups),
            *(f"network interface {name}" for name in self.interfaces),
            *(f"perf map {path}" for path in self.maps),
            *(f"fix {record.id} ({record.fix}), not taken back" for record in self.fixes),
            *(f"directory {path}" for path in self.directories),
        )


def find(places: Places) -> Leftovers:
    """Look for leftovers; changes nothing."""
    entries = ledger.read(places.ledger)
    directories = tuple(_directories(places))
    runs = {path.name for path in directories} | {entry.name for entry in entries if isinstance(entry, ledger.Run)}
    loops = _loops(places)
    return Leftovers(
        limits=tuple(_limits(entries, loops)),
        bounds=tuple(_bounds(entries, loops)),
        processes=tuple(_processes(entries, runs, places)),
        swaps=tuple(device for device in loops if device in loopdev.swaps()),
        mounts=tuple(path for path in reversed(loopdev.mounts()) if places.owns(path)),
        loops=loops,
        groups=tuple(_groups(entries)),
        controllers=tuple(_switched(entries)),
        interfaces=tuple(_interfaces(entries)),
        maps=tuple(_maps(entries, runs)),
        fixes=tuple(_fixes(entries)),
        directories=directories,
    )


def remove(places: Places) -> tuple[str, ...]:
    """Remove every leftover and the ledger of the run that made them; returns what was removed, a line each.

    Limits go first: a process that waits for a throttled disk cannot even be killed before.

    Raises:
        LabError: something of it would not go.
    """
    found = find(places)
    for control, device in found.limits:
        throttle.clear(control, device)
    for device in found.bounds:
        dirtybound.clear(device)
    _kill(found.processes)
    for device in found.swaps:
        loopdev.swap_off(device)
    for path in found.mounts:
        loopdev.unmount(path)
    for device in found.loops:
        loopdev.detach(device)
    for group in found.groups:
        groups.remove_group(group)
    for entry in found.controllers:
        with contextlib.suppress(OSError):  # another group uses them by now
            groups.switch_controllers(Path(entry.path), entry.names, on=False)
    for name in found.interfaces:
        interfaces.remove(name)
    for file in found.maps:
        file.unlink(missing_ok=True)
    for record in found.fixes:  # what it was made to is gone by now
        _forget(record)
    for directory in found.directories:
        shutil.rmtree(directory)
    ledger.discard(places.ledger)
    return found.sentences()


def starttime(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat in ticks: with the pid, an identity. None if the process is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *fields = text.rpartition(b")")[2].split()
    return None if state == b"Z" else int(fields[18])


def marked_run(pid: int) -> str | None:
    """The run whose marker a process carries in its environment; None if none, or if it cannot be read."""
    try:
        with Path(f"/proc/{pid}/environ").open("rb") as file:
            environ = file.read(ENVIRON_LIMIT_BYTES)
    except OSError:
        return None
    for variable in environ.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name == MARKER.encode() and value.startswith(PREFIX.encode()):
            return os.fsdecode(value)
    return None


def _processes(entries: tuple[ledger.Entry, ...], runs: set[str], places: Places) -> Iterator[int]:
    """Processes that these runs started, by marker, by log, or by pid and start time in the ledger."""
    noted = _noted(entries)
    spared = set(_ancestors(os.getpid()))
    for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()):
        if pid in spared:
            continue
        begun = starttime(pid)
        if begun is not None and (marked_run(pid) in runs or _logs_to_run(pid, places) or (pid, begun) in noted):
            yield pid


def is_of_run(pid: int, places: Places) -> bool:
    """Whether a living process is one of the present run, or was started by one; the caller holds the lab lock."""
    by_mark = marked_run(pid) is not None or _logs_to_run(pid, places)
    return by_mark or (pid, starttime(pid)) in _noted(ledger.read(places.ledger))


def _noted(entries: tuple[ledger.Entry, ...]) -> set[tuple[int, int | None]]:
    return {(entry.pid, entry.starttime) for entry in entries if isinstance(entry, ledger.Started)}


def _logs_to_run(pid: int, places: Places) -> bool:
    try:
        return places.owns(Path(f"/proc/{pid}/fd/2").readlink())
    except OSError:
        return False


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        try:
            text = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return
        pid = int(text.rpartition(b")")[2].split()[1])


def _kill(pids: tuple[int, ...]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # what does not end is told below
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_until(lambda pid=pid: starttime(pid) is None, what=f"process {pid} to end")  # type: ignore[misc]  # bound now


def _loops(places: Places) -> tuple[str, ...]:
    """Loop devices over a file of a run, and those over such loop devices, uppermost first."""
    bound = loopdev.bound()
    ours = [device for device, backing in bound.items() if places.owns(backing)]
    for lower in ours:  # grows while it is walked: each level adds the one above it
        ours += [device for device, backing in bound.items() if backing == lower]
    return tuple(reversed(ours))


def _limits(entries: tuple[ledger.Entry, ...], loops: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Limits that the ledger names, and limits of the v1 root group on loop devices of a run."""
    named = set(_named_limits(entries))
    root = groups.mounted("blkio")
    if root is not None:
        controls = [root / name for name in throttle.V1_FILES.values()]
        named |= {(control, loopdev.device_number(device)) for device in loops for control in controls}
    yield from sorted(pair for pair in named if pair[1] in throttle.limited(pair[0]))


def _named_limits(entries: tuple[ledger.Entry, ...]) -> Iterator[tuple[Path, str]]:
    for entry in entries:
        if isinstance(entry, ledger.Throttle) and Path(entry.control).name in _CONTROLS:
            yield Path(entry.control), entry.device


def _bounds(entries: tuple[ledger.Entry, ...], loops: tuple[str, ...]) -> Iterator[str]:
    """Bounds that the ledger names, and those of loop devices of a run."""
    named = {entry.device for entry in entries if isinstance(entry, ledger.DirtyBound)}
    named |= {loopdev.device_number(device) for device in loops}
    yield from sorted(device for device in named if dirtybound.is_bounded(device))


def _switched(entries: tuple[ledger.Entry, ...]) -> Iterator[ledger.Controllers]:
    for entry in entries:
        if isinstance(entry, ledger.Controllers) and Path(entry.path).name == groups.V2_SWITCH:
            yield entry


def _groups(entries: tuple[ledger.Entry, ...]) -> Iterator[Path]:
    for entry in entries:
        if isinstance(entry, ledger.Cgroup) and Path(entry.path).name.startswith(PREFIX) and Path(entry.path).is_dir():
            yield Path(entry.path)


def _interfaces(entries: tuple[ledger.Entry, ...]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, ledger.Interface) and entry.name.startswith(PREFIX) and interfaces.exists(entry.name):
            yield entry.name


def _maps(entries: tuple[ledger.Entry, ...], runs: set[str]) -> Iterator[Path]:
    for entry in entries:
        if isinstance(entry, ledger.Started):
            yield from (path for run in sorted(runs) if (path := perfmap.of_run(entry.pid, run)) is not None)


def _fixes(entries: tuple[ledger.Entry, ...]) -> Iterator[Record]:
    """Open records of `culpa fix` for something of the run."""
    noted = [entry for entry in entries if isinstance(entry, ledger.Fix)]
    for record in Journal(state_directory()).found().open if noted else ():
        if any(
            (record.fix, target_of(record.parameters)) == (entry.fix, entry.target) and record.at_unix >= entry.at_unix
            for entry in noted
        ):
            yield record


def _forget(record: Record) -> None:
    undo(record, journal=Journal(state_directory()), connects=_nobody, keep=True)


def _nobody(parameters: RedisSetting) -> Server:
    """A record that is only closed needs no server."""
    raise AssertionError(parameters.server)


def _directories(places: Places) -> Iterator[Path]:
    """Directories of runs that this user owns; a link of that name is not followed and not removed."""
    for path in sorted(places.temp.glob(f"{PREFIX}*")):
        status = path.stat(follow_symlinks=False)
        if path.is_dir() and not path.is_symlink() and status.st_uid == os.geteuid():
            yield path


def require_none(places: Places) -> None:
    """Check that nothing is left.

    Raises:
        LabError: names what is.
    """
    left = find(places).sentences()
    if left:
        raise LabError(f"left behind: {', '.join(left)}", way_out="run the lab again, it removes them")
