"""The repeated request, against real servers that behave well and badly."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from culpa.collect.command import CommandProbe, user_for
from culpa.collect.exchange import Exchange, Sent, make_plan
from culpa.collect.probe import HttpProbe
from culpa.errors import CulpaError, UsageError

DEADLINE_SECONDS = 10.0
RESOLVER_SECONDS = 90.0
"""Where no name server answers, the resolver itself asks each several times, 5 s each."""


def wait_until(true: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for a condition, and fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Counting(http.server.BaseHTTPRequestHandler):
    """Counts what arrives, with the client's port, and answers by path."""

    protocol_version = "HTTP/1.1"
    port: int
    arrived: list[tuple[str, str, int]]
    bodies: list[tuple[dict[str, str], bytes]]

    def do_GET(self) -> None:
        type(self).arrived.append((self.command, self.path, self.client_address[1]))
        length = int(self.headers.get("Content-Length", 0))
        type(self).bodies.append((dict(self.headers), self.rfile.read(length)))
        if self.path == "/slow":
            time.sleep(0.3)
        status = {"/error": 500, "/moved": 302, "/away": 302, "/round": 302, "/other-port": 302, "/nowhere": 302}.get(
            self.path, 200
        )
        self.send_response(status)
        places = {
            "/moved": "/here",
            "/away": "http://elsewhere.invalid/x?token=secret",
            "/round": "/round",
            "/other-port": "http://127.0.0.1:1/",
            "/nowhere": "http://[::1",
        }
        if self.path in places:
            self.send_header("Location", places[self.path])
        self.send_header("Content-Length", "5")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"hello")

    do_HEAD = do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[type[Counting]]:
    """A real HTTP server; its `port` and what arrived are on the handler class."""
    handler = type("Handler", (Counting,), {"arrived": [], "bodies": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        handler.port = listening.server_address[1]
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler
        listening.shutdown()
        thread.join()


@contextlib.contextmanager
def raw_server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A listener that treats each connection with `behave`; gives its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()

    def serve() -> None:
        listening.settimeout(0.05)
        while not ending.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                connection, _ = listening.accept()
                with connection:
                    behave(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        ending.set()
        thread.join()
        listening.close()


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port at which nobody listens, and which nobody else is given meanwhile, the asking end least of all."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def run_probe(url: str, patience_seconds: float = DEADLINE_SECONDS, **how: object) -> HttpProbe:
    """Send at most two requests, or what `how` says, to the end."""
    probe = HttpProbe(make_plan(url, **({"max_requests": 2} | how)))  # type: ignore[arg-type]
    probe.start()
    assert probe.finished.wait(patience_seconds)
    probe.stop()
    return probe


def test_rows_say_when_and_from_which_port(server: type[Counting]) -> None:
    """The server saw the ports and the number of requests that the rows name, and the times enclose its 300 ms."""
    before = time.monotonic_ns()
    rows = run_probe(f"http://127.0.0.1:{server.port}/slow", max_requests=3).rows()
    after = time.monotonic_ns()
    assert [("GET", "/slow", port) for port in rows["local_port"]] == server.arrived
    assert len(set(rows["local_port"])) == 3
    assert rows["status"].to_list() == [200] * 3
    assert rows["bytes"].to_list() == [5] * 3
    assert all(length >= 300_000_000 for length in rows["end_ns"] - rows["start_ns"])
    assert before < rows["start_ns"][0]
    assert rows["end_ns"][-1] < after
    assert rows["start_ns"][1] >= rows["end_ns"][0]


def test_never_more_than_twenty_a_second(server: type[Counting]) -> None:
    """Eleven answers of a fast server take at least half a second."""
    starts = run_probe(f"http://127.0.0.1:{server.port}/", max_requests=11).rows()["start_ns"]
    assert starts[-1] - starts[0] >= 0.499e9


def test_other_methods_are_sent_once(server: type[Counting]) -> None:
    """A POST changes something: it is repeated only when asked to."""
    url = f"http://127.0.0.1:{server.port}/"
    run_probe(url, body="a=1", max_requests=None)
    assert [method for method, _, _ in server.arrived] == ["POST"]
    headers, body = server.bodies[0]
    assert body == b"a=1"
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    run_probe(url, method="delete", repeat=True, max_requests=3)
    assert [method for method, _, _ in server.arrived][1:] == ["DELETE"] * 3


def test_headers_replace_the_defaults(server: type[Counting]) -> None:
    """A Host or User-Agent of the user's own is sent once, not twice."""
    run_probe(f"http://127.0.0.1:{server.port}/?q=1", headers=(("Host", "shop"), ("user-agent", "me"), ("X-A", "b: c")))
    headers, _ = server.bodies[0]
    assert headers["Host"] == "shop"
    assert headers["user-agent"] == "me"
    assert headers["X-A"] == "b: c"
    assert server.arrived[0][1] == "/?q=1"


def test_head_has_no_body(server: type[Counting]) -> None:
    """HEAD ends with the headers, although they name a length."""
    rows = run_probe(f"http://127.0.0.1:{server.port}/", method="HEAD").rows()
    assert rows["bytes"].to_list() == [0, 0]
    assert rows["error"].to_list() == [None, None]


def test_an_error_status_is_a_fact_and_a_blind_spot(server: type[Counting]) -> None:
    """500 does not end the command, but what was measured is the error's path."""
    probe = run_probe(f"http://127.0.0.1:{server.port}/error")
    assert probe.failure is None
    assert probe.rows()["status"].to_list() == [500, 500]
    assert "status 500" in probe.blind_spots()[0].why


def test_redirect_to_the_same_server_is_followed(server: type[Counting]) -> None:
    """The new address is asked from then on, and that is said."""
    said: list[str] = []
    plan = make_plan(f"http://127.0.0.1:{server.port}/moved", max_requests=3)
    probe = HttpProbe(plan, say=said.append)
    probe.start()
    assert probe.finished.wait(DEADLINE_SECONDS)
    assert [path for _, path, _ in server.arrived] == ["/moved", "/here", "/here"]
    assert "/here" in said[0]


@pytest.mark.parametrize("path", ["/away", "/other-port", "/nowhere"])
def test_redirect_to_another_server_is_not_followed(server: type[Counting], path: str) -> None:
    """Nobody else is asked; the query of the other address, which may be secret, is not shown."""
    probe = run_probe(f"http://127.0.0.1:{server.port}{path}")
    assert [path, path] == [seen for _, seen, _ in server.arrived]
    (spot,) = probe.blind_spots()
    assert "redirects to" in spot.why
    assert "secret" not in spot.why + spot.way_out


def test_redirects_in_a_circle_end(server: type[Counting]) -> None:
    """Five hops, then the redirect itself is what is measured."""
    probe = run_probe(f"http://127.0.0.1:{server.port}/round", max_requests=9)
    assert len(server.arrived) == 9
    assert "redirects to" in probe.blind_spots()[0].why


def test_refused_is_a_sentence() -> None:
    """Nothing listens: the command ends with the reason and the way out."""
    with silent_port() as port:
        failure = run_probe(f"http://127.0.0.1:{port}/").failure
    assert isinstance(failure, CulpaError)
    assert f"cannot ask http://127.0.0.1:{port}/: the connection was refused" in str(failure)


def test_unknown_name_is_a_sentence() -> None:
    """A name without an address, by RFC 6761 never one."""
    failure = run_probe("http://nowhere.invalid/", RESOLVER_SECONDS).failure
    assert "has no address" in str(failure)


@pytest.mark.parametrize("greeting", [b"-ERR wrong\r\n", b"SSH-2.0-x\r\n", b"\x4a\x00\x00\x00\x0a8.0.1"])
def test_another_protocol_is_told_at_once(greeting: bytes) -> None:
    """Also one that sends no line end."""
    with raw_server(lambda connection: (connection.recv(100), connection.sendall(greeting))[0] and None) as port:  # type: ignore[func-returns-value]
        started = time.monotonic()
        failure = run_probe(f"http://127.0.0.1:{port}/").failure
    assert "is not HTTP" in str(failure)
    assert time.monotonic() - started < 2


def test_closed_without_an_answer_is_a_fact() -> None:
    """A worker that dies is a fact; after three of them the probe gives up and says so."""
    with raw_server(lambda connection: connection.recv(100) and None) as port:
        probe = run_probe(f"http://127.0.0.1:{port}/", max_requests=9)
    assert probe.failure is None
    rows = probe.rows()
    assert rows.height == 3
    assert "closed" in rows["error"][0]
    assert rows["status"].null_count() == 3
    assert "3 requests in a row failed" in probe.blind_spots()[0].why


def test_truncated_answer_is_an_error() -> None:
    """Fewer bytes than the header promised is no answer."""

    def cut_short(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")

    with raw_server(cut_short) as port:
        rows = run_probe(f"http://127.0.0.1:{port}/", max_requests=1).rows()
    assert "before the answer was whole" in rows["error"][0]


def test_a_hanging_server_never_hangs_the_probe() -> None:
    """Stop cuts the request off at once; its row stays open, with its port."""
    holding = threading.Event()
    with raw_server(lambda connection: holding.wait(DEADLINE_SECONDS) and None) as port:
        probe = HttpProbe(make_plan(f"http://127.0.0.1:{port}/"))
        probe.start()
        wait_until(lambda: (flight := probe.in_flight()) is not None and flight.local_port is not None)
        started = time.monotonic()
        probe.stop()
        assert time.monotonic() - started < 1
        holding.set()
    (row,) = probe.rows().to_dicts()
    assert (row["end_ns"], row["status"], row["error"]) == (None, None, None)
    assert row["local_port"] is not None
    assert probe.finished.is_set()


def test_a_full_accept_queue_never_hangs_the_probe() -> None:
    """Connecting itself may hang: stop ends that, too."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        probe = HttpProbe(make_plan(f"http://127.0.0.1:{listening.getsockname()[1]}/"))
        probe.start()
        time.sleep(0.2)
        started = time.monotonic()
        probe.stop()
        assert time.monotonic() - started < 1
        assert probe.rows()["end_ns"].to_list() == [None]


def test_an_endless_answer_is_cut_off() -> None:
    """Bytes that never end are counted nowhere and kept nowhere."""

    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"x" * 4096)
                sent += 4096
                time.sleep(0.001)

    with raw_server(flood) as port:
        probe = HttpProbe(make_plan(f"http://127.0.0.1:{port}/"))
        probe.start()
        wait_until(lambda: sent >= 100 * 4096)
        probe.stop()
    assert probe.rows()["end_ns"].to_list() == [None]


def test_proceed_is_asked_between_requests(server: type[Counting]) -> None:
    """When the window needs no more, no further request starts."""
    seen: list[Sent] = []
    probe = HttpProbe(
        make_plan(f"http://127.0.0.1:{server.port}/"), proceed=lambda sent: seen.append(sent) or len(seen) < 2
    )
    probe.start()
    assert probe.finished.wait(DEADLINE_SECONDS)
    assert 2 == len(server.arrived) == len(seen)


def test_tls(tmp_path: Path, server: type[Counting]) -> None:
    """A certificate nobody knows is refused with the way out, and accepted with -k."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1000)
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    with raw_server(answer) as port:
        assert "-k accepts it" in str(run_probe(f"https://localhost:{port}/").failure)
        rows = run_probe(f"https://localhost:{port}/", verify_tls=False).rows()
    assert rows["status"].to_list() == [200, 200]
    assert "TLS failed" in str(run_probe(f"https://127.0.0.1:{server.port}/", verify_tls=False).failure)


@pytest.mark.parametrize(
    "wrong",
    [{"headers": (("A\nB", "c"),)}, {"headers": (("A", "c\r\nX: y"),)}, {"headers": (("", "c"),)}, {"method": "GE T"}],
)
def test_what_cannot_be_sent_is_refused(wrong: dict[str, object]) -> None:
    """A header or method that would break the request is a wrong usage, found before anything is sent."""
    with pytest.raises(UsageError):
        make_plan("http://127.0.0.1/", **wrong)  # type: ignore[arg-type]


def test_cutting_before_the_start_is_enough() -> None:
    """An exchange that was cut before it ran sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        exchange = Exchange(make_plan(f"http://127.0.0.1:{listening.getsockname()[1]}/"))
        exchange.cut()
        assert exchange.run().outcome == "open"
        listening.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            connection, _ = listening.accept()
            assert connection.recv(100) == b""


def run_command(*argv: str, **how: object) -> CommandProbe:
    """A command from exec to exit."""
    probe = CommandProbe(argv, **how)  # type: ignore[arg-type]
    probe.prepare()
    probe.release()
    assert probe.finished.wait(DEADLINE_SECONDS)
    assert probe.stop() is None
    return probe


def test_a_command_is_one_request(tmp_path: Path) -> None:
    """Its exit status and duration; before `release` nothing of it has run."""
    proof = tmp_path / "proof"
    probe = CommandProbe(("sh", "-c", f"echo $$ > {proof}; sleep 0.2; exit 3"))
    pid = probe.prepare()
    assert not proof.exists()
    probe.release()
    assert probe.finished.wait(DEADLINE_SECONDS)
    assert str(pid) == proof.read_text().strip()
    (row,) = probe.rows().to_dicts()
    assert row["status"] == 3
    assert 0.2e9 <= row["end_ns"] - row["start_ns"] < 2e9


def test_a_command_inherits_nothing_of_culpa(tmp_path: Path) -> None:
    """No descriptor of the launcher stays open in it, and no signal is blocked or ignored."""
    run_command(
        "sh", "-c", f"ls /proc/$$/fd > {tmp_path}/fds; grep -E 'SigBlk|SigIgn' /proc/self/status > {tmp_path}/signals"
    )
    assert set((tmp_path / "fds").read_text().split()) <= {"0", "1", "2", "10"}  # dash keeps its own output at 10
    # What the session that runs the tests ignores is not culpa's doing.
    plain = subprocess.run(
        ["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"], capture_output=True, text=True, check=True
    )
    assert plain.stdout.split() == (tmp_path / "signals").read_text().split()


def test_a_signal_is_a_status() -> None:
    """As in a shell: 128 + the signal's number."""
    assert run_command("sh", "-c", "kill $$").rows()["status"][0] == 128 + 15


def test_no_such_command_is_a_sentence() -> None:
    """The launcher reports why it could not execute."""
    probe = CommandProbe(("/no/such/command",))
    probe.prepare()
    with pytest.raises(CulpaError, match="cannot run /no/such/command: no such file"):
        probe.release()
    assert probe.stop() is None


def test_a_command_never_released_is_gone() -> None:
    """If culpa gives up before the start, nothing stays behind and nothing ran."""
    probe = CommandProbe(("sleep", "100"))
    pid = probe.prepare()
    probe.stop()
    assert not Path(f"/proc/{pid}").exists()


def test_a_running_command_is_left_alone() -> None:
    """`stop` names it and does not kill it; an interrupt is passed on."""
    probe = CommandProbe(("sleep", "100"))
    pid = probe.prepare()
    probe.release()
    assert pid == probe.stop()
    assert Path(f"/proc/{pid}").exists()
    probe.interrupt()
    assert probe.rows()["status"][0] == 130


@pytest.mark.root
def test_a_command_runs_as_another_user() -> None:
    """With that user's id, from a launcher that the user may not even read."""
    status = run_command("sh", "-c", 'test "$(id -un)" = nobody && test "$LOGNAME" = nobody', user=user_for("nobody"))
    assert status.rows()["status"][0] == 0


def test_the_user_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under sudo the one who called it; unknown names are refused."""
    monkeypatch.setenv("SUDO_USER", "nobody")
    assert ("nobody" if os.geteuid() == 0 else None) == user_for(None)
    monkeypatch.delenv("SUDO_USER")
    assert user_for(None) is None
    with pytest.raises(UsageError, match="there is no user"):
        user_for("no-such-user")
