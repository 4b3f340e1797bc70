"""A service that computes in every request, in a way that takes long; the twin has the same figure from a sieve."""

from __future__ import annotations

from culpa.labs import source, stand
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthStep
from culpa.labs.site import Site, opened

CPU_BUSY = "cpu.busy"
BELOW = 300_000


def play(conditions: Conditions) -> Played:
    """By trial division."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        return case.troubled("by_division", _truth(case), repaired="by_sieve")


def play_healthy(conditions: Conditions) -> Played:
    """By sieve."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions).sound("by_sieve")


def _raised(here: Site, conditions: Conditions) -> stand.Stand:
    disk = stand.disk(here, conditions, slow=False)
    return stand.raised(here, conditions, on=disk, app="primes", arguments=(str(BELOW),))


def _truth(case: stand.Stand) -> Truth:
    lines = source.function_lines(case.app_file, function="is_prime")
    line = lines.named_in(CPU_BUSY)
    return Truth(
        causes=(CPU_BUSY,),
        may=("cpu.runqueue",),
        who=(stand.who(CPU_BUSY, case.app.pid),),
        on=(line,),
        path=(TruthStep(kind="running", pid=case.app.pid),),
        fix="ask /by_sieve",
    )


LAB_CPU_BUSY = Lab(
    name="cpu-busy",
    family="hosts",
    needs=(),
    fires=(CPU_BUSY,),
    silent=("disk.fsync-heavy", "sleep.by-choice", "net.remote-slow"),
    play=play,
)
LAB_CPU_BUSY_HEALTHY = LAB_CPU_BUSY.healthy(silent=(CPU_BUSY,), play=play_healthy)
