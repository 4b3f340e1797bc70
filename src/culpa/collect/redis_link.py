"""How a Redis server is reached: one connection that sends nothing by itself, retries nothing and reads no flood.

Over TCP, TLS or a unix socket. Whoever answers is not trusted: a reply may be as long as `MAX_REPLY_BYTES`, what comes
after it ends the connection.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from culpa.collect.redis_answers import Address, Credentials, NotAnswered, Reply
from culpa.units import NS_PER_SECOND, printable

CONNECT_SECONDS: Final = 5.0
MAX_REPLY_BYTES: Final = 16 << 20
SO_TIMESTAMPNS: Final = 35
"""asm-generic/socket.h; the socket module does not name it."""
LONGEST_LATE_NS: Final = NS_PER_SECOND
"""A reply that lay longer unread than this was not: the wall clock was set."""
_TIMESPEC: Final = struct.Struct("@qq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What TLS needs: files in PEM form; without `ca` the host's certificates are trusted."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    verify: bool = True

    def check(self) -> None:
        """See whether the files are what they are said to be.

        Raises:
            NotAnswered: one cannot be read, or is something else.
        """
        for option, path in (("--ca", self.ca), ("--cert", self.certificate), ("--key", self.key)):
            if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
                raise NotAnswered(f"the file of {option} cannot be read", "check its path, and who may read it")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except (OSError, ValueError) as error:
            raise NotAnswered("the file of --ca holds no certificate", "name one in PEM form") from error
        if self.certificate is None:
            return
        try:
            context.load_cert_chain(self.certificate, self.key, password="")  # else OpenSSL asks for one by itself
        except (OSError, ValueError) as error:
            way_out = "name a certificate with --cert and its own key with --key, in PEM form and without a passphrase"
            raise NotAnswered("the client certificate and its key cannot be used", way_out) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A server's address and who to be towards it. `tls` None: in the clear."""

    address: Address
    credentials: Credentials = field(default_factory=Credentials, repr=False)
    database: int = 0
    """Whose keys are looked at."""
    tls: Tls | None = None

    def connect(self, *, silence_seconds: float) -> Talker:
        """Open a connection; a reply may take `silence_seconds`.

        Raises:
            NotAnswered: nobody is there, TLS fails, or the credentials are refused.
        """
        settings: dict[str, Any] = {
            "db": self.database,
            "username": self.credentials.username,
            "password": self.credentials.password,
            "socket_timeout": silence_seconds,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }
        if self.tls is not None:
            self.tls.check()
        try:
            connection = self._connection(settings)
            connection.connect()
        except redis.exceptions.AuthenticationError as error:
            raise _refused(self.credentials) from error
        except (redis.exceptions.RedisError, OSError, ValueError) as error:
            raise self._unreachable(error) from error
        return Talker(connection)

    def with_password(self, password: str | None) -> Link:
        """The same server, with a password."""
        return replace(self, credentials=replace(self.credentials, password=password))

    def wants_password(self) -> bool:
        """Whether it answers PING with nothing but the wish for one; where it cannot be reached that is told later."""
        try:
            talker = self.connect(silence_seconds=CONNECT_SECONDS)
        except NotAnswered as reason:
            return reason.wants_password
        try:
            (reply,) = talker.ask(("PING",))
        except NotAnswered as reason:
            return reason.wants_password
        finally:
            talker.close()
        return isinstance(reply, Exception) and str(reply).startswith("NOAUTH")

    def _connection(self, settings: dict[str, Any]) -> _Connection:
        if self.address.path is not None:
            return _UNIX(path=self.address.path, **settings)
        settings |= {"host": self.address.host, "port": self.address.port}
        if self.tls is None:
            return _TCP(**settings)
        return _TLS(
            ssl_ca_certs=_text(self.tls.ca),
            ssl_certfile=_text(self.tls.certificate),
            ssl_keyfile=_text(self.tls.key),
            ssl_cert_reqs="required" if self.tls.verify else "none",
            ssl_check_hostname=self.tls.verify,
            **settings,
        )

    def _unreachable(self, error: Exception) -> NotAnswered:
        said = str(error)
        if "refused" in said:
            return NotAnswered("nobody listens there", "check host and port, or start the server")
        if self.tls is not None and (reason := _tls_trouble(error)) is not None:
            return reason
        if isinstance(error, redis.exceptions.TimeoutError):
            return NotAnswered(f"it did not answer within {CONNECT_SECONDS:.0f} s", "check host, port and firewall")
        if "No such file" in said:
            return NotAnswered("there is no such socket", "check the path")
        if "Permission" in said:
            return NotAnswered("this user may not open that socket", "run culpa as root or as the server's user")
        return NotAnswered("it cannot be reached", "check host and port; rediss:// is for TLS")


