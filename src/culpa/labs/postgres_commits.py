"""A service that commits every row to PostgreSQL by itself, on a slow disk: each commit syncs the write-ahead log.

The twin adds the same rows in one transaction, on the disk that is there.
"""

from __future__ import annotations

from culpa.labs import postgres, stand, stopwatch
from culpa.labs.fsync_loop import FSYNC_HEAVY, SEEN_FROM_BELOW
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

ROWS = 100


def play(conditions: Conditions) -> Played:
    """A commit for each row, on the slow disk."""
    with opened(conditions.progress) as here:
        case, server = _raised(here, conditions, slow=True)
        return case.troubled("one_by_one", _truth(case, server), repaired="together")


def play_healthy(conditions: Conditions) -> Played:
    """One commit for all rows."""
    with opened(conditions.progress) as here:
        case, _ = _raised(here, conditions, slow=False)
        return case.sound("together")


def _raised(here: Site, conditions: Conditions, *, slow: bool) -> tuple[stand.Stand, postgres.PostgresServer]:
    disk = stand.disk(here, conditions, slow=slow)
    conditions.progress("making a PostgreSQL cluster")
    server = postgres.start(here, disk.directory)
    disk.admit(server.pid)
    arguments = (str(server.port), postgres.USER, str(ROWS))
    return stand.raised(here, conditions, app="accounts", on=disk, arguments=arguments), server


def _truth(case: stand.Stand, server: postgres.PostgresServer) -> Truth:
    backend = int(_told(case, "backend"))
    log = str(server.log_file(_told(case, "wal")))
    steps = (
        TruthStep(kind="peer", pid=backend),
        TruthStep(kind="fsync", pid=backend, path=log),
        TruthStep(kind="device", device=case.disk.device_name),
    )
    return Truth(
        causes=(FSYNC_HEAVY,),
        may=SEEN_FROM_BELOW,
        who=(stand.who(FSYNC_HEAVY, backend),),
        on=(TruthOn(cause=FSYNC_HEAVY, path=log),),
        path=steps,
        fix="ask /together: one transaction for all rows",
    )


def _told(case: stand.Stand, action: str) -> str:
    return stopwatch.get(f"{case.url}/{action}").body.decode().strip()


POSTGRES_COMMITS = Lab(
    name="postgres-commits",
    family="applications",
    needs=("root", "trace", "postgres"),
    seed=None,
    fires=(FSYNC_HEAVY,),
    silent=("net.remote-slow", "app.pool.exhausted", "cpu.busy"),
    fast=True,
    play=play,
)
POSTGRES_COMMITS_HEALTHY = Lab(
    name="postgres-commits-healthy",
    family="applications",
    needs=("root", "trace", "postgres"),
    seed=None,
    fires=(),
    silent=(FSYNC_HEAVY,),
    fast=True,
    play=play_healthy,
)
