"""The catalogue of fixes: every entry is whole, every rule's command line is read back, and nothing else is."""

from __future__ import annotations

import pytest
from fixing import cause, config_set, fix, known, verdict
from hypothesis import given
from hypothesis import strategies as st

from culpa.diagnose.verdict import Fix, Who
from culpa.errors import CulpaError
from culpa.fix.catalogue import REMEDIES
from culpa.fix.parameters import KernelSetting, ProcessSetting, RedisSetting, check
from culpa.fix.proposals import proposals, seen_unix
from culpa.units import format_cpus, parse_cpus

NEIGHBOUR = Who(pid=4711, starttime=99, comm="backup")


def test_every_fix_says_what_it_does_and_what_it_costs() -> None:
    """And where data may be lost, what."""
    assert len({one.id for one in REMEDIES}) == len(REMEDIES)
    for one in REMEDIES:
        assert one.does
        assert one.costs
        assert one.settings
        assert not one.does.endswith(".")
    assert {one.id for one in REMEDIES if one.loses} == {
        "redis-appendfsync-everysec", "redis-no-appendfsync-on-rewrite", "redis-save-rarely", "dirty-limits",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("proposed", "expected"),
    [
        (
            config_set("redis-hz", 6379, "hz", "100"),
            RedisSetting(setting="hz", value="100", host="127.0.0.1", port=6379, pid=4711, starttime=99),
        ),
        (
            fix("redis-save-rarely", "redis-cli", "-s", "/run/r.sock", "CONFIG", "SET", "save", "3600 1"),
            RedisSetting(setting="save", value="3600 1", path="/run/r.sock", pid=4711, starttime=99),
        ),
        (
            fix("dirty-background", "sysctl", "-w", "vm.dirty_background_bytes=67108864"),
            KernelSetting(setting="vm.dirty_background_bytes", value="67108864"),
        ),
        (
            fix("redis-no-thp", change="echo madvise > ..."),
            KernelSetting(setting="transparent_hugepage/enabled", value="madvise"),
        ),
        (
            fix("redis-both-siblings", "taskset", "-acp", "0-1", "4711"),
            ProcessSetting(setting="CPUs", value="0-1", pid=4711, starttime=99, comm="backup"),
        ),
        (
            fix("cpu-renice-neighbour", "renice", "-n", "10", "-p", "4711"),
            ProcessSetting(setting="nice", value="10", pid=4711, starttime=99, comm="backup"),
        ),
    ],
)
def test_the_command_of_a_rule_becomes_typed_parameters(proposed: Fix, expected: object) -> None:
    """Of each kind one."""
    (found,) = proposals(verdict(cause(proposed, who=NEIGHBOUR)))
    assert expected == found.parameters
    assert known(proposed.id) == found.remedy


def test_a_neighbour_at_the_disk_can_be_made_idle_as_well() -> None:
    """The process that the cause names, which is the neighbour only in that cause."""
    by_words = fix("neighbour-io-limit", change="hold it to a rate")
    words, idle = proposals(verdict(cause(by_words, id="disk.neighbour", who=NEIGHBOUR)))
    assert (None, "hold it to a rate") == (words.parameters, words.change)
    assert ProcessSetting(setting="I/O class", value="idle", pid=4711, starttime=99, comm="backup") == idle.parameters
    assert 1 == len(proposals(verdict(cause(by_words, id="redis.aof.disk", who=NEIGHBOUR))))


def test_ids_are_unique_and_the_same_fix_stands_once() -> None:
    """Two causes with one fix, and one fix for two servers; a cause behind another one counts as well."""
    here, there = config_set("redis-hz", 1, "hz", "100"), config_set("redis-hz", 2, "hz", "100")
    found = proposals(verdict(cause(here), cause(here, there), cause(there)))
    assert ["redis-hz", "redis-hz.2"] == [one.id for one in found]