_Connection = Any
"""One of the library's connections; it has no types."""


class Talker:
    """One open connection to a server; close it. Not for use by two threads at once, `cut` excepted."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._heard = False

    @property
    def local_port(self) -> int | None:
        """This end's port; None for unix sockets."""
        sock = self._connection._sock
        name = sock.getsockname() if sock is not None else None
        return int(name[1]) if isinstance(name, tuple) else None

    @property
    def local_ino(self) -> int | None:
        """The inode of this end of a unix socket; None for others."""
        sock = self._connection._sock
        return os.fstat(sock.fileno()).st_ino if sock is not None and sock.family == socket.AF_UNIX else None

    def sent_ns(self) -> int:
        """When the last commands were sent (CLOCK_MONOTONIC)."""
        sock = self._connection._sock
        return sock.sent_ns if isinstance(sock, _BoundedSocket) and sock.sent_ns else time.monotonic_ns()

    def arrived_ns(self) -> int:
        """When the last reply arrived (CLOCK_MONOTONIC): by the kernel's own time of it where that is known."""
        sock = self._connection._sock
        stamp = sock.arrived_realtime_ns if isinstance(sock, _BoundedSocket) else 0
        late_ns = time.time_ns() - stamp if stamp else 0
        now_ns = time.monotonic_ns()  # after the other clock: what lies between may make it later, never too early
        return now_ns - late_ns if 0 < late_ns < LONGEST_LATE_NS else now_ns

    def ask(self, *commands: tuple[str | bytes, ...]) -> list[Reply]:
        """Send all at once, then read one reply each; a refused command has its error as reply.

        Raises:
            NotAnswered: the server wants a password, went silent, or does not speak Redis' protocol.
        """
        self.send(*commands)
        return self.replies(len(commands))

    def send(self, *commands: tuple[str | bytes, ...]) -> None:
        """The first half of `ask`."""
        with self._trouble():
            self._connection.send_packed_command(self._connection.pack_commands(commands))

    def replies(self, count: int) -> list[Reply]:
        """The second half of `ask`, for so many commands."""
        with self._trouble():
            replies = [self._reply() for _ in range(count)]
        self._heard = True
        return replies

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except redis.exceptions.TimeoutError as error:
            raise NotAnswered("it stopped answering", "ask it again when it is less busy", busy=True) from error
        except _TooLong as error:
            raise NotAnswered("its reply is longer than any that culpa asks for", "check what serves there") from error
        except (redis.exceptions.RedisError, OSError, ValueError, RecursionError) as error:  # lists in lists in lists
            by_tls = isinstance(self._connection, SSLConnection) and not self._heard
            reason = _tls_trouble(error) if by_tls else None
            way_out = "check that it is a Redis server; rediss:// is for one that speaks TLS"
            raise reason or NotAnswered("it does not answer as a Redis does", way_out) from error

    def _reply(self) -> Reply:
        try:
            return cast("Reply", self._connection.read_response(disable_decoding=True, disconnect_on_error=False))
        except redis.exceptions.AuthenticationError as error:
            raise _refused(Credentials()) from error
        except (redis.exceptions.ResponseError, redis.exceptions.BusyLoadingError) as error:
            return error

    def expect_within(self, seconds: float) -> None:
        """From the next question on a silence of so many seconds is the end of it."""
        sock = self._connection._sock
        if sock is not None:
            sock.settimeout(seconds)

    def cut(self) -> None:
        """End whatever another thread is waiting for on it."""
        sock = self._connection._sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already

    def close(self) -> None:
        """Close it; safe to call twice."""
        self._connection.disconnect()


class _TooLong(ValueError):
    """More bytes than any reply has that culpa asks for."""


