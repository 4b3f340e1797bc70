"""The services of labs about files that are deleted or taken out of memory do so, by the kernel's own count."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from culpa.labs import site, stand, stopwatch
from culpa.labs.lab import Conditions, Parameters
from culpa.labs.places import Places
from culpa.labs.waiting import wait_until

CONDITIONS = Conditions(parameters=Parameters(), trace=True, progress=print)


def ask(case: stand.Stand, action: str) -> str:
    return stopwatch.get(f"{case.url}/{action}").body.decode().strip()


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def filled(folder: Path, files: int, size: int = 10_000) -> Path:
    folder.mkdir()
    for number in range(files):
        (folder / f"{number:03}").write_bytes(bytes(size))
    return folder


def python(here: site.Site, app: str, *arguments: str) -> stand.Stand:
    return stand.raised(here, CONDITIONS, app=app, on=stand.disk(here, CONDITIONS, slow=False), arguments=arguments)


def test_jobs_are_deleted_now_or_later(places: Places) -> None:
    """The oldest first, each once; the answer to /later does not wait, and nothing is handed over before it is done."""
    with site.opened(print, places=places) as here:
        folder = filled(here.directory / "spool", 3)
        case = python(here, "prints", str(folder))
        assert "2 jobs left" == ask(case, "now")
        assert ["001", "002"] == names(folder)
        assert "1 jobs left" == ask(case, "later")
        wait_until(lambda: names(folder) == ["002"], what="the thread to delete it")
        wait_until(lambda: ask(case, "later") == "0 jobs left", what="the thread to be free")
        wait_until(lambda: not names(folder), what="the last one to be deleted")
        assert "0 jobs left" == ask(case, "now")


def test_known_files_are_read_each_time_and_the_next_ones_once(places: Places) -> None:
    with site.opened(print, places=places) as here:
        case = python(here, "shelves", str(filled(here.directory / "shelves", 5)), "2")
        assert ["20000 bytes"] * 2 == [ask(case, "known") for _ in range(2)]
        assert ["20000 bytes", "10000 bytes", "0 bytes"] == [ask(case, "next") for _ in range(3)]


def test_the_sweeper_leaves_nothing_in_memory(places: Places) -> None:
    """What is read after each sweep comes from the disk again, by the reader's own count."""
    with site.opened(print, places=places) as here:
        folder = filled(here.directory / "shelves", 4, 1 << 20)
        os.sync()
        file = stand.copied(here, "sweeper.py", "sweeper.py")
        here.start([sys.executable, str(file), str(folder), "20"], name="sweeper").wait_ready()
        case = python(here, "shelves", str(folder), "4")

        def fetched() -> int:
            before = _read_bytes(case.app.pid)
            ask(case, "known")
            return _read_bytes(case.app.pid) - before

        wait_until(lambda: fetched() >= 1 << 20, what="a read from the disk")


def _read_bytes(pid: int) -> int:
    pairs = (line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return {name: int(value) for name, value in pairs}["read_bytes"]
