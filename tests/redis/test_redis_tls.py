"""A real server that speaks TLS and asks its clients for a certificate: what works, and what is said where it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from servers import INSTALLED, answer, free_port, needs_installed, port_of, recorded, serving

from culpa.capture.bundle import Capture, open_capture
from culpa.collect.redis_answers import Address, NotAnswered
from culpa.collect.redis_link import Link, Tls
from culpa.diagnose.judge import judge
from culpa.errors import CulpaError

pytestmark = [pytest.mark.redis, needs_installed]

WORD = "s3cret-of-the-wire"


def _openssl(*words: str, directory: Path) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def _authority(directory: Path, name: str) -> None:
    """A CA of its own: NAME.crt and NAME.key."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
    _openssl("req", "-x509", *key, "-subj", f"/CN={name}", "-days", "2", "-out", f"{name}.crt", directory=directory)


def _signed(directory: Path, name: str, authority: str) -> None:
    """A certificate for loopback, by that CA."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
    signer = ("-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-days", "2")
    alternative = ("-addext", "subjectAltName=IP:127.0.0.1")
    _openssl("req", "-x509", *key, "-subj", f"/CN={name}", *signer, *alternative, "-out", f"{name}.crt",
             directory=directory)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A server, in the clear on one port and by TLS on another; the files to be trusted and to show."""

    files: Path
    data: Path
    plain: int
    port: int

    def tls(self, ca: str | None = "ours", client: str | None = "client") -> Tls:
        """What a client of it has."""
        return Tls(
            ca=self.files / (ca if "." in ca else f"{ca}.crt") if ca else None,
            certificate=self.files / f"{client}.crt" if client else None,
            key=self.files / f"{client}.key" if client else None,
        )

    def command(self, *words: str, url: str | None = None) -> list[str]:
        """culpa's command line for it."""
        tls = ("--ca", str(self.files / "ours.crt"), "--cert", str(self.files / "client.crt"),
               "--key", str(self.files / "client.key"))  # fmt: skip
        chosen = url or f"rediss://127.0.0.1:{self.port}"
        return [sys.executable, "-m", "culpa", "redis", chosen, *tls, "--for", "1s", "--no-trace", *words]


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Up until the last test of this file."""
    files, data = tmp_path_factory.mktemp("certificates"), tmp_path_factory.mktemp("tls")
    for authority in ("ours", "theirs"):
        _authority(files, authority)
    _signed(files, "server", "ours")
    _signed(files, "client", "ours")
    _signed(files, "stranger", "theirs")
    _openssl("ec", "-aes256", "-passout", "pass:locked", "-in", "client.key", "-out", "locked.key", directory=files)
    (files / "locked.crt").write_bytes((files / "client.crt").read_bytes())
    port = free_port()
    settings = ("--tls-port", str(port), "--tls-cert-file", str(files / "server.crt"), "--tls-key-file",
                str(files / "server.key"), "--tls-ca-cert-file", str(files / "ours.crt"), "--requirepass", WORD,
                "--save", "", "--loglevel", "verbose")  # fmt: skip
    with serving(data, *settings, program=INSTALLED) as client:
        yield Wire(files=files, data=data, plain=port_of(client), port=port)


def test_a_check_up_over_tls_is_sound(wire: Wire) -> None:
    """With CA, certificate and key; what the server says is read through it."""
    verdict = judge(recorded(wire.port, tls=wire.tls(), password=WORD))
    assert answer(verdict, "redis.expire.burst") == "clear"
    assert answer(verdict, "redis.monitor.off") == "fired"
    assert verdict.observed is not None
    assert verdict.observed.completed > 10


@pytest.mark.parametrize(
    ("ca", "client", "words"),
    [
        ("theirs", "client", r"certificate is not trusted.*--ca FILE"),
        (None, "client", r"certificate is not trusted.*--ca FILE"),
        ("ours", "stranger", r"another client certificate.*--cert FILE"),
        ("ours", None, r"another client certificate.*--cert FILE"),
        ("absent", "client", r"--ca cannot be read"),
        ("server.key", "client", r"--ca holds no certificate"),
        ("ours", "locked", r"without a passphrase"),
    ],
    ids=["another-ca", "no-ca", "another-certificate", "no-certificate", "no-file", "a-key-for-a-ca", "locked-key"],
)
@pytest.mark.parametrize("password", [WORD, None], ids=["password", "none"])
def test_a_certificate_that_does_not_do_is_told(
    wire: Wire, ca: str | None, client: str | None, words: str, password: str | None
) -> None:
    """Whose it is, and the option that names another; at once, whether or not the first thing said is a password."""
    began = time.monotonic()
    with pytest.raises(CulpaError, match=words):
        recorded(wire.port, tls=wire.tls(ca, client), password=password)
    assert time.monotonic() - began < 4


def test_a_name_that_is_not_in_the_certificate_is_told(wire: Wire) -> None:
    """It is for the address only."""
    with pytest.raises(NotAnswered, match="for another name"):
        Link(address=Address(host="localhost", port=wire.port), tls=wire.tls()).connect(silence_seconds=5)


def test_the_wrong_protocol_on_a_port_is_told(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text where TLS is spoken, and TLS where it is not: each names the other kind of URL, and soon."""
    monkeypatch.setattr("culpa.collect.redis_link.CONNECT_SECONDS", 1.0)
    for password in (WORD, None):
        with pytest.raises(CulpaError, match="rediss:// is for"):
            recorded(wire.port, password=password)
    with pytest.raises(CulpaError, match="redis:// is for a server without TLS"):
        recorded(wire.plain, tls=wire.tls())


