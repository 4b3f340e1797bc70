"""Where labs keep things on a host, and the marks by which everything they make can be proved theirs."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

PREFIX = "culpa-lab-"
"""Begins the name of every directory, image, mount point and control group that a lab makes."""
MARKER = "CULPA_LAB"
"""Environment variable that every program of a lab carries; its value is the name of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The directories of one host: runs live under `temp`, the ledger in `state`, the lock is `lock`."""

    temp: Path
    state: Path
    lock: Path

    @property
    def ledger(self) -> Path:
        """The file in which a run writes down what it is about to make."""
        return self.state / f"{PREFIX}{os.geteuid()}.ledger"

    def owns(self, path: str | Path) -> bool:
        """Whether an absolute path lies in the directory of some run."""
        try:
            inside = Path(path).relative_to(self.temp)
        except ValueError:
            return False
        return bool(inside.parts) and inside.parts[0].startswith(PREFIX) and ".." not in inside.parts


def of_host() -> Places:
    """The places of this host. Root keeps the ledger where only root can write."""
    temp = Path(tempfile.gettempdir()).resolve()
    shared = Path("/run/lock")
    lock_dir = shared if os.access(shared, os.W_OK) else temp
    run = Path("/run")
    state = run if os.geteuid() == 0 and run.is_dir() else temp
    return Places(temp=temp, state=state, lock=lock_dir / f"{PREFIX}host.lock")
