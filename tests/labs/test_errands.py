"""Each errand of the service in Perl makes the calls that its truth says, and fewer when it is done as it should be."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from culpa.labs import loopdev, ports, site, slowdisk, stand, stopwatch
from culpa.labs.lab import Conditions, Parameters
from culpa.labs.places import Places

CONDITIONS = Conditions(parameters=Parameters(), trace=True, progress=print)
PERL = loopdev.tool("perl")
needs_perl = pytest.mark.skipif(PERL is None, reason="perl is not on the PATH: NOT TESTED")


def office(here: site.Site, **settings: object) -> stand.Stand:
    file, port = stand.copied(here, "errands.pl", "errands.pl"), ports.free_port()
    argv = [str(PERL), str(file), str(port), *(f"{name}={value}" for name, value in settings.items())]
    return stand.served(here, CONDITIONS, argv, file=file, port=port, on=slowdisk.ordinary_disk(here))


def ask(case: stand.Stand, action: str) -> str:
    return stopwatch.get(f"{case.url}/{action}").body.decode().strip()


def grown(case: stand.Stand, action: str, field: str) -> int:
    """How much a count in /proc/PID/io grew by a request."""
    before = counted(case)[field]
    assert ask(case, action) == "1 errands"
    return counted(case)[field] - before


def counted(case: stand.Stand) -> dict[str, int]:
    pairs = (line.split(": ") for line in Path(f"/proc/{case.app.pid}/io").read_text().splitlines())
    return {name: int(value) for name, value in pairs}


@needs_perl
def test_what_is_read_is_read_as_often_as_it_says(places: Places) -> None:
    """A table of 300 kB twenty times or once; files in turn, and the known ones again."""
    with site.opened(print, places=places) as here:
        table, shelves = here.directory / "table", here.directory / "shelves"
        table.write_bytes(bytes(300_000))
        shelves.mkdir()
        for number in range(4):
            (shelves / f"{number}").write_bytes(bytes(50_000 * (number + 1)))
        case = office(here, table=table, times=20, shelves=shelves, each=1)
        assert 20 * 300_000 <= grown(case, "again", "rchar") < 20 * 300_000 + 10_000
        assert 300_000 <= grown(case, "again_well", "rchar") < 310_000
        assert [100_000, 150_000] == [grown(case, "cold", "rchar") // 10_000 * 10_000 for _ in range(2)]
        assert [50_000, 50_000] == [grown(case, "cold_well", "rchar") // 10_000 * 10_000 for _ in range(2)]


@needs_perl
def test_files_are_made_and_deleted_and_rows_are_written(places: Places) -> None:
    """Nothing is left of a visit but what was written; a job goes with each request."""
    with site.opened(print, places=places) as here:
        visits, spool, book = (here.directory / name for name in ("visits", "spool", "book"))
        for folder in (visits, spool):
            folder.mkdir()
        for number in range(3):
            (spool / f"job-{number}").touch()
        case = office(here, folder=visits, files=12, bytes=5_000, spool=spool, book=book, rows=7)
        assert 12 * 5_000 <= grown(case, "churn", "wchar") < 12 * 5_000 + 500
        assert grown(case, "churn_well", "wchar") < 500
        assert [] == list(visits.iterdir())
        ask(case, "drop-drop_well")
        assert ["job-1", "job-2"] == sorted(job.name for job in spool.iterdir())
        assert "2 errands" == ask(case, "sync-keep")
        assert 14 == len(book.read_text().splitlines())


@needs_perl
def test_rest_and_count_take_their_time(places: Places) -> None:
    """By this test's own clock, and by the CPU time of the process."""
    with site.opened(print, places=places) as here:
        case = office(here, rest=0.2, rounds=2_000_000)
        took = []
        for action in ("rest", "rest_well"):
            began = time.monotonic()
            ask(case, action)
            took.append(time.monotonic() - began)
        assert took[1] < 0.2 <= took[0]
        ticks = [cpu_ticks(case.app.pid)]
        for action in ("count", "count_well"):
            ask(case, action)
            ticks.append(cpu_ticks(case.app.pid))
        assert ticks[1] - ticks[0] > 3 * (ticks[2] - ticks[1])


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