def test_a_password_in_the_url_earns_a_word_and_shows_nowhere(wire: Wire, tmp_path: Path) -> None:
    """It works; other users can read it in the list of processes, and that is said."""
    saved = tmp_path / "x.culpa"
    url = f"rediss://default:{WORD}@127.0.0.1:{wire.port}"
    told = subprocess.run(wire.command("--json", "-v", "-o", str(saved), url=url), capture_output=True, check=True)
    assert b"can be read in the list of processes" in told.stderr
    assert b"REDISCLI_AUTH" in told.stderr
    kept = held_in(open_capture(saved))
    assert f"127.0.0.1:{wire.port}" in kept
    for where in (told.stdout.decode(), told.stderr.decode(), kept, (wire.data / "server.log").read_text()):
        assert WORD not in where


def test_a_password_is_asked_for_on_a_terminal_and_not_echoed(wire: Wire) -> None:
    """Where somebody sits there and the variable is not set; what was typed is used."""
    page, screen, status = _typed(wire.command(), WORD)
    assert status == 0
    assert f"password of rediss://127.0.0.1:{wire.port}" in screen
    assert "can be read" not in screen
    assert "redis.monitor.off" in page or "latency monitor" in page
    assert WORD not in screen + page


def test_a_wrong_password_on_the_terminal_is_one_sentence(wire: Wire) -> None:
    """And is not shown either."""
    page, screen, status = _typed(wire.command(), "not-this-one")
    assert (status, page) == (1, "")
    assert "refuses this user or password" in screen
    assert "Traceback" not in screen
    assert "not-this-one" not in screen


def held_in(capture: Capture) -> str:
    """Every text of a capture, and its manifest."""
    texts = [str(capture.manifest)]
    for frame in capture.tables.values():
        texts += [str(value) for column in frame.select(pl.selectors.string()) for value in column.unique().to_list()]
    return "\n".join(texts)


def _typed(command: list[str], word: str) -> tuple[str, str, int]:
    """What a command puts out, what it shows on its terminal, and its status; `word` is typed when it is asked for."""
    ours, theirs = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "REDISCLI_AUTH"}
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, env=environment
    ) as child:
        os.close(theirs)
        screen, answered = b"", False
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # nobody has the terminal any more
                break
            if not piece:
                break
            screen += piece
            if not answered and b"password of" in screen and screen.endswith(b": "):
                os.write(ours, f"{word}\n".encode())
                answered = True
        assert child.stdout is not None
        page = child.stdout.read().decode()
        status = child.wait(timeout=60)
    os.close(ours)
    return page, screen.decode(), status
