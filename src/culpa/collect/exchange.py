"""One HTTP/1.1 request and its answer, on a connection of its own, with exact times and a closed set of outcomes.

The transport under `probe.py`: it knows sockets, TLS and HTTP, and nothing of repetition or windows. The body of an
answer is read to its end and only counted. Times are CLOCK_MONOTONIC, as the tracer's.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import SplitResult, quote, urlsplit

from culpa import __version__
from culpa.errors import UsageError
from culpa.units import printable

CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 120.0
"""How long a server may stay silent before the request counts as failed; no window is longer by itself."""
CHUNK_BYTES: Final = 1 << 16
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F))
"""What a request line may hold as it is; "%" among it, so that nothing is quoted twice."""
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

Outcome = Literal["open", "answered", "refused", "unreachable", "silent", "closed", "not-http", "tls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPlan:
    """What to ask. `url` carries no credentials; they come as an `Authorization` header, kept in memory only."""

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    verify_tls: bool = True
    max_requests: int | None = None
    repeat: bool = False

    @property
    def repeats(self) -> bool:
        """Whether more than one request will be sent: only for methods that change nothing, or when asked to."""
        return self.max_requests != 1 and (self.repeat or self.method in SAFE_METHODS)

    @property
    def shown(self) -> str:
        """The URL as it may be printed: without query, bounded, no control characters."""
        return shown_url(urlsplit(self.url))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request that was sent, or could not be. Times in ns of CLOCK_MONOTONIC."""

    start_ns: int
    end_ns: int | None = None
    local_port: int | None = None
    local_ino: int | None = None
    status: int | None = None
    length_bytes: int | None = None
    outcome: Outcome = "open"
    error: str | None = None
    location: str | None = None


class _Failed(Exception):
    """A request came to no answer; the outcome and a sentence about it."""

    def __init__(self, outcome: Outcome, sentence: str) -> None:
        super().__init__(sentence)
        self.outcome = outcome


def make_plan(
    url: str,
    *,
    method: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    body: str | None = None,
    verify_tls: bool = True,
    max_requests: int | None = None,
    repeat: bool = False,
) -> HttpPlan:
    """Check the parts of a request before anything is sent.

    Raises:
        UsageError: the URL, a header or the method cannot be sent as HTTP/1.1.
    """
    chosen = (method or ("POST" if body is not None else "GET")).upper()
    if not chosen.isascii() or not chosen.isalpha():
        raise UsageError(f"{printable(chosen, 20)} is not an HTTP method", way_out="write -X GET, HEAD, POST …")
    _check_url(url)
    for name, value in headers:
        _check_header(name, value)
    if body is not None and not any(name.lower() == "content-type" for name, _ in headers):
        headers = (*headers, ("Content-Type", "application/x-www-form-urlencoded"))
    return HttpPlan(
        url=url,
        method=chosen,
        headers=headers,
        body=None if body is None else body.encode(),
        verify_tls=verify_tls,
        max_requests=max_requests,
        repeat=repeat,
    )


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        sound = sound and url.isprintable() and " " not in url
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(f"{printable(url)} is not a URL to ask", way_out="write http://HOST:PORT/PATH")


def _check_header(name: str, value: str) -> None:
    sound = name.isascii() and name.isprintable() and not set(' ":;,()<>@[]{}?=/\\') & set(name) and name
    if not sound or any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise UsageError(f"{printable(name, 40)!r} is not a header that can be sent", way_out="write -H 'Name: value'")


