"""Places of a test's own, so that it neither waits for a lab on this host nor touches one."""

from __future__ import annotations

from pathlib import Path

import pytest

from culpa.labs.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Lock, ledger and runs in the test's own directory."""
    temp = tmp_path / "temp"
    temp.mkdir()
    return Places(temp=temp, state=tmp_path, lock=tmp_path / "lock")
