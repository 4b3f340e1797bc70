"""No password that stands in a command line is stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from culpa.collect.commandline import MAX_CMDLINE_CHARS, parse_cmdline

FORMS = (
    "redis-cli\0-a\0{}\0-p\x006379",
    "redis-cli\0--pass\0{}",
    "redis-server\0--requirepass\0{}",
    "redis-server\0--masterauth={}",
    "redis-cli\0AUTH\0{}",
    "redis-cli\0CONFIG\0SET\0requirepass\0{}",
    "mysql\0-uroot\0-p{}",
    "mysql\0--password={}",
    "curl\0-u\0joe:{}",
    "curl\0http://joe:{}@h/",
    "curl\0-H\0Authorization: Bearer {}",
    "app\0redis://:{}@h:1/0",
    "env\0PGPASSWORD={}\0psql",
    "java\0-Ddb.password={}",
    "sh\0-c\0exec redis-cli -a {} ping",
    "sh\0-c\0curl http://h/?token={}&x=1",
    "psql\0host=h password={} user=u",
)


@pytest.mark.parametrize("form", FORMS)
@given(word=st.text(st.characters(min_codepoint=48, max_codepoint=122, categories=["L", "N"]), min_size=4, max_size=20))
def test_secrets_are_masked(form: str, word: str) -> None:
    """In every usual form."""
    secret = f"Qx{word}xQ"
    shown = parse_cmdline(form.format(secret).encode())
    assert secret not in shown
    assert "***" in shown


def test_a_secret_with_blanks_is_masked_whole() -> None:
    """The whole argument after the option goes."""
    assert "redis-cli --pass ***" == parse_cmdline(b"redis-cli\0--pass\0two words\0")


@pytest.mark.parametrize(
    "line",
    [
        "redis-server *:6379",
        "python -m flask run --port 5000",
        "nginx: master process",
        "redis-cli -p 6379 -h h",
        "ls -l /tmp",
    ],
)
def test_the_rest_stays_readable(line: str) -> None:
    """Ports and names are what tells processes apart."""
    assert line == parse_cmdline("\0".join(line.split(" ")).encode() + b"\0")


def test_bounded_and_printable() -> None:
    """Escapes and endless arguments."""
    shown = parse_cmdline(b"x\x1b[31m\0" + b"y" * 5000)
    assert shown.startswith("x\\x1b[31m")
    assert len(shown) <= MAX_CMDLINE_CHARS + 10
    assert "" == parse_cmdline(b"")
