"""The labs' programs that are no Python, and those whose trouble no system call shows, do what their truths say."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from culpa.labs import leftovers, perfmap, ports, postgres, site, source, stand, stopwatch
from culpa.labs.lab import Conditions, Parameters
from culpa.labs.places import Places

ENTRIES = 7
CONDITIONS = Conditions(parameters=Parameters(), trace=True, progress=print)
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not on the PATH: NOT TESTED with Node.js")
needs_postgres = pytest.mark.skipif(
    postgres.why_not() is not None, reason=f"{postgres.why_not()}: NOT TESTED with PostgreSQL"
)


def ask(case: stand.Stand, action: str) -> str:
    return stopwatch.get(f"{case.url}/{action}").body.decode().strip()


def python(here: site.Site, app: str, *arguments: str) -> stand.Stand:
    return stand.raised(here, CONDITIONS, app=app, on=stand.disk(here, CONDITIONS, slow=False), arguments=arguments)


def node(here: site.Site, *options: str) -> stand.Stand:
    file, port = stand.copied(here, "visits.js", "visits.js"), ports.free_port()
    argv = [str(NODE), *options, str(file), str(port), str(here.directory / "book"), str(ENTRIES)]
    on = stand.disk(here, CONDITIONS, slow=False)
    return stand.served(here, CONDITIONS, argv, file=file, port=port, on=on)


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


@needs_node
def test_a_service_of_node_writes_a_line_a_visitor(places: Places) -> None:
    """Both ways; and what it does not know it says so."""
    with site.opened(print, places=places) as here:
        case = node(here)
        ask(case, "each")
        assert lines(here.directory / "book") == ENTRIES
        ask(case, "once")
        assert lines(here.directory / "book") == 2 * ENTRIES
        with pytest.raises(site.LabError, match="404"):
            ask(case, "never")


@needs_node
def test_the_perf_map_that_a_killed_lab_left_is_removed_and_no_other(places: Places) -> None:
    """A map is a lab's own if it is that of a process of the ledger and names a file of the run."""
    with site.opened(print, places=places) as here:
        case = node(here, "--perf-basic-prof", f"--logfile={here.directory}/v8.log")
        own = perfmap.mapped(case.app.pid)
        assert own in leftovers.find(places).maps
        assert perfmap.of_run(case.app.pid, "another-run") is None
        other = perfmap.mapped(os.getpid())
        other.write_text("1000 10 something else\n")
        try:
            assert other not in leftovers.find(places).maps
        finally:
            other.unlink()
    assert not own.exists()


def test_a_function_of_a_script_is_found_by_its_name(places: Places) -> None:
    """From its first line to its closing brace."""
    with site.opened(print, places=places) as here:
        file = stand.copied(here, "visits.js", "visits.js")
        found = source.script_function(file, function="signEach")
        text = file.read_text().split("\n")
        assert text[found.first_line - 1] == "function signEach() {"
        assert text[found.last_line - 1] == "}"
        with pytest.raises(site.LabError, match="no function"):
            source.script_function(file, function="sign")


@pytest.mark.parametrize(("way", "syncs"), [("each", ENTRIES), ("once", 0)])
def test_a_script_syncs_every_entry_or_none(places: Places, way: str, syncs: int) -> None:
    """By strace's count of the calls of all its processes."""
    with site.opened(print, places=places) as here:
        script, ledger, seen = stand.copied(here, "entries.sh", "entries.sh"), here.directory / "ledger", "seen"
        argv = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(here.directory / seen)]
        subprocess.run([*argv, "/bin/sh", str(script), way, str(ledger), str(ENTRIES)], check=True)
        calls = (here.directory / seen).read_text()
        assert lines(ledger) == ENTRIES
    assert calls.count("fsync(") == syncs


def test_a_clerk_has_the_script_do_it(places: Places) -> None:
    """A request, a run."""
    with site.opened(print, places=places) as here:
        script, ledger = stand.copied(here, "entries.sh", "entries.sh"), here.directory / "ledger"
        case = python(here, "clerk", str(script), str(ledger), str(ENTRIES))
        assert ask(case, "each") == ask(case, "once") == f"{ENTRIES} entries"
        assert lines(ledger) == 2 * ENTRIES


@pytest.fixture
def open_places() -> Iterator[Places]:
    """Places that another user can enter, which a test's own directory is not."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        yield Places(temp=base, state=base, lock=base / "lock")


@pytest.mark.root
@needs_postgres
def test_rows_are_committed_one_by_one_or_together(open_places: Places) -> None:
    """Another client counts the rows, and the transactions by which they came; the process named is the server's."""
    with site.opened(print, places=open_places) as here:
        server = postgres.start(here, here.directory)
        case = python(here, "accounts", str(server.port), postgres.USER, str(ENTRIES))
        for action in ("one_by_one", "together"):
            ask(case, action)
        query = "SELECT count(*), count(DISTINCT xmin::text) FROM account"
        address = ["-h", ports.LOOPBACK, "-p", str(server.port), "-U", postgres.USER]
        argv = [str(postgres.executable("psql")), "-X", "-A", "-t", *address, "-c", query, "postgres"]
        counted = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
        backend, log = int(ask(case, "backend")), server.log_file(ask(case, "wal"))
        parent = Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1]
        assert (str(server.pid), True) == (parent, log.is_file())
    assert f"{2 * ENTRIES}|{ENTRIES + 1}" == counted


def test_pages_of_an_atlas_are_read_again_unless_they_are_kept(places: Places) -> None:
    """By the kernel's count of faults that had to read: one a page for those that are far, none for those near."""
    pages = 200
    with site.opened(print, places=places) as here:
        case = python(here, "atlas", str(here.directory / "atlas"), str(pages), "1")
        ask(case, "near")
        counts = [_major_faults(case.app.pid)]
        for action in ("far", "far", "near", "near"):
            ask(case, action)
            counts.append(_major_faults(case.app.pid))
    _, first, second, warm, kept = counts
    assert second - first >= 0.9 * pages
    assert kept == warm


def _major_faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[9])


def test_letters_are_moved_to_and_fro(places: Places) -> None:
    """By the folders themselves."""
    with site.opened(print, places=places) as here:
        case = python(here, "letters", str(here.directory / "post"), str(ENTRIES))
        held = []
        for _ in range(3):
            held.append([len(list((here.directory / "post" / name).iterdir())) for name in ("new", "old")])
            ask(case, "sort")
        assert ask(case, "count") == f"{ENTRIES} letters"
    assert [[ENTRIES, 0], [0, ENTRIES], [ENTRIES, 0]] == held
