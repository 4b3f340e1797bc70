"""The command line of `culpa fix`: what makes no sense, what is no verdict, and two at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from fixing import as_json, cause, culpa, fix, verdict, written

from culpa.report.envelope import to_json


@pytest.mark.parametrize(
    "words",
    [
        ("--apply",), ("--apply", "--undo"), ("--log", "--undo"), ("--anyway",), ("a", "--keep"),
        ("--undo", "--anyway", "--keep"), ("--undo", "--from", "x"), ("--undo", "f1"), ("a", "b"),
        ("--server", "http://x", "--undo"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_told_with_the_way_out(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Exit code 2, and nothing is made on disk."""
    assert culpa(tmp_path / "culpa", "fix", *words, expected=2)[1]
    assert not (tmp_path / "culpa").exists()


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"PK\x03\x04torn", b'{"schema": "culpa.verdict/1"}', b'{"blame":' * 9999]
)
def test_what_is_no_verdict_is_told_in_a_sentence(tmp_path: Path, text: bytes) -> None:
    """Also a torn capture, and nesting without end."""
    file = tmp_path / "some"
    file.write_bytes(text)
    told = culpa(tmp_path / "culpa", "fix", "--from", str(file), expected=1)[1]
    assert told.startswith("culpa: ")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """None there, a directory, too large."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(17 << 20)
    for path in (tmp_path / "none", tmp_path, large):
        assert "cannot be read" in culpa(tmp_path / "culpa", "fix", "--from", str(path), expected=1)[1]


def test_a_verdict_of_another_host_is_refused(tmp_path: Path) -> None:
    """Its addresses and process ids mean others there."""
    one = verdict(cause(fix("swappiness-low", "sysctl", "-w", "vm.swappiness=1")))
    file = tmp_path / "v.json"
    file.write_text(
        to_json(msgspec.structs.replace(one, host=msgspec.structs.replace(one.host, kernel="2.6.32\x1b[2J")))
    )
    told = culpa(tmp_path / "culpa", "fix", "--from", str(file), expected=1)[1]
    assert "the verdict is of another host or an earlier boot (Linux 2.6.32\\x1b[2J on" in told


def test_a_remedy_in_the_code_is_printed_and_never_applied(tmp_path: Path) -> None:
    """And a hostile one is refused; both say why."""
    file = written(
        tmp_path / "v.json",
        cause(
            fix("app-keep-results-in-memory", change="do not send SADD while answering"),
            fix("swappiness-low", "sysctl", "-w", "kernel.core_pattern=|/tmp/x"),
        ),
    )
    state = tmp_path / "culpa"
    states = {one["id"]: one["state"] for one in as_json(state, "--from", file)["fixes"]}
    assert {"app-keep-results-in-memory": "by-hand", "swappiness-low": "refused"} == states
    page = culpa(state, "fix", "app-keep-results-in-memory", "--from", file)[0]
    assert "do not send SADD while answering" in page
    for id, words in (("app-keep-results-in-memory", "does not do this by itself"), ("swappiness-low", "does not set")):
        assert words in culpa(state, "fix", id, "--from", file, "--apply", expected=1)[1]
    assert "proposes no fix 'other'" in culpa(state, "fix", "other", "--from", file, expected=2)[1]
    assert not state.exists()


def test_the_directory_that_others_rule_is_told(tmp_path: Path) -> None:
    """A planted link: nothing is read through it, nothing is changed."""
    (tmp_path / "culpa").mkdir(mode=0o700)
    (tmp_path / "culpa" / "fixes").symlink_to(tmp_path)
    for words in (("--undo", "all"), ("--log",)):
        told = culpa(tmp_path / "culpa", "fix", *words, expected=1)[1]
        assert "make that directory this user's own, no link, and writable by nobody else" in told


def test_nothing_to_undo_is_said(tmp_path: Path) -> None:
    """With the place that was looked at, since each user has one."""
    state = tmp_path / "culpa"
    assert f"There is nothing to take back in {state}/fixes.\n" == culpa(state, "fix", "--undo", "all")[0]
    assert "No fix was applied yet.\n" == culpa(state, "fix", "--log")[0]
    assert {"records": [], "still_open": 0, "strange": [], "schema": "culpa.fix-undone/1"} == as_json(state, "--undo")


def test_help_ends_with_an_example() -> None:
    """As every subcommand's."""
    done = subprocess.run([sys.executable, "-m", "culpa", "fix", "--help"], capture_output=True, text=True, check=True)
    assert "culpa fix --undo all" in done.stdout
