"""The services of labs about calls on files make the calls that their truths say, by the kernel's own count."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from culpa.labs import ports, site, stand, stopwatch
from culpa.labs.lab import Conditions, Parameters
from culpa.labs.places import Places

CONDITIONS = Conditions(parameters=Parameters(), trace=True, progress=print)
BESIDE = 50
"""Calls that a server makes for a request of its own."""


def ask(case: stand.Stand, action: str) -> str:
    return stopwatch.get(f"{case.url}/{action}").body.decode().strip()


def python(here: site.Site, app: str, *arguments: str) -> stand.Stand:
    return stand.raised(here, CONDITIONS, app=app, on=stand.disk(here, CONDITIONS, slow=False), arguments=arguments)


def grown(case: stand.Stand, action: str, field: str) -> int:
    """How much a count in /proc/PID/io grew by a request."""
    before = _io(case.app.pid)[field]
    ask(case, action)
    return _io(case.app.pid)[field] - before


def _io(pid: int) -> dict[str, int]:
    pairs = (line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return {name: int(value) for name, value in pairs}


def test_readings_are_written_by_a_call_each_or_through_a_buffer(places: Places) -> None:
    """The same bytes either way; beside work as many calls as there is work."""
    with site.opened(print, places=places) as here:
        file = here.directory / "readings"
        case = python(here, "meter", str(file), "3000")
        calls, written = [], []
        for way in ("each", "once", "aside"):
            calls.append(grown(case, way, "syscw"))
            written.append(file.read_bytes())
    assert 3000 <= calls[0] < 3000 + BESIDE
    assert calls[1] < BESIDE
    assert 1200 <= calls[2] < 1200 + BESIDE
    assert written[0] == written[1]
    assert 24_000 == len(written[0])


def test_a_table_is_read_anew_for_each_fare_or_once(places: Places) -> None:
    """By the bytes that were read."""
    with site.opened(print, places=places) as here:
        case = python(here, "fares", str(here.directory / "table"), "200", "30")
        size = (here.directory / "table").stat().st_size
        each, once = (grown(case, way, "rchar") for way in ("each", "once"))
        assert ask(case, "each") == ask(case, "once") == f"{sum(range(30))} in all"
    assert 30 * size <= each < 30 * size + 100_000
    assert size <= once < size + 100_000


def test_receipts_are_synced_by_how_their_file_is_open_or_not_at_all(places: Places) -> None:
    """By the open flags of the service's files, and by the lines in them."""
    with site.opened(print, places=places) as here:
        file, book, port = stand.copied(here, "till.pl", "till.pl"), here.directory / "book", ports.free_port()
        argv = ["perl", str(file), str(port), str(book), "7"]
        on = stand.disk(here, CONDITIONS, slow=False)
        case = stand.served(here, CONDITIONS, argv, file=file, port=port, on=on)
        ask(case, "each")
        lines = [len(name.read_text().splitlines()) for name in (book, Path(f"{book}.plain")) if name.exists()]
        ask(case, "once")
        lines.append(len(Path(f"{book}.plain").read_text().splitlines()))
        synced = _synced(case.app.pid)
    assert [7, 0, 7] == lines
    assert {str(book.resolve()): True, f"{book.resolve()}.plain": False} == synced


def _synced(pid: int) -> dict[str, bool]:
    """Path to whether it is open with O_DSYNC, of the process's open books."""
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        path = str(fd.readlink())
        flags = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0]
        if Path(path).name.startswith("book"):
            found[path] = bool(int(flags, 8) & os.O_DSYNC)
    return found


def test_a_loop_of_the_shell_reads_byte_by_byte(tmp_path: Path, places: Places) -> None:
    """By strace; one program reads it in a few calls, and both count the same lines."""
    book, calls = tmp_path / "book", tmp_path / "calls"
    book.write_text("some line\n" * 20)
    single = {}
    with site.opened(print, places=places) as here:
        script = stand.copied(here, "lines.sh", "lines.sh")
        for way in ("each", "once"):
            strace = ["strace", "-f", "-e", "trace=read", "-o", str(calls), "/bin/sh", str(script), way, str(book)]
            done = subprocess.run(strace, check=True, stdout=subprocess.PIPE, text=True)
            single[way] = calls.read_text().count(", 1) ")
            assert "20" == done.stdout.strip()
    assert {"each": book.stat().st_size + 1, "once": 0} == single