class _BoundedSocket:
    """A socket from which at most `MAX_REPLY_BYTES` are read between two sends.

    Of a plain one the kernel also tells when the last bytes arrived (`arrived_realtime_ns`; 0: it did not), however
    late this program got to read them.
    """

    def __init__(self, sock: socket.socket, *, stamps: bool) -> None:
        self._sock = sock
        self._read = 0
        self._stamps = stamps
        self.arrived_realtime_ns = 0
        self.sent_ns = 0
        if stamps:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def sendall(self, data: bytes) -> None:
        self._read = 0
        self.arrived_realtime_ns = 0
        self.sent_ns = time.monotonic_ns()
        # A socket with a timeout is asked first whether it takes data, and in between this thread may have to wait for
        # the interpreter: that would count as the server's time.
        done = self._write(data) if self._stamps else 0
        if done < len(data):
            self._sock.sendall(data[done:])

    def _write(self, data: bytes) -> int:
        """What the kernel takes at once."""
        try:
            return os.write(self._sock.fileno(), data)
        except BlockingIOError:
            return 0

    def recv(self, size: int) -> bytes:
        if not self._stamps:
            data = self._sock.recv(size)
        else:
            data, extra, _, _ = self._sock.recvmsg(size, 64)
            self._note(extra)
        self._count(len(data))
        return data

    def recv_into(self, buffer: memoryview, nbytes: int = 0) -> int:
        if not self._stamps:
            size = self._sock.recv_into(buffer, nbytes)
        else:
            size, extra, _, _ = self._sock.recvmsg_into([buffer[:nbytes] if nbytes else buffer], 64)
            self._note(extra)
        self._count(size)
        return size

    def _note(self, extra: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in extra:
            if (level, kind, len(data)) == (socket.SOL_SOCKET, SO_TIMESTAMPNS, _TIMESPEC.size):
                seconds, ns = _TIMESPEC.unpack(data)
                self.arrived_realtime_ns = seconds * NS_PER_SECOND + ns

    def _count(self, size: int) -> None:
        self._read += size
        if self._read > MAX_REPLY_BYTES:
            raise _TooLong

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


class _BoundedTcp(Connection):
    def _connect(self) -> _BoundedSocket:
        return _BoundedSocket(super()._connect(), stamps=True)  # type: ignore[no-untyped-call]  # redis has no types


class _BoundedTls(SSLConnection):
    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        """The handshake; a server that speaks no TLS may wait for the end of what it takes for a question."""
        sock.settimeout(CONNECT_SECONDS)
        wrapped: ssl.SSLSocket = super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]  # redis has no types
        wrapped.settimeout(self.socket_timeout)
        return wrapped

    def _connect(self) -> _BoundedSocket:
        return _BoundedSocket(super()._connect(), stamps=False)  # type: ignore[no-untyped-call]  # redis has no types


class _BoundedUnix(UnixDomainSocketConnection):
    def _connect(self) -> _BoundedSocket:
        return _BoundedSocket(super()._connect(), stamps=False)  # type: ignore[no-untyped-call]  # redis has no types


_TCP: Any = _BoundedTcp
_TLS: Any = _BoundedTls
_UNIX: Any = _BoundedUnix


_HUNG_UP = ConnectionResetError | BrokenPipeError


def _tls_trouble(error: BaseException) -> NotAnswered | None:
    """What an error means that came while TLS was spoken, files being in order; None: nothing that is about TLS."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError | _HUNG_UP | TimeoutError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        if "mismatch" in cause.verify_message:
            way_out = "use the name that is in it, or -k to accept any"
            return NotAnswered("TLS fails: its certificate is for another name", way_out)
        why = f"TLS fails: its certificate is not trusted ({printable(cause.verify_message, 80)})"
        return NotAnswered(why, "name its CA with --ca FILE")
    if isinstance(cause, TimeoutError):
        why = f"it did not answer within {CONNECT_SECONDS:.0f} s that it speaks TLS"
        return NotAnswered(why, "check host and port; redis:// is for a server without TLS")
    if isinstance(cause, ssl.SSLEOFError | _HUNG_UP) or (cause and "ALERT" in (cause.reason or "")):
        way_out = "name a client certificate of its CA with --cert FILE and --key FILE"
        return NotAnswered("TLS fails: it hangs up, as one does that wants another client certificate", way_out)
    if cause is not None:
        return NotAnswered("it speaks no TLS there", "check host and port; redis:// is for a server without TLS")
    return None


def _refused(credentials: Credentials) -> NotAnswered:
    why = "it wants a password" if credentials.password is None else "it refuses this user or password"
    way_out = "put it into REDISCLI_AUTH; the user belongs into the URL: redis://USER@HOST:PORT"
    return NotAnswered(why, way_out, wants_password=credentials.password is None)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
