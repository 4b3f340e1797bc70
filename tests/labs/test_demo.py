"""`make demo`, interrupted at any moment, ends in a sentence and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import lab_host
import pytest

from culpa.labs.places import MARKER, PREFIX, of_host

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.redis]


@pytest.mark.parametrize("moment", ["slow disk", "CONFIG SET appendfsync always", "culpa why"])
def test_an_interrupted_demo_leaves_nothing(moment: str) -> None:
    """While it builds, while it measures the slow request, and while culpa watches."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "culpa.labs.demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert demo.stderr is not None
    said = [next(line for line in demo.stderr if "slow disk" in line)]
    place = of_host().temp / next(part for part in said[0].split("/") if part.startswith(PREFIX))
    if moment not in said[0]:
        said.append(next(line for line in demo.stderr if moment in line))
    demo.send_signal(signal.SIGINT)
    out, rest = demo.communicate(timeout=60)
    assert demo.returncode == 130, rest
    assert "Traceback" not in rest
    assert "interrupted" in rest
    assert out == ""
    assert not place.exists()
    assert lab_host.processes_in(place) == []
    assert lab_host.processes_with(f"{MARKER}={place.name}") == []
    assert lab_host.loop_devices_over(place) == []
    assert lab_host.mounts_in(place) == []
