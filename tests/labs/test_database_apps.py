"""The labs' programs that ask a Redis or a MariaDB do what their truths say, by the server's own count."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from culpa.collect.trace.tracer import usable
from culpa.labs import mariadb, ports, redis_server, site, stand, stopwatch
from culpa.labs.apps.shop import Connection
from culpa.labs.lab import Conditions, Parameters
from culpa.labs.places import Places

CONDITIONS = Conditions(parameters=Parameters(), trace=True, progress=print)
ELEMENTS, PART = 3000, 7
WAYS = (json.dumps(["LRANGE", "all", "0", "-1"]), json.dumps(["LRANGE", "all", "0", str(PART - 1)]))
ROWS = 500
NODE = shutil.which("node")
needs_mariadb = pytest.mark.skipif(
    mariadb.why_not() is not None, reason=f"{mariadb.why_not()}: NOT TESTED with MariaDB"
)


def ask(case: stand.Stand, action: str) -> str:
    return stopwatch.get(f"{case.url}/{action}").body.decode().strip()


@pytest.mark.parametrize(
    "node",
    [False, pytest.param(True, marks=pytest.mark.skipif(NODE is None, reason="no node: NOT TESTED with Node.js"))],
    ids=["python", "node"],
)
def test_a_stock_list_is_asked_for_as_a_whole_or_in_part(places: Places, node: bool) -> None:
    """All elements came, in however many pieces; and the server counts one command a request."""
    with site.opened(print, places=places) as here:
        server, disk = redis_server.start(here, here.directory), stand.disk(here, CONDITIONS, slow=False)
        server.client.rpush("all", *(f"element {number}" * 20 for number in range(ELEMENTS)))
        if node:
            file, port = stand.copied(here, "stock.js", "stock.js"), ports.free_port()
            argv = [str(NODE), str(file), str(port), str(server.port), *WAYS]
            case = stand.served(here, CONDITIONS, argv, file=file, port=port, on=disk)
        else:
            case = stand.raised(here, CONDITIONS, app="stock", on=disk, arguments=(str(server.port), *WAYS))
        answers = [ask(case, action) for action in ("whole", "part", "whole")]
        counted = server.client.info("commandstats")
    assert [f"{ELEMENTS} entries", f"{PART} entries", f"{ELEMENTS} entries"] == answers
    assert 3 == counted["cmdstat_lrange"]["calls"]  # type: ignore[index]  # the client's types leave it open


@pytest.fixture
def open_places() -> Iterator[Places]:
    """Places that another user can enter, which a test's own directory is not."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        yield Places(temp=base, state=base, lock=base / "lock")


@pytest.mark.root
@needs_mariadb
@pytest.mark.parametrize("by_port", [True, False], ids=["port", "socket"])
def test_a_shop_finds_one_row_with_an_index_and_without(open_places: Places, by_port: bool) -> None:
    """The server counts the rows that it read one after the other: all of them, and then none."""
    with site.opened(print, places=open_places) as here:
        server, disk = mariadb.start(here, here.directory), stand.disk(here, CONDITIONS, slow=False)
        server.tell(
            "CREATE DATABASE d",
            "CREATE TABLE d.t (id INT PRIMARY KEY, n VARCHAR(40)) ENGINE=MyISAM",
            f"INSERT INTO d.t SELECT seq, CONCAT('n-', seq) FROM d.seq_1_to_{ROWS}",
        )
        address = str(server.port) if by_port else str(server.socket)
        arguments = (address, "d", str(ROWS), "SELECT id FROM t WHERE n = 'n-{}'")
        case = stand.raised(here, CONDITIONS, app="shop", on=disk, arguments=arguments)
        read = []
        for statement in ("FLUSH STATUS", "CREATE INDEX n_index ON d.t (n)"):
            server.tell(statement)
            before = server.number("SHOW GLOBAL STATUS LIKE 'Handler_read_rnd_next'")
            assert "1 found" == ask(case, "search")
            read.append(server.number("SHOW GLOBAL STATUS LIKE 'Handler_read_rnd_next'") - before)
    assert read[0] >= ROWS > read[1]


SLEEP_S = 0.3
SLEEPS = f"SELECT id, SLEEP({SLEEP_S}) FROM t WHERE n = 'n-{{}}'"
LOCKS = "SELECT id FROM t WHERE n = 'n-{}' FOR UPDATE"


@contextmanager
def holding_all_rows(server: mariadb.MariadbServer, *, most_of_the_time: bool) -> Iterator[None]:
    """Another client locks every row for a while, again and again; or nobody does."""
    over = threading.Event()

    def hold() -> None:
        connection = Connection(str(server.socket), "d")
        while not over.is_set():
            connection.ask("BEGIN")
            connection.ask("SELECT id FROM t FOR UPDATE")
            time.sleep(SLEEP_S)
            connection.ask("COMMIT")
        connection.close()

    holder = threading.Thread(target=hold)
    if most_of_the_time:
        holder.start()
    try:
        yield
    finally:
        over.set()
        if most_of_the_time:
            holder.join()


@pytest.mark.root
@pytest.mark.trace
@needs_mariadb
@pytest.mark.skipif(usable() is not None, reason=f"tracing is impossible here: {usable()}")
@pytest.mark.parametrize("statement", [SLEEPS, LOCKS], ids=["sleeps", "locked"])
def test_a_statement_that_waits_lacks_no_index(open_places: Places, statement: str) -> None:
    """The table has no index, and the server says so; but it is small, and the time goes to a sleep, or to a lock that
    another client has.
    """
    with site.opened(print, places=open_places) as here:
        server, disk = mariadb.start(here, here.directory), stand.disk(here, CONDITIONS, slow=False)
        server.tell(
            "CREATE DATABASE d",
            "CREATE TABLE d.t (id INT PRIMARY KEY, n VARCHAR(40)) ENGINE=InnoDB",
            f"INSERT INTO d.t SELECT seq, CONCAT('n-', seq) FROM d.seq_1_to_{ROWS}",
        )
        arguments = (str(server.port), "d", str(ROWS), statement)
        with holding_all_rows(server, most_of_the_time=statement == LOCKS):
            case = stand.raised(here, CONDITIONS, app="shop", on=disk, arguments=arguments)
            verdict = case.judge("search").verdict
    named = {cause.id for head in verdict.causes for cause in (head, *head.because)}
    print(verdict.headline, sorted(named))
    assert verdict.observed is not None
    assert verdict.observed.p50 is not None
    assert verdict.observed.p50 >= SLEEP_S / 3
    assert "db.mysql.missing-index" not in named
