"""Addresses that a request line cannot hold as they are, given by the user or by a server's redirect."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from culpa.collect.exchange import make_plan
from culpa.collect.probe import HttpProbe

DEADLINE_SECONDS = 10.0
PLACE = "/über uns?a=ö".encode().decode("latin-1")
"""As a program writes it that quotes nothing: the bytes of UTF-8, one character each."""


def asked(path: str, requests: int) -> list[str]:
    """The paths that a server hears, which sends whoever asks for /moved to `PLACE`."""
    heard: list[str] = []

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_response(302 if self.path == "/moved" else 200)
            if self.path == "/moved":
                self.send_header("Location", PLACE)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        probe = HttpProbe(make_plan(f"http://127.0.0.1:{server.server_address[1]}{path}", max_requests=requests))
        probe.start()
        assert probe.finished.wait(DEADLINE_SECONDS)
        probe.stop()
        server.shutdown()
        thread.join()
    assert probe.failure is None
    return heard


def test_letters_of_any_alphabet_are_quoted() -> None:
    """As a browser sends them; what is quoted already stays as it is."""
    assert ["/stra%C3%9Fe?q=%20%C3%BC"] == asked("/straße?q=%20ü", 1)


def test_a_redirect_that_quotes_nothing_is_followed() -> None:
    """Blanks and bytes of UTF-8 in its Location."""
    assert ["/moved", "/%C3%BCber%20uns?a=%C3%B6"] == asked("/moved", 2)
