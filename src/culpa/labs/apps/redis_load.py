"""A Redis client that does one thing again and again: `redis_load.py PORT EVERY-MS KIND [ARGUMENT...]`.

Beside it, a second connection sets and reads small values as ordinary clients do. It says `ready` once it goes round.
It must not import culpa: labs copy it out of the package and run it as anybody's program.
"""

from __future__ import annotations

import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

LOOPBACK = "127.0.0.1"
PORTION = 500
"""Elements sent at once: what fills data must not be long itself."""
BATCH = 500
"""Commands of a pipeline or transaction: together less than the 16 KB that a server reads in one go."""
PAUSE_S = 0.0005
ORDINARY_EVERY_S = 0.005
END = b"\r\n"
OUT_OF_MEMORY = b"-OOM"
"""What a full cache says while it still frees what it has evicted; the next round fares better."""
STAMP = b"0000000000000"
"""Stands for a number, or a Unix time in ms, in a prepared portion; as long as one is until the year 2286."""
RESYNC_S = 0.1
ROUNDS_BEFORE_READY = {"expire": 2, "fresh": 1, "fill": 2}
"""Where the trouble comes a while after the command that makes it, or has to go, as what another load has left."""


class Link:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, blob: bytes, answers: int) -> bytes:
        """Send whole commands and read so many one-line answers; the first 64 kB of them."""
        self.socket.sendall(blob)
        return self.lines(answers)

    def ask(self, *words: str) -> bytes:
        """One command and its whole answer: one line, a string, or an array of strings without line ends in them."""
        head = self._head(words, 1)
        kind, count = head[:1], head[1 : head.index(END)]
        more = 2 * int(count) if kind == b"*" else int(kind == b"$" and count != b"-1")
        return self.lines(1 + more, head)

    def step(self, *words: str) -> str:
        """One command of SCAN's kin: the next cursor."""
        head = self._head(words, 4)
        lines = head.split(END)
        self.lines(4 + 2 * int(lines[3][1:]), head)
        return lines[2].decode()

    def _head(self, words: tuple[str, ...], lines: int) -> bytes:
        self.socket.sendall(command(*words))
        head = b""
        while head.count(END) < lines:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise ConnectionError("the server hung up")
            head += chunk
        return head

    def lines(self, wanted: int, got: bytes = b"") -> bytes:
        """Read until so many lines are there."""
        seen, kept, last = got.count(END), got, got[-1:]
        while seen < wanted:
            chunk = self.socket.recv(1 << 18)
            if not chunk:
                raise ConnectionError("the server hung up")
            seen += (last + chunk).count(END)
            last = chunk[-1:]
            kept += chunk if len(kept) < 65536 else b""
        if kept.startswith(b"-") and not kept.startswith(OUT_OF_MEMORY):
            raise RuntimeError(kept[:200].decode(errors="replace"))
        return kept


