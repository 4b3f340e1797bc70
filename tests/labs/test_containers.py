"""Containers of a lab: namespaces of their own, an overlay as root, and nothing of them stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import lab_host
import pytest

from culpa.labs import leftovers
from culpa.labs.places import Places

pytestmark = pytest.mark.root
LAB = """
import sys, time
from pathlib import Path
from culpa.labs import container, site, slowdisk, throttle
from culpa.labs.places import Places
base = Path(sys.argv[1])
places = Places(temp=base / "temp", state=base, lock=base / "lock")
slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=800), image_bytes=64 << 20)
with site.opened(print, places=places) as here:
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    network = here.stack.enter_context(container.bridged(here))
    words = ["sh", "-c", "echo $$ {address} > /written; exec sleep 60"]
    inside = network.start(words, name="box", number=2, on=disk.directory)
    print(inside.pid, inside.upper, flush=True)
    time.sleep(60)
"""
NAMESPACES = ("net", "pid", "mnt")


def interfaces() -> list[str]:
    return sorted(path.name for path in Path("/sys/class/net").iterdir())


def started(places: Places) -> tuple[subprocess.Popen[str], int, Path]:
    """The lab process, the container's pid, and the upper layer."""
    lab = subprocess.Popen([sys.executable, "-c", LAB, str(places.state)], stdout=subprocess.PIPE, text=True)
    assert lab.stdout is not None
    pid, upper = lab.stdout.readline().split()
    return lab, int(pid), Path(upper)


def assert_nothing_left(places: Places, before: list[str]) -> None:
    assert interfaces() == before
    assert lab_host.processes_in(places.temp) == []
    assert lab_host.mounts_in(places.temp) == []
    assert lab_host.loop_devices_over(places.temp) == []
    assert leftovers.find(places).sentences() == ()


def test_a_container_is_apart_and_writes_to_its_upper_layer(places: Places) -> None:
    """Three namespaces that are not this one's; it is the first process of its own, and `/` is an overlay."""
    before = interfaces()
    lab, pid, upper = started(places)
    try:
        for name in NAMESPACES:
            assert Path(f"/proc/{pid}/ns/{name}").readlink() != Path(f"/proc/self/ns/{name}").readlink()
        deadline = time.monotonic() + 10
        while not (upper / "written").exists() or not (upper / "written").read_text():
            assert time.monotonic() < deadline, "the container wrote nothing"
            time.sleep(0.02)
        assert (upper / "written").read_text() == "1 198.18.0.2\n"
        roots = [line for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines() if line.split()[4] == "/"]
        assert [" - overlay " in line for line in roots] == [True]
    finally:
        lab.send_signal(signal.SIGINT)
        lab.communicate(timeout=30)
    assert_nothing_left(places, before)


def test_a_killed_lab_with_containers_is_removed_by_the_next(places: Places) -> None:
    """SIGKILL leaves the container, a bridge and a pair of interfaces, and the disk; all of it is found and goes."""
    before = interfaces()
    lab, _, _ = started(places)
    lab.kill()
    lab.communicate()
    assert len(interfaces()) == len(before) + 2
    leftovers.remove(places)
    assert_nothing_left(places, before)
