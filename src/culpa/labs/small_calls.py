"""Files written and read a few bytes at a time: every call costs a way into the kernel, whatever it moves.

`small-writes`: a service writes each reading by a call of its own; its twin works on each reading before, so that the
same calls take next to nothing of its time. `small-reads`: a shell script reads a file line by line, and the shell asks
for one byte at a time; in its twin one program reads the file.
"""

from __future__ import annotations

from pathlib import Path

from culpa.labs import slowdisk, stand
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep, TruthWho
from culpa.labs.site import Site, opened

SMALL_WRITES, SMALL_READS = "app.io.small-writes", "app.io.small-reads"
ALSO_BUSY = ("cpu.busy", "cpu.runqueue")
"""What the program computes between two calls, on CPUs that others want as well."""
READINGS = 20_000
LINES = 600
METER, LEDGER = "readings", "lines"


def play_writes(conditions: Conditions) -> Played:
    """A call for each reading."""
    with opened(conditions.progress) as here:
        case = _meter(here, conditions)
        return case.troubled("each", _writes(case), repaired="once")


def play_writes_healthy(conditions: Conditions) -> Played:
    """A call for each reading, and work on each."""
    with opened(conditions.progress) as here:
        return _meter(here, conditions).sound("aside")


def _meter(here: Site, conditions: Conditions) -> stand.Stand:
    disk = slowdisk.ordinary_disk(here)
    arguments = (str(disk.directory / METER), str(READINGS))
    return stand.raised(here, conditions, app="meter", on=disk, arguments=arguments)


def _writes(case: stand.Stand) -> Truth:
    return Truth(
        causes=(SMALL_WRITES,),
        may=ALSO_BUSY,
        who=(stand.who(SMALL_WRITES, case.app.pid),),
        on=(TruthOn(cause=SMALL_WRITES, path=str((case.disk.directory / METER).resolve())),),
        path=(TruthStep(kind="running", pid=case.app.pid),),
        fix="ask /once: the same through a buffer",
    )


def play_reads(conditions: Conditions) -> Played:
    """A loop of the shell."""
    with opened(conditions.progress) as here:
        case = _clerk(here, conditions)
        return case.troubled("each", read_by_shell(case), repaired="once")


def play_reads_healthy(conditions: Conditions) -> Played:
    """One program."""
    with opened(conditions.progress) as here:
        return _clerk(here, conditions).sound("once")


def _clerk(here: Site, conditions: Conditions) -> stand.Stand:
    return clerk(here, conditions, lines=LINES)


def clerk(here: Site, conditions: Conditions, *, lines: int) -> stand.Stand:
    """The service that has a shell script read a file of so many lines."""
    disk = slowdisk.ordinary_disk(here)
    script, ledger = stand.copied(here, "lines.sh", "lines.sh"), disk.directory / LEDGER
    _fill(ledger, conditions, lines)
    return stand.raised(here, conditions, app="clerk", on=disk, arguments=(str(script), str(ledger)))


def _fill(ledger: Path, conditions: Conditions, lines: int) -> None:
    chance = conditions.parameters.chance("small-reads")
    ledger.write_text("".join(f"entry {number} of {chance.randrange(10**40):040}\n" for number in range(lines)))


def read_by_shell(case: stand.Stand) -> Truth:
    """That a shell reads a byte at a time: a new process each time, known by its name and the file."""
    ledger = str((case.disk.directory / LEDGER).resolve())
    return Truth(
        causes=(SMALL_READS,),
        may=ALSO_BUSY,
        who=(TruthWho(cause=SMALL_READS, comm="sh"),),
        on=(TruthOn(cause=SMALL_READS, path=ledger),),
        path=(TruthStep(kind="peer", comm="sh"), TruthStep(kind="running", comm="sh")),
        fix="lines.sh once: one program reads the file",
    )


SMALL_WRITES_LAB = Lab(
    name="small-writes",
    family="applications",
    needs=("trace",),
    fires=(SMALL_WRITES,),
    silent=(SMALL_READS, "app.log.flood", "disk.fsync-heavy", "sleep.by-choice"),
    play=play_writes,
)
SMALL_WRITES_HEALTHY = SMALL_WRITES_LAB.healthy(silent=(SMALL_WRITES,), play=play_writes_healthy)
SMALL_READS_LAB = Lab(
    name="small-reads",
    family="applications",
    needs=("trace",),
    fires=(SMALL_READS,),
    silent=(SMALL_WRITES, "disk.slow-device", "sleep.by-choice"),
    play=play_reads,
)
SMALL_READS_HEALTHY = SMALL_READS_LAB.healthy(silent=(SMALL_READS,), play=play_reads_healthy)