def command(*words: str) -> bytes:
    """A command as it goes over the wire."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in map(str.encode, words))


Round = Callable[[Link], None]


def ask(*words: str) -> Round:
    """The same command each time."""
    return lambda link: void(link.ask(*words))


def scan(verb: str, *words: str) -> Round:
    """All of a collection, or of the keys, in steps: SCAN, or SSCAN and its kin with the key."""

    def go(link: Link) -> None:
        cursor, started = "0", False
        while cursor != "0" or not started:
            before, after = ((), words) if verb == "SCAN" else (words[:1], words[1:])
            cursor, started = link.step(verb, *before, cursor, *after), True
            time.sleep(PAUSE_S)

    return go


def rebuild(delete: str, key: str, elements: str) -> Round:
    """A set built in small portions, then deleted."""
    built = list(set_portions(key, int(elements)))

    def go(link: Link) -> None:
        for portion in built:
            link.send(portion, 1)
            time.sleep(PAUSE_S)
        link.ask(delete, key)

    return go


def grow(prefix: str, elements: str) -> Round:
    """One more set each time, which nobody deletes."""
    portions, numbers = list(set_portions(f"{prefix}:{STAMP.decode()}", int(elements))), itertools.count()

    def go(link: Link) -> None:
        number = b"%013d" % next(numbers)
        for portion in portions:
            link.send(portion.replace(STAMP, number, 1), 1)
            time.sleep(PAUSE_S)

    return go


def fill(prefix: str, keys: str, size: str, *last: str) -> Round:
    """Small strings in portions, the same ones each time; at the end a command, such as FLUSHALL."""
    portions = list(string_portions(prefix, int(keys), ("x" * int(size),)))

    def go(link: Link) -> None:
        for portion, answers in portions:
            link.send(portion, answers)
            time.sleep(PAUSE_S)
        if last:
            link.ask(*last)

    return go


def fresh(prefix: str, keys: str, size: str) -> Round:
    """New small strings each time."""
    made = list(string_portions(f"{prefix}:{STAMP.decode()}", int(keys), ("x" * int(size),)))
    numbers = itertools.count()

    def go(link: Link) -> None:
        number = b"%013d" % next(numbers)
        for portion, answers in made:
            link.send(portion.replace(STAMP, number), answers)
            time.sleep(PAUSE_S)

    return go


def expire(prefix: str, keys: str, spread_s: str) -> Round:
    """Small strings, all to expire when the next but one second begins; or spread over so many seconds."""
    value, spread = ("x", "PXAT", STAMP.decode()), int(spread_s)
    # So many names that all keys of one are gone before it is used again.
    made = [list(string_portions(f"{prefix}:{number}", int(keys), value)) for number in range(spread + 3)]
    turns = itertools.cycle(made)

    def go(link: Link) -> None:
        portions, until = next(turns), int(time.time()) + 2
        for number, (portion, answers) in enumerate(portions):
            moment_ms = 1000 * until + (1000 * number * spread) // len(portions)
            link.send(portion.replace(STAMP, b"%d" % moment_ms), answers)
            time.sleep(PAUSE_S)

    return go


def pipeline(at_once: str, *words: str) -> Round:
    """`BATCH` times the same command, so many of them in one go."""
    return _portions(int(at_once), lambda count: (command(*words) * count, count))


def transaction(at_once: str, *words: str) -> Round:
    """The same in transactions, each sent as a whole."""
    begin, end = command("MULTI"), command("EXEC")
    return _portions(int(at_once), lambda count: (begin + command(*words) * count + end, 2 * count + 2))


def _portions(at_once: int, made: Callable[[int], tuple[bytes, int]]) -> Round:
    sizes = [at_once] * (BATCH // at_once) + ([BATCH % at_once] if BATCH % at_once else [])
    portions = [made(size) for size in sizes]

    def go(link: Link) -> None:
        for portion, answers in portions:
            link.send(portion, answers)
            time.sleep(PAUSE_S)

    return go


def resync() -> Round:
    """A replica that asks for everything and is gone at once: the server forks, and ends the child."""

    def go(link: Link) -> None:
        replica = Link(link.socket.getpeername()[1])
        replica.socket.sendall(command("SYNC"))
        time.sleep(RESYNC_S)
        replica.socket.close()

    return go


def set_portions(key: str, elements: int) -> Iterator[bytes]:
    """SADD in portions."""
    for start in range(0, elements, PORTION):
        yield command("SADD", key, *(f"member:{number:08}" for number in range(start, min(elements, start + PORTION))))


def string_portions(prefix: str, keys: int, value: tuple[str, ...]) -> Iterator[tuple[bytes, int]]:
    """SETs in portions, and how many each holds."""
    for start in range(0, keys, PORTION // 2):
        numbers = range(start, min(keys, start + PORTION // 2))
        yield b"".join(command("SET", f"{prefix}:{number:08}", *value) for number in numbers), len(numbers)


def void(_: object) -> None:
    """Drop a value."""


def ordinary(port: int) -> None:
    """What every client does: small values, set and read."""
    link = Link(port)
    for number in itertools.count():
        link.ask("SET", f"ordinary:{number % 100}", str(number))
        link.ask("GET", f"ordinary:{number % 100}")
        time.sleep(ORDINARY_EVERY_S)


KINDS: dict[str, Callable[..., Round]] = {
    "ask": ask, "scan": scan, "rebuild": rebuild, "grow": grow, "fill": fill, "fresh": fresh, "expire": expire,
    "resync": resync, "pipeline": pipeline, "transaction": transaction,
}  # fmt: skip


def main() -> None:
    """Go round until stopped."""
    port, every_s = int(sys.argv[1]), int(sys.argv[2]) / 1000
    once = KINDS[sys.argv[3]](*sys.argv[4:])
    link = Link(port)
    threading.Thread(target=ordinary, args=(port,), daemon=True).start()
    before_ready = ROUNDS_BEFORE_READY.get(sys.argv[3], 0)
    for number in itertools.count():
        if number == before_ready:
            print("ready", flush=True)
        due = time.monotonic() + every_s
        once(link)
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
