"""A command whose process ends before it may begin."""

from __future__ import annotations

import os
import signal

import pytest

from culpa.collect.command import CommandProbe
from culpa.errors import CulpaError


def test_a_process_that_is_killed_before_its_command_begins_is_a_sentence() -> None:
    """As by the kernel when memory is short, while the tracer is being set up."""
    probe = CommandProbe(("true",))
    pid = probe.prepare()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(CulpaError, match="the process for the command is gone"):
        probe.release()
    assert probe.stop() is None
    assert probe.rows().is_empty()
