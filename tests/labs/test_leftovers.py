"""Nothing of a lab stays behind, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lab_host
import pytest

from culpa.errors import LabError
from culpa.labs import ledger, leftovers, site
from culpa.labs.places import MARKER, Places

pytestmark = [pytest.mark.root, pytest.mark.redis]
LAB = Path(__file__).with_name("lab_process.py")
ENTRIES = 7
"""Ledger entries of the lab process: run, two loops, mount, bound on dirty pages, throttle, process."""


def start_lab(places: Places, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(LAB), str(places.state), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def started_lab(places: Places, *more: str) -> subprocess.Popen[str]:
    lab = start_lab(places, *more)
    assert lab.stdout is not None
    assert lab.stdout.readline() == "ready\n"
    return lab


def assert_nothing_left(places: Places, limits_before: set[str]) -> None:
    assert lab_host.processes_in(places.temp) == []
    assert lab_host.mounts_in(places.temp) == []
    assert lab_host.loop_devices_over(places.temp) == []
    assert limits_before >= lab_host.write_limits()
    assert list(places.temp.iterdir()) == []
    assert not places.ledger.exists()
    assert leftovers.find(places).sentences() == ()


def test_a_killed_lab_is_removed_by_the_next(places: Places) -> None:
    """SIGKILL leaves redis-server, mount, two loop devices, a limit, a bound and files; the next site removes them
    all."""
    limits_before, bounds_before = lab_host.write_limits(), lab_host.dirty_bounds()
    lab = started_lab(places)
    lab.kill()
    lab.communicate()
    assert len(lab_host.processes_in(places.temp)) == 1
    assert len(lab_host.mounts_in(places.temp)) == 1
    assert len(lab_host.loop_devices_over(places.temp)) == 1
    assert len(lab_host.write_limits() - limits_before) == 1
    assert len(lab_host.dirty_bounds() - bounds_before) == 1
    removed: list[str] = []
    with site.opened(removed.append, places=places):
        assert lab_host.mounts_in(places.temp) == []
    assert_nothing_left(places, limits_before)
    assert len(removed) == 7, removed
    assert bounds_before >= lab_host.dirty_bounds()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_swap_area_and_a_memory_group_go_with_the_lab(places: Places, ending: signal.Signals) -> None:
    """Swap is the whole host's: it is off again after any end, before the loop devices below it go."""
    limits_before, swaps_before = lab_host.write_limits(), lab_host.swaps()
    lab = started_lab(places, "swap")
    (area,) = lab_host.swaps() - swaps_before
    (group,) = lab_host.memory_groups()
    lab.send_signal(ending)
    lab.communicate(timeout=60)
    if ending is signal.SIGKILL:
        assert swaps_before | {area} == lab_host.swaps()
        assert f"swap on {area}" in leftovers.remove(places)
    assert swaps_before == lab_host.swaps()
    assert not group.exists()
    assert_nothing_left(places, limits_before)


@pytest.mark.parametrize("entries", range(1, ENTRIES + 1))
def test_a_lab_killed_while_it_builds_is_removed(places: Places, entries: int) -> None:
    """Killed right after each line of the ledger, before the thing announced there was made or just after."""
    limits_before = lab_host.write_limits()
    lab = start_lab(places, str(entries))
    lab.communicate()
    assert lab.returncode == -signal.SIGKILL
    assert entries == len(ledger.read(places.ledger))
    leftovers.remove(places)
    assert_nothing_left(places, limits_before)


def test_a_program_that_was_not_written_down_is_found_by_its_log(places: Places) -> None:
    """Killed between starting redis-server, which overwrites its environment with its title, and its ledger line."""
    limits_before = lab_host.write_limits()
    lab = start_lab(places, "unsaid")
    lab.communicate()
    assert lab.returncode == -signal.SIGKILL
    assert not any(isinstance(entry, ledger.Started) for entry in ledger.read(places.ledger))
    assert len(lab_host.processes_in(places.temp)) == 1
    leftovers.remove(places)
    assert_nothing_left(places, limits_before)


@pytest.mark.parametrize("delay_ms", [40, 80, 120, 160, 200, 240, 280, 320, 360, 400])
def test_ctrl_c_while_it_builds_leaves_nothing(places: Places, delay_ms: int) -> None:
    """At moments spread over the building, whatever is being made just then."""
    limits_before = lab_host.write_limits()
    lab = start_lab(places)
    lab_host.wait_until(places.ledger.exists)
    time.sleep(delay_ms / 1000)
    lab.send_signal(signal.SIGINT)
    lab.communicate(timeout=25)
    assert lab.returncode != 0
    assert_nothing_left(places, limits_before)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_lab_undoes_itself(places: Places, ending: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and SIGHUP need no next run; a second signal on the way does not disturb."""
    limits_before = lab_host.write_limits()
    lab = started_lab(places)
    lab.send_signal(ending)
    lab.send_signal(signal.SIGTERM)
    _, said = lab.communicate(timeout=60)
    assert lab.returncode != 0
    assert "KeyboardInterrupt" in said
    assert_nothing_left(places, limits_before)


def test_an_exception_undoes_everything(places: Places) -> None:
    """The exception of the lab comes through, and its programs are gone."""

    def lab() -> None:
        with site.opened(print, places=places) as here:
            here.start(["sleep", "60"], name="sleeper")
            assert len(lab_host.processes_in(places.temp)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lab()
    assert_nothing_left(places, lab_host.write_limits())


def test_only_the_marked_are_killed(places: Places) -> None:
    """A process of another run, and one that bears a reused pid of the ledger, stay alive."""
    stranger = subprocess.Popen(["sleep", "60"], env={**os.environ, MARKER: "culpa-lab-someone-else"})
    try:
        begun = leftovers.starttime(stranger.pid)
        assert begun is not None
        book = ledger.create(places.ledger)
        book.note(ledger.Started(pid=stranger.pid, starttime=begun + 1))
        book.close()
        assert leftovers.remove(places) == ()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_link_with_the_prefix_is_neither_followed_nor_removed(places: Places, tmp_path: Path) -> None:
    """Somebody plants a link in the temporary directory that points at precious files."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (places.temp / "culpa-lab-evil").symlink_to(precious)
    assert leftovers.remove(places) == ()
    assert (precious / "file").exists()


def test_a_torn_or_foreign_ledger_line_is_ignored(places: Places) -> None:
    """A killed writer leaves half a line; a path in it outside any run is never touched."""
    places.ledger.write_bytes(b'{"type":"mount","path":"/"}\n\xff\xfe{"type":"pro')
    assert leftovers.remove(places) == ()
    assert not places.ledger.exists()


def test_two_labs_never_run_at_once(places: Places) -> None:
    """The second one is told so, and the first one is not disturbed."""
    with (
        site.opened(print, places=places) as first,
        pytest.raises(LabError, match="another lab is running"),
        site.opened(print, places=places, lock_wait_s=0),
    ):
        pass
    assert not first.directory.exists()
    with site.opened(print, places=places, lock_wait_s=0):
        pass


def test_require_none_names_what_is_left(places: Places) -> None:
    """The check at the end of the demonstration fails with the name of the thing."""
    (places.temp / "culpa-lab-forgotten").mkdir()
    with pytest.raises(LabError, match="culpa-lab-forgotten"):
        leftovers.require_none(places)