HOSTILE = [
    config_set("redis-hz", 6379, "dir", "/etc"),
    config_set("redis-hz", 6379, "hz", "100\r\nCONFIG SET dir /etc"),
    config_set("redis-hz", 6379, "hz", "-1"),
    config_set("redis-hz", 6379, "hz", "99999999999999999999999"),
    config_set("redis-save-rarely", 6379, "save", "3600 1 300"),
    config_set("redis-appendfsync-everysec", 6379, "appendfsync", "no"),
    fix("redis-hz", "redis-cli", "-h", "-x", "-p", "6379", "CONFIG", "SET", "hz", "100"),
    fix("redis-hz", "redis-cli", "-h", "a;reboot", "-p", "6379", "CONFIG", "SET", "hz", "100"),
    fix("redis-hz", "redis-cli", "-h", "a", "-p", "0", "CONFIG", "SET", "hz", "100"),
    fix("redis-hz", "redis-cli", "-h", "a", "-p", "\uff16\uff13", "CONFIG", "SET", "hz", "100"),
    fix("redis-hz", "redis-cli", "-s", "relative", "CONFIG", "SET", "hz", "100"),
    fix("redis-hz", "redis-cli", "-s", "/a\0b", "CONFIG", "SET", "hz", "100"),
    fix("redis-hz", "redis-cli", "CONFIG", "SET", "hz", "100"),
    fix("redis-hz", "redis-cli", "-h", "a", "-p", "1", "--eval", "x", "CONFIG", "SET", "hz", "100"),
    fix("redis-hz", "redis-cli", "-h", "a", "-p", "1", "FLUSHALL"),
    fix("redis-hz", "sh", "-c", "reboot"),
    fix("redis-hz", "sysctl", "-w", "vm.swappiness=1"),
    fix("swappiness-low", "sysctl", "-w", "kernel.core_pattern=|/tmp/x"),
    fix("swappiness-low", "sysctl", "-w", "vm.swappiness=1\n"),
    fix("swappiness-low", "sysctl", "-w", "vm/../kernel.panic=1"),
    fix("swappiness-low", "sysctl", "-w", "vm.swappiness=+1"),
    fix("dirty-background", "sysctl", "-w", "vm.dirty_background_bytes=1"),
    fix("redis-both-siblings", "taskset", "-acp", "0-1", "1"),
    fix("redis-both-siblings", "taskset", "-acp", "0-99999999", "4711"),
    fix("redis-both-siblings", "taskset", "-acp", "", "4711"),
    fix("cpu-renice-neighbour", "renice", "-n", "-20", "-p", "4711"),
    fix("cpu-renice-neighbour", "renice", "-n", "10", "-p", "4712"),
]


@pytest.mark.parametrize("proposed", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_fix_is_refused_with_a_sentence(proposed: Fix) -> None:
    """Whatever it names, and nothing of it becomes a parameter."""
    (found,) = proposals(verdict(cause(proposed, who=NEIGHBOUR)))
    assert (None, None) == (found.parameters, found.remedy)
    assert found.refused.startswith("refused: ")
    assert "\n" not in found.refused


@pytest.mark.parametrize("who", [None, Who(pid=4711), Who(starttime=99), Who(pid=1, starttime=99)])
def test_a_process_without_a_name_of_its_own_is_refused(who: Who | None) -> None:
    """Its number alone may be another one's by now; and init is nobody's neighbour."""
    pid = "1" if who and who.pid == 1 else "4711"
    (found,) = proposals(verdict(cause(fix("cpu-renice-neighbour", "renice", "-n", "10", "-p", pid), who=who)))
    assert found.refused


def test_what_is_no_fix_of_the_catalogue_is_words() -> None:
    """Also with a command: it is shown, made printable, and never run."""
    (found,) = proposals(verdict(cause(fix("fix-all\x1b[31m", "rm", "-rf", "/", "a b"))))
    assert (None, "rm -rf / 'a b'") == (found.parameters, found.change)
    assert "\x1b" not in found.id


@pytest.mark.parametrize("start", ["", "yesterday", "9999999-01-01T00:00:00Z"])
def test_a_verdict_of_no_time_is_refused(start: str) -> None:
    """Nobody could say whether its target is still the same."""
    import msgspec

    whole = verdict()
    whole = msgspec.structs.replace(whole, window=msgspec.structs.replace(whole.window, start=start))
    with pytest.raises(CulpaError, match="began at"):
        seen_unix(whole)


@given(st.frozensets(st.integers(0, 300), min_size=1))
def test_a_list_of_cpus_is_read_as_it_was_written(cpus: frozenset[int]) -> None:
    """In the kernel's form."""
    assert cpus == parse_cpus(format_cpus(cpus))


@given(st.text(alphabet="0123456789,-x ", max_size=12))
def test_no_text_makes_the_reader_of_cpus_fail(text: str) -> None:
    """It is a list, or none."""
    found = parse_cpus(text)
    assert found is None or parse_cpus(format_cpus(found)) == found


@given(st.text(max_size=30))
def test_no_value_that_a_fix_takes_can_hold_another_command(value: str) -> None:
    """Only words, digits, spaces, commas and signs go into a setting."""
    for one in REMEDIES:
        for values in one.settings.values():
            if values.holds(value):
                assert value.isascii()
                assert value.replace(" ", "").replace(",", "").replace("-", "").isalnum()


def test_the_kind_of_the_parameters_must_fit_the_fix() -> None:
    """A setting of the kernel is not one of Redis, whatever its name."""
    with pytest.raises(CulpaError, match="does not set"):
        check(known("redis-hz"), KernelSetting(setting="hz", value="100"))
