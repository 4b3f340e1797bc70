"""A service in Perl that writes to a file system without room, and tries again and again.

Either no byte is left, or no inode. The repair is to take away what fills it. The twin has the same full file system,
looks at what lies there, and writes to another one.
"""

from __future__ import annotations

import errno
from pathlib import Path

from culpa.labs import loopdev, ports, slowdisk, stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

FS_FULL = "fs.full"
SPACE, INODES = "space", "inodes"
SIZES_MB = (24, 64)
MANY_BYTES, FEW_INODES = "65536", "64"
"""An inode for so many bytes, or so few in all."""
TRIES, PAUSES_MS = (4, 8), (40, 120)
PIECE = bytes(1 << 16)


def play(conditions: Conditions) -> Played:
    """Parcels go to where there is no room."""
    with opened(conditions.progress) as here:
        case, want, filling = raised(here, conditions)
        full = case.disk.directory
        before = case.seconds("here")
        judged = case.judge("here", show=True)
        for file in filling:
            file.unlink()
        after = case.seconds("here", requests=stand.FAST_REQUESTS)
        truth = Truth(
            causes=(FS_FULL,),
            who=(stand.who(FS_FULL, case.app.pid),),
            on=(TruthOn(cause=FS_FULL, path=str((full / "parcel" if want == SPACE else full).resolve())),),
            path=(TruthStep(kind="sleep", pid=case.app.pid),),
            fix="delete what fills the file system",
        )
        stage = case.stage("as found", "here", truth, judged, Measured(before=before, after_fix=after))
        return Played(stages=(stage,), disk=case.disk.kind)


def play_healthy(conditions: Conditions) -> Played:
    """Parcels go to where there is room; the full file system is only looked at."""
    with opened(conditions.progress) as here:
        case, _, _ = raised(here, conditions)
        return case.sound("there")


def raised(here: Site, conditions: Conditions, *, name: str = "disk") -> tuple[stand.Stand, str, list[Path]]:
    """The depot, what its file system (`name`) lacks, and the files that fill that."""
    chance = conditions.parameters.chance("disk-full")
    want, size = chance.choice((SPACE, INODES)), chance.randint(*SIZES_MB) << 20
    directory = here.directory / name
    directory.mkdir()
    file = here.stack.enter_context(slowdisk.image(here.directory / f"{name}.img", size))
    device = here.stack.enter_context(slowdisk.loop(str(file), here, direct=False))
    inodes = ("-i", MANY_BYTES) if want == SPACE else ("-N", FEW_INODES)
    options = ("-m", "0", *inodes, *slowdisk.NOT_LATER)
    here.stack.enter_context(slowdisk.mounted(device, directory, here, options=options))
    filling = _with_bytes(directory) if want == SPACE else _with_files(directory)
    disk, elsewhere = slowdisk.Disk(directory=directory, device=device), here.directory / "elsewhere"
    elsewhere.mkdir()
    script, port = stand.copied(here, "depot.pl", "depot.pl"), ports.free_port()
    habits = (str(chance.randint(*TRIES)), str(chance.randint(*PAUSES_MS) / 1000))
    argv = [loopdev.tool("perl") or "perl", str(script), str(port), str(directory), str(elsewhere), *habits]
    return stand.served(here, conditions, argv, file=script, port=port, on=disk), want, filling


def _with_bytes(directory: Path) -> list[Path]:
    """Fill it with one file until nothing more goes in."""
    filling = directory / "parcels-of-last-year"
    with filling.open("wb", buffering=0) as file:
        try:
            while file.write(PIECE):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return [filling]


def _with_files(directory: Path) -> list[Path]:
    """Fill it with empty files until no more can be made."""
    made: list[Path] = []
    while True:
        file = directory / f"note-{len(made)}"
        try:
            file.touch()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return made
        made.append(file)


DISK_FULL = Lab(
    name="disk-full",
    family="hosts",
    needs=("root", "trace", "perl", "loop"),
    fires=(FS_FULL,),
    silent=("sleep.by-choice", "cpu.busy", "disk.slow-device"),
    play=play,
)
DISK_FULL_HEALTHY = DISK_FULL.healthy(silent=(FS_FULL,), play=play_healthy)
