"""A search in MariaDB by a column that has no index: the server reads through the whole table for one row.

The twin runs the same statement with the index.
"""

from __future__ import annotations

from dataclasses import dataclass

from culpa.labs import mariadb, stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.redis_commands import name
from culpa.labs.site import Site, opened

MISSING_INDEX = "db.mysql.missing-index"
ENGINES = {"InnoDB": ".ibd", "MyISAM": ".MYD", "Aria": ".MAD"}
FILLER_BYTES = 120
REQUESTS = 5
DATABASE = "shop"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """The shop on its server; `table` and `column` are what its search is about."""

    stand: stand.Stand
    server: mariadb.MariadbServer
    engine: str
    table: str
    column: str
    drawn: dict[str, int]

    def add_index(self) -> None:
        """The repair."""
        self.stand.conditions.progress(f"CREATE INDEX ON {self.table} ({self.column})")
        self.server.tell(f"CREATE INDEX {self.column}_index ON {DATABASE}.{self.table} ({self.column})")


def play(conditions: Conditions) -> Played:
    """The search as it was found; then with the index."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        before = case.stand.seconds("search", requests=REQUESTS)
        judged = case.stand.judge("search", show=True)
        case.add_index()
        measured = Measured(before=before, after_fix=case.stand.seconds("search", requests=REQUESTS))
        stage = case.stand.stage("as found", "search", _truth(case), judged, measured)
        return Played(stages=(stage,), disk=case.stand.disk.kind, drawn=case.drawn)


def play_healthy(conditions: Conditions) -> Played:
    """The search with the index, each for another row: a few pages of a table that does not fit into memory."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        case.add_index()
        return case.stand.sound("search")


def _raised(here: Site, conditions: Conditions) -> _Case:
    chance = conditions.parameters.chance("mysql-scan")
    number, rows = chance.randrange(len(ENGINES)), chance.randrange(400_000, 600_000)
    engine, table, column = tuple(ENGINES)[number], name(chance), name(chance)
    by_port = chance.random() < 1 / 2
    disk = stand.disk(here, conditions, slow=False)
    conditions.progress(f"filling a table of {rows} rows, {engine}")
    server = mariadb.start(here, disk.directory)
    server.tell(
        f"CREATE DATABASE {DATABASE}",
        f"CREATE TABLE {DATABASE}.{table} (id INT PRIMARY KEY, {column} VARCHAR(40), pad VARCHAR(250)) ENGINE={engine}",
        f"INSERT INTO {DATABASE}.{table} "  # noqa: S608 - names of the lab's own
        f"SELECT seq, CONCAT('{column}-', seq), REPEAT('x', {FILLER_BYTES}) FROM {DATABASE}.seq_1_to_{rows}",
    )
    search = f"SELECT id, {column} FROM {table} WHERE {column} = '{column}-{{}}'"  # noqa: S608 - as above
    address = str(server.port) if by_port else str(server.socket)
    case = stand.raised(here, conditions, app="shop", on=disk, arguments=(address, DATABASE, str(rows), search))
    drawn = {"engine": number, "rows": rows, "by_port": int(by_port)}
    return _Case(stand=case, server=server, engine=engine, table=table, column=column, drawn=drawn)


def _truth(case: _Case) -> Truth:
    file = str((case.server.directory / DATABASE / f"{case.table}{ENGINES[case.engine]}").resolve())
    return Truth(
        causes=(MISSING_INDEX,),
        may=("cpu.busy", "app.io.rereads", "app.io.small-reads"),
        who=(stand.who(MISSING_INDEX, case.server.pid),),
        on=(TruthOn(cause=MISSING_INDEX, path=file),),
        path=(TruthStep(kind="peer", pid=case.server.pid), TruthStep(kind="running", pid=case.server.pid)),
        fix=f"an index on {case.column}",
    )


MYSQL_SCAN = Lab(
    name="mysql-scan",
    family="applications",
    needs=("root", "trace", "mariadb"),
    fires=(MISSING_INDEX,),
    silent=("app.pool.exhausted", "net.remote-slow", "lock.contention", "disk.fsync-heavy"),
    play=play,
)
MYSQL_SCAN_HEALTHY = MYSQL_SCAN.healthy(silent=(MISSING_INDEX,), play=play_healthy)
