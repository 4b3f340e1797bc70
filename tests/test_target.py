"""TARGET means what the contract says, in its order, and never shows a credential."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from culpa.errors import CulpaError, UsageError
from culpa.target import (
    CaptureTarget,
    HostTarget,
    NameTarget,
    PidTarget,
    PortTarget,
    RedisTarget,
    UrlTarget,
    command_target,
    parse_target,
)


def test_nothing_is_the_whole_host() -> None:
    """No argument means the host."""
    assert HostTarget() == parse_target(None)


def test_number_is_a_pid_and_prefix_a_port() -> None:
    """`4711` and `:8080`."""
    assert PidTarget(pid=4711, display="4711") == parse_target("4711")
    assert PortTarget(port=8080, display=":8080") == parse_target(":8080")


@pytest.mark.parametrize("name", ["redis-server", "a b", "nginx: master", "[kworker]", "-x", "4711x", "٤٧"])
def test_anything_else_is_a_name(name: str) -> None:
    """A process may be called nearly anything."""
    assert NameTarget(name=name, display=name) == parse_target(name)


def test_name_with_control_characters_is_shown_safely() -> None:
    """The display never holds an escape sequence."""
    assert "evil\\x1b[31m" == parse_target("evil\x1b[31m").display


def test_url_parts() -> None:
    """Port by scheme, path kept, fragment dropped."""
    found = parse_target("HTTP://Example.com/a/b?x=1#frag")
    assert isinstance(found, UrlTarget)
    assert ("http://Example.com/a/b?x=1", "example.com", 80) == (found.url, found.host, found.port)
    https = parse_target("https://[::1]:8443")
    assert isinstance(https, UrlTarget)
    assert ("https://[::1]:8443/", "::1", 8443) == (https.url, https.host, https.port)


def test_credentials_of_a_url_are_split_off() -> None:
    """They are kept for the probe and never printed."""
    found = parse_target("http://joe:p%40ss@h:81/x?api_key=KKK&page=2")
    assert isinstance(found, UrlTarget)
    assert ("joe", "p@ss") == (found.user, found.password)
    assert "http://h:81/x?api_key=***&page=2" == found.display
    assert "http://h:81/x?api_key=KKK&page=2" == found.url
    assert not any(secret in repr(found) for secret in ("joe", "p@ss", "KKK"))


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/?#@[]%\\"), min_size=6, max_size=20)
)
def test_no_password_reaches_display_repr_or_message(password: str) -> None:
    """Whatever the password is, also where the URL is refused."""
    secret = f"Zq{password}qZ"
    for form in (
        "http://u:{}@h:80/x",
        "redis://:{}@h:6379/0",
        "unix://u:{}@/run/x.sock",
        "http://u:{}@h:99999/",
        "ftp://u:{}@h/",
    ):
        assert secret not in told_about(form.format(secret))


def told_about(text: str) -> str:
    """Everything that may be printed about a target: its repr and display, or the message that refuses it."""
    try:
        found = parse_target(text)
    except CulpaError as problem:
        return str(problem)
    return repr(found) + found.display


def test_redis_urls() -> None:
    """Host, port, database, user and TLS; a unix socket by path."""
    found = parse_target("rediss://alice:pw@cache:7000/3")
    assert isinstance(found, RedisTarget)
    assert ("cache", 7000, 3, True, "alice", "pw") == (
        found.host, found.port, found.database, found.tls, found.user, found.password,
    )  # fmt: skip
    assert "rediss://cache:7000/3" == found.display
    local = parse_target("unix:///run/my%20redis.sock?db=2")
    assert isinstance(local, RedisTarget)
    assert ("/run/my redis.sock", 2) == (local.path, local.database)


def test_capture_is_recognised_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without suffix, also where its name is a number."""
    with zipfile.ZipFile(tmp_path / "4711", "w") as archive:
        archive.writestr("manifest.json", "{}")
    monkeypatch.chdir(tmp_path)
    assert CaptureTarget(path=Path("4711"), display="4711") == parse_target("4711")


def test_broken_capture_is_still_meant_as_one(tmp_path: Path) -> None:
    """A truncated file goes to the reader of captures, which says what is wrong with it."""
    broken = tmp_path / "x.culpa"
    broken.write_bytes(b"")
    assert isinstance(parse_target(str(broken)), CaptureTarget)
    notes = tmp_path / "notes.txt"
    notes.write_text("no capture")
    assert isinstance(parse_target(str(notes)), CaptureTarget)


def test_program_path_is_a_name_and_a_fifo_is_never_opened(tmp_path: Path) -> None:
    """An executable means its process; a path to anything but a file is refused, since opening a FIFO would hang."""
    assert isinstance(parse_target("/bin/sh"), NameTarget)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match="not a capture"):
            parse_target(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "a\0b", "x" * 5000, "0", ":0", ":65536", ":x", ":", "unit:", "container:/", "cgroup:/a/../b",
        "ftp://h/", "http://", "http://h:0/", "http://h:65536/", "http://h:x/", "http://[::1/", "http://h/a b",
        "http://h/\x1b", "redis://h/x", "redis://:pw@", "unix://", "unix://host/path", "missing.culpa",
    ],
)  # fmt: skip
def test_senseless_targets_end_in_a_sentence_with_a_way_out(text: str) -> None:
    """Exit code 2, no control character, and what to do instead."""
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert 2 == caught.value.exit_code
    assert caught.value.way_out
    assert harmless(str(caught.value))


def harmless(text: str) -> bool:
    """Holds no control character and no half of a surrogate pair."""
    return not any(unicodedata.category(char) in {"Cc", "Cs"} for char in text)


@given(st.text(max_size=200))
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    """No other exception, and a display that is safe to print."""
    try:
        shown = parse_target(text).display
    except UsageError as problem:
        shown = str(problem)
    assert harmless(shown)


def test_command_shows_its_program_only() -> None:
    """The arguments may hold secrets."""
    found = command_target(["/usr/bin/curl", "-u", "joe:pw"])
    assert "curl" == found.display
    assert "joe" not in repr(found)
    with pytest.raises(UsageError):
        command_target([])