class Exchange:
    """One request; `run` blocks until its last byte, `cut` ends it from another thread."""

    def __init__(self, plan: HttpPlan) -> None:
        self._plan = plan
        self._parts = urlsplit(plan.url)
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._was_cut = False
        self.now = Sent(start_ns=time.monotonic_ns())
        """The request as it stands; open until `run` returns."""

    def run(self) -> Sent:
        """Ask once. Never raises for what a server or a network can do; a request cut off stays `open`."""
        try:
            answer = self._ask()
            if not self._was_cut:  # an answer without a length seems whole where it was cut
                self.now = answer
        except _Failed as failure:
            self._fail(failure.outcome, str(failure))
        except ssl.SSLError as error:
            self._fail("tls", f"TLS failed ({error.reason or 'no agreement'})")
        except TimeoutError:
            self._fail("silent", f"no byte came for {SILENCE_SECONDS:.0f} s")
        except (http.client.RemoteDisconnected, http.client.IncompleteRead, ConnectionError):
            self._fail("closed", "the connection was closed before the answer was whole")
        except (http.client.HTTPException, ValueError):
            self._fail("not-http", "what it answers is not HTTP/1")
        except OSError as error:
            self._fail("unreachable", _reason(error))
        finally:
            self._release()
        return self.now

    def cut(self) -> None:
        """End the request now, wherever it is: connecting, sending or reading."""
        with self._lock:
            self._was_cut = True
            if self._handle is not None:
                with contextlib.suppress(OSError):  # it is closed already, which is what is wanted
                    self._handle.shutdown(socket.SHUT_RDWR)

    def _fail(self, outcome: Outcome, sentence: str) -> None:
        if not self._was_cut:
            self.now = replace(self.now, end_ns=time.monotonic_ns(), outcome=outcome, error=sentence)

    def _release(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def _ask(self) -> Sent:
        sock = self._connect()
        connection = http.client.HTTPConnection(self._parts.hostname or "", port_of(self._parts))
        connection.sock = sock
        try:
            _put_request(connection, self._parts, self._plan)
            self.now = replace(self.now, start_ns=time.monotonic_ns(), local_port=sock.getsockname()[1])
            connection.endheaders(self._plan.body)
            _expect_http(sock)
            return _read_answer(connection.getresponse(), self.now)
        finally:
            connection.close()

    def _connect(self) -> socket.socket:
        host = self._parts.hostname or ""
        try:
            found = socket.getaddrinfo(host, port_of(self._parts), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise _Failed("unreachable", f"the name {printable(host, 80)} has no address") from error
        sock = self._first_of([(family, address) for family, _, _, _, address in found[:8]])
        sock.settimeout(SILENCE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if self._parts.scheme == "http" else _tls(sock, host, verify=self._plan.verify_tls)

    def _first_of(self, addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]]) -> socket.socket:
        last: OSError | None = None
        deadline = time.monotonic() + CONNECT_SECONDS
        for family, address in addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            self._keep_handle(sock)
            sock.settimeout(max(0.05, deadline - time.monotonic()))
            try:
                sock.connect(address)
            except OSError as error:
                sock.close()
                last = error
                continue
            return sock
        if isinstance(last, ConnectionRefusedError):
            raise _Failed("refused", "the connection was refused, nothing listens there")
        if isinstance(last, TimeoutError):
            raise _Failed("unreachable", f"no connection within {CONNECT_SECONDS:.0f} s")
        raise _Failed("unreachable", _reason(last))

    def _keep_handle(self, sock: socket.socket) -> None:
        """A second descriptor of the connection for `cut`, since this thread may be inside TLS with the first."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
            self._handle = sock.dup()
            if self._was_cut:
                raise _Failed("closed", "cut off")


def _put_request(connection: http.client.HTTPConnection, parts: SplitResult, plan: HttpPlan) -> None:
    """Queue request line and headers; nothing is sent before `endheaders`."""
    given = {name.lower() for name, _ in plan.headers}
    target = _quoted((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    connection.putrequest(plan.method, target, skip_host=True, skip_accept_encoding="accept-encoding" in given)
    defaults = {"Host": _host_header(parts), "User-Agent": f"culpa/{__version__}", "Accept": "*/*"}
    if plan.body is not None:
        defaults["Content-Length"] = str(len(plan.body))
    for name, value in [(n, v) for n, v in defaults.items() if n.lower() not in given] + list(plan.headers):
        connection.putheader(name, value.encode("utf-8"))


def _host_header(parts: SplitResult) -> str:
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    return shown if parts.port is None else f"{shown}:{parts.port}"


def _expect_http(sock: socket.socket) -> None:
    """Fail at the first byte that is not HTTP's: a binary protocol sends no line end that a reader could wait for."""
    if isinstance(sock, ssl.SSLSocket):
        return
    first = sock.recv(5, socket.MSG_PEEK)
    if first and not b"HTTP/".startswith(first):
        raise _Failed("not-http", "what it answers is not HTTP/1")


def _read_answer(response: http.client.HTTPResponse, request: Sent) -> Sent:
    """Read to the last byte and keep only the length: the body may be large and is nobody's business."""
    length = 0
    while chunk := response.read(CHUNK_BYTES):
        length += len(chunk)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return replace(
        request,
        end_ns=time.monotonic_ns(),
        status=response.status,
        length_bytes=length,
        outcome="answered",
        location=_location(response) if response.status in REDIRECTS else None,
    )


def _location(response: http.client.HTTPResponse) -> str | None:
    """Where a redirect leads; servers write there what they were asked, blanks and bytes of any encoding among it."""
    said = response.getheader("Location")
    return None if said is None else _quoted(said.encode("latin-1"))  # http.client's own reading of the bytes


def _quoted(target: str | bytes) -> str:
    """A path or URL as a request line can hold it, as browsers send it."""
    return quote(target, safe=_PLAIN)


def _tls(sock: socket.socket, host: str, *, verify: bool) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(sock, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise _Failed("tls", f"its certificate is not trusted ({error.verify_message}); -k accepts it") from error
    except OSError:
        sock.close()
        raise


def port_of(parts: SplitResult) -> int:
    """The port of a URL, the scheme's own where it names none."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def shown_url(parts: SplitResult) -> str:
    """A URL without credentials, query and fragment; no control characters, bounded."""
    host = parts.hostname or ""
    port = "" if parts.port is None else f":{parts.port}"
    return printable(f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}")


def _reason(error: OSError | None) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower() if error else "it has no address"
