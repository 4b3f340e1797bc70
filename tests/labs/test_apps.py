"""The services of the labs do what their truths say, by the count of somebody else."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from culpa.errors import LabError
from culpa.labs import redis_server, site, source, stand, stopwatch
from culpa.labs.lab import Conditions, Parameters
from culpa.labs.places import Places

ROWS = 7
PRIMES_BELOW_1000 = 168


def ask(case: stand.Stand, action: str) -> str:
    return stopwatch.get(f"{case.url}/{action}").body.decode()


def raised(here: site.Site, app: str, *arguments: str) -> stand.Stand:
    conditions = Conditions(parameters=Parameters(), trace=True, progress=print)
    return stand.raised(here, conditions, app=app, on=stand.disk(here, conditions, slow=False), arguments=arguments)


def test_notes_are_added_with_a_commit_each_or_with_one_for_all(places: Places) -> None:
    """SQLite's own change counter (bytes 24 to 27 of the file) counts the transactions, another reader the rows."""
    with site.opened(print, places=places) as here:
        database = here.directory / "notes.sqlite"
        case = raised(here, "notes", str(database), str(ROWS))
        commits = [_transactions(database)]
        for action in ("one_by_one", "together"):
            ask(case, action)
            commits.append(_transactions(database))
        rows = sqlite3.connect(database).execute("SELECT count(*) FROM note").fetchone()
    assert (2 * ROWS,) == rows
    assert [ROWS, 1] == [after - before for before, after in itertools.pairwise(commits)]


def _transactions(database: Path) -> int:
    return int.from_bytes(database.read_bytes()[24:28])


def test_both_ways_count_the_same_primes(places: Places) -> None:
    """There are 168 below 1000."""
    with site.opened(print, places=places) as here:
        case = raised(here, "primes", "1000")
        answers = {ask(case, action) for action in ("by_division", "by_sieve")}
    assert answers == {f"{PRIMES_BELOW_1000} primes below 1000\n"}


def test_words_are_counted_the_same_by_way_of_files_and_in_memory(places: Places) -> None:
    """One figure both ways, and none of the files is left."""
    with site.opened(print, places=places) as here:
        folder = here.directory / "texts"
        folder.mkdir()
        case = raised(here, "words", str(folder), "40", "5000", "7")
        answers = {ask(case, f"{way}/lomi") for way in ("popularity", "popular")}
        left = list(folder.iterdir())
    (answer,) = answers
    assert answer.endswith(" times in 40 texts\n")
    assert int(answer.split()[2]) > 0
    assert [] == left


def test_orders_are_logged_in_full_until_a_signal_says_less(places: Places) -> None:
    """By the size of the files: a dump an order, one old part kept, and nothing more after SIGUSR2."""
    with site.opened(print, places=places) as here:
        log = here.directory / "orders.log"
        case = raised(here, "orders", str(log), "100000", "150000")
        for _ in range(3):
            ask(case, "order")
        parts = sorted(path.name for path in here.directory.glob("orders.log*"))
        before = log.stat().st_size
        os.kill(case.app.pid, signal.SIGUSR2)
        ask(case, "order")
        after = log.stat().st_size
    assert ["orders.log", "orders.log.1"] == parts
    assert 100_000 < before == after < 100_200


def test_a_box_of_cards_is_written_past_the_page_cache(places: Places) -> None:
    """By the kernel's own count of bytes that the process sent to the disk: every card, and its first state."""
    with site.opened(print, places=places) as here:
        case = raised(here, "cards", str(here.directory / "box"), "50", "7")
        before = _write_bytes(case.app.pid)
        assert ask(case, "shuffle") == "50 cards\n"
        written = _write_bytes(case.app.pid) - before
    assert 50 * 4096 == written


def _write_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def test_a_report_by_the_clock_takes_the_pause_and_directly_only_the_work(places: Places) -> None:
    """300 ms against 20 ms."""
    with site.opened(print, places=places) as here:
        case = raised(here, "reports", "20", "300")
        by_clock = stopwatch.get(f"{case.url}/by_clock").seconds
        directly = min(stopwatch.get(f"{case.url}/directly").seconds for _ in range(3))
    assert by_clock >= 0.3
    assert 0.02 <= directly < 0.3


@pytest.mark.redis
def test_a_page_fills_the_cache_after_its_misses(places: Places) -> None:
    """By Redis' own count: as many SETs and EXPIREs as GETs that found nothing, and one INCR."""
    with site.opened(print, places=places) as here:
        server = redis_server.start(here, here.directory)
        case = raised(here, "pages", server.url, "1")
        server.client.config_resetstat()
        ask(case, "page")
        counted = {name: row["calls"] for name, row in server.client.info("commandstats").items()}
        missed = server.client.info("stats")["keyspace_misses"]
    assert counted["cmdstat_get"] == counted["cmdstat_set"] == counted["cmdstat_expire"] == missed
    assert missed > 1
    assert counted["cmdstat_incr" if "cmdstat_incr" in counted else "cmdstat_incrby"] == 1


def test_what_a_service_does_not_know_is_not_found(places: Places) -> None:
    """404, and it lives on."""
    with site.opened(print, places=places) as here:
        case = raised(here, "primes", "10")
        with pytest.raises(LabError, match="404"):
            ask(case, "by_magic")
        assert ask(case, "") == "up\n"


def test_an_answer_leaves_in_one_write(places: Places) -> None:
    """Head and body in one segment even where the body is larger than usual buffers: none waits for the other's
    acknowledgement."""
    with site.opened(print, places=places) as here:
        file = here.directory / "large.py"
        file.write_text("def application(arguments):\n    return lambda path: 'x' * 30000\n")
        server = stand.copied(here, stand.SERVER, stand.SERVER)
        port = redis_server.free_port()
        program = here.start([sys.executable, str(server), "--port", str(port), str(file)], name="app")
        stopwatch.wait_ready(f"http://127.0.0.1:{port}/", program)
        received = subprocess.run(
            [sys.executable, "-c", ONE_RECEIVE, str(port)], capture_output=True, text=True, check=True
        ).stdout
    assert int(received) > 30000


ONE_RECEIVE = """
import socket, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"GET /large HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
print(len(s.recv(1 << 20)))
"""


def test_a_truth_names_lines_that_are_there(places: Places) -> None:
    """The function's own lines, found in the copy that runs."""
    with site.opened(print, places=places) as here:
        file = stand.copied(here, "primes.py", "app.py")
        lines = source.function_lines(file, function="is_prime")
        text = file.read_text().splitlines()
        assert text[lines.first_line - 1].startswith("def is_prime")
        assert text[lines.last_line - 1] == "    return number > 1"
        with pytest.raises(LabError, match="no function"):
            source.function_lines(file, function="is_odd")
