"""What one Redis server says about itself while it is watched (`schema.REDIS`), in more depth than `redis.py` asks.

In full at the start and at the end, INFO once a second between. Everything is read-only, but that the latency monitor
is switched on for the window where that is wanted (`latency_monitor.py`). Names of keys are never kept,
only their pattern; of the slow log the verb, the pattern of its first key, and how large that key is at the end.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

import polars as pl

from culpa.capture import schema
from culpa.capture.manifest import BlindSpot
from culpa.collect import commandlog, undo
from culpa.collect.latency_monitor import LatencyMonitor
from culpa.collect.procfs import PROC, parse_status, read_bounded
from culpa.collect.redis_answers import Fact, NotAnswered, Reply, facts_of
from culpa.collect.redis_link import Link
from culpa.collect.trace.messages import key_patterns
from culpa.collect.trace.redis_commands import KEY_FIRST
from culpa.units import NS_PER_SECOND, Pid, printable

POLL_NS: Final = NS_PER_SECOND
"""INFO at most once a second."""
SILENCE_SECONDS: Final = 60.0
LAST_SECONDS: Final = 5.0
"""So long a server that stands still when the window ends is waited for."""
SLOW_ENTRIES: Final = 128
LARGEST_KEYS: Final = 8
SAMPLED_KEYS: Final = 1000
SCAN_COUNT: Final = 100
SAMPLE_NS: Final = NS_PER_SECOND // 4
"""So long the keys are looked at; MEMORY USAGE with five samples takes microseconds, SCAN of 100 about 50."""
NAMED_CLIENTS: Final = 16
MAX_NAMES: Final = 256
MAX_CLIENTS: Final = 20_000
MAX_SETTINGS: Final = 2000
SETTINGS: Final = (
    "active-defrag-cycle-max", "active-expire-effort", "activedefrag", "activerehashing",
    "aof-rewrite-incremental-fsync", "appenddirname",
    "appendfilename", "appendfsync", "appendonly", "auto-aof-rewrite-min-size", "auto-aof-rewrite-percentage",
    "bgsave_cpulist", "bio_cpulist", "busy-reply-threshold", "client-output-buffer-limit", "cluster-node-timeout",
    "commandlog-execution-slower-than", "commandlog-large-reply-max-len", "commandlog-large-request-max-len",
    "commandlog-reply-larger-than", "commandlog-request-larger-than", "commandlog-slow-execution-max-len", "dir",
    "disable-thp", "dynamic-hz", "hz",
    "io-threads", "io-threads-do-reads", "latency-monitor-threshold", "latency-tracking", "lazyfree-lazy-eviction",
    "lazyfree-lazy-expire", "lazyfree-lazy-server-del", "lazyfree-lazy-user-del", "lazyfree-lazy-user-flush",
    "maxclients", "maxmemory", "maxmemory-clients", "maxmemory-policy", "no-appendfsync-on-rewrite",
    "rdb-save-incremental-fsync", "rdbcompression", "repl-backlog-size", "repl-diskless-load", "repl-diskless-sync",
    "replica-lazy-flush", "save", "server_cpulist", "slowlog-log-slower-than", "slowlog-max-len",
    "stop-writes-on-bgsave-error", "tcp-backlog", "timeout",
)  # fmt: skip
"""None of these is a secret."""
_FULL: Final[tuple[tuple[str, ...], ...]] = (
    ("INFO", "all"),
    ("INFO", "debug"),
    ("LATENCY", "LATEST"),
    ("SLOWLOG", "LEN"),
    ("CLIENT", "INFO"),
    ("DBSIZE",),
    ("CLUSTER", "INFO"),
    *(("CONFIG", "GET", name) for name in SETTINGS),
)
_LENGTHS: Final = {
    "hash": "HLEN", "set": "SCARD", "zset": "ZCARD", "list": "LLEN", "string": "STRLEN", "stream": "XLEN",
}  # fmt: skip
_ASKER: Final = ("client", "client_name")
"""Of an entry of the slow log, since 4.0: the address of who asked, and the name it gave itself."""
_CLIENT_FIELD: Final = re.compile(r"(\S+?)=(\S*)")
_CLIENT_KEPT: Final = ("cmd", "flags", "omem", "tot-mem", "qbuf", "age", "idle", "name")


class Checkup:
    """Asks one server from a thread of its own, on a connection of its own."""

    def __init__(self, link: Link, *, raises_monitor: bool = False) -> None:
        """Connect.

        Raises:
            NotAnswered: the server cannot be reached.
        """
        self._link = link
        self._talker = link.connect(silence_seconds=SILENCE_SECONDS)
        self._raises_monitor = raises_monitor
        self.monitor = LatencyMonitor(link, undo.state_directory())
        self._pid: Pid | None = None
        self._lock = threading.Lock()
        self._rows: list[tuple[int, Fact]] = []
        self._failure: NotAnswered | None = None
        self._slow_before = -1
        self._log = commandlog.CommandLog(_pattern)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="culpa-redis", daemon=True)

    def start(self) -> None:
        """Ask everything once, before the window begins, then INFO once a second.

        Raises:
            NotAnswered: the server stops answering.
        """
        self._ask_all()
        self.monitor.begin(self._talker, raises=self._raises_monitor)
        self._slow_before = max((number for number, _ in self._slow_entries()), default=-1)
        self._log.begin(self._talker, exists=self._said(commandlog.SETTING) is not None)
        self._thread.start()

    def recognise(self, pids: Collection[int], proc_root: Path = PROC) -> Pid | None:
        """Which of these processes the server is: the one that has the number it gives itself, in its own namespace."""
        said = self._said("process_id")
        for pid in sorted(pids):
            status = parse_status(read_bounded(proc_root / str(pid) / "status") or b"")
            inner = str(status.ns_pids[-1]) if status and status.ns_pids else None
            if said is not None and said in (str(pid), inner):
                self._pid = Pid(pid)
        return self._pid

    def stop(self) -> None:
        """Ask everything once more, look at the keys, and hang up; a server that stands still is not waited for."""
        self._stopping.set()
        self._talker.expect_within(LAST_SECONDS)
        if self._thread.ident is not None:
            self._thread.join(timeout=LAST_SECONDS)
            if self._thread.is_alive():
                self._talker.cut()
                self._thread.join()
                why = f"it stood still: no answer within {LAST_SECONDS:.0f} s of the end of the window"
                self._failure = NotAnswered(why, "ask it again when it answers; `culpa why PID` on its host sees why")
        self.monitor.restore()
        try:
            if self._failure is None:
                self._ask_all()
                self._keep(self.monitor.facts(self._talker))
                self._keep(self._slow(self._slow_entries()))
                self._keep(self._log.facts(self._talker, own=self._said("addr")))
                self._keep(self._clients())
                self._keep(self._largest_keys())
        except NotAnswered as reason:
            self._failure = reason
        self._talker.close()

    def close(self) -> None:
        """Hang up at once; safe to call twice and after `stop`."""
        self._stopping.set()
        self._talker.cut()
        if self._thread.ident is not None:
            self._thread.join()
        self.monitor.restore()
        self._talker.close()

    def rows(self) -> pl.DataFrame:
        """`schema.REDIS` so far, in the order the server was asked."""
        with self._lock:
            rows = list(self._rows)
        return schema.REDIS.frame(
            {
                "ts_ns": [ts_ns for ts_ns, _ in rows],
                "server": [self._link.address.shown] * len(rows),
                "pid": [self._pid] * len(rows),
                "source": [fact.source for _, fact in rows],
                "field": [fact.field for _, fact in rows],
                "value": [fact.value for _, fact in rows],
            }
        )

    def blind_spots(self) -> tuple[BlindSpot, ...]:
        """What the server refused to say, or why it stopped answering."""
        spots = list(self.monitor.blind_spots())
        if self._failure is not None:
            spots.append(
                BlindSpot(
                    what="what the server says about itself from some moment on",
                    why=self._failure.why,
                    way_out=self._failure.way_out,
                )
            )
        with self._lock:
            refused = {fact.field: fact.value for _, fact in self._rows if fact.source == "refused"}
        by_command: dict[str, set[str]] = {}
        for command, why in refused.items():
            by_command.setdefault(command.partition(" ")[0], set()).add(why)
        for command, reasons in sorted(by_command.items()):
            if command in ("CLUSTER", "CLIENT", "INFO"):
                continue  # older servers and single ones do not know all of these
            spots.append(
                BlindSpot(
                    what=f"what {command} tells",
                    why=f"the server refuses it ({', '.join(sorted(reasons))})",
                    way_out="let this user run it (ACL SETUSER ... +config|get +slowlog|get +latency|latest), or use "
                    "the provider's console",
                )
            )
        return tuple(spots)

    def _run(self) -> None:
        due = time.monotonic_ns() + POLL_NS
        while not self._stopping.wait(max(0, due - time.monotonic_ns()) / NS_PER_SECOND):
            due = time.monotonic_ns() + POLL_NS
            try:
                self._ask(("INFO",))
            except NotAnswered as reason:
                self._failure = reason
                return

    def _said(self, field: str) -> str | None:
        """The first value of a field, whatever it was asked by."""
        with self._lock:
            return next((fact.value for _, fact in self._rows if fact.field == field), None)

    def _ask_all(self) -> None:
        self._ask(*_FULL)

    def _ask(self, *commands: tuple[str, ...]) -> None:
        replies = self._talker.ask(*commands)
        self._keep(_numbered(commands, replies))

    def _keep(self, facts: Iterable[Fact]) -> None:
        now = time.monotonic_ns()
        found = [(now, fact) for fact in facts]
        with self._lock:
            self._rows.extend(found)

    def _slow_entries(self) -> list[tuple[int, list[Reply]]]:
        """Entries of the slow log by their number, newest first."""
        (reply,) = self._talker.ask(("SLOWLOG", "GET", str(SLOW_ENTRIES)))
        entries = reply if isinstance(reply, list) else []
        return [
            (entry[0], entry)
            for entry in entries[:SLOW_ENTRIES]
            if isinstance(entry, list) and len(entry) >= 4 and isinstance(entry[0], int) and isinstance(entry[3], list)
        ]

    def _slow(self, entries: list[tuple[int, list[Reply]]]) -> Iterator[Fact]:
        """Entries that came while culpa watched: verb, arguments, key pattern; how large the key of each is now."""
        new = [(number, entry) for number, entry in entries if number > self._slow_before]
        yield Fact(source="SLOWLOG GET", field="new", value=str(len(new)))
        for number, entry in new:
            words = [word for word in entry[3] if isinstance(word, bytes)] if isinstance(entry[3], list) else []
            verb = printable(words[0].decode("ascii", "replace")[:32].upper()) if words else ""
            key = words[1] if len(words) > 1 and verb in KEY_FIRST else None
            told: dict[str, object] = {"at_unix": entry[1], "us": entry[2], "verb": verb, "arguments": len(words)}
            told |= {
                name: _text(said) for name, said in zip(_ASKER, entry[4:6], strict=False) if isinstance(said, bytes)
            }
            if key is not None:
                told |= {"pattern": _pattern(key), **self._size(key)}
            elif len(words) > 1 and verb in ("FLUSHALL", "FLUSHDB"):
                told["option"] = printable(words[1].decode("ascii", "replace")[:16].upper())
            for name, value in told.items():
                yield Fact(source="SLOWLOG GET", field=f"{number}.{name}", value=printable(str(value)))

    def _size(self, key: bytes) -> dict[str, int | str]:
        """Type, elements (bytes of a string) and bytes of memory of a key that still exists."""
        kind, memory = self._talker.ask(("TYPE", key), ("MEMORY", "USAGE", key, "SAMPLES", "5"))
        name = kind.decode("ascii", "replace") if isinstance(kind, bytes) else ""
        if name not in _LENGTHS:
            return {}
        (length,) = self._talker.ask((_LENGTHS[name], key))
        found: dict[str, int | str] = {"type": name}
        if isinstance(length, int):
            found["length"] = length
        if isinstance(memory, int):
            found["bytes"] = memory
        return found

    def _clients(self) -> Iterator[Fact]:
        """How many there are, and those with most unread output, or that watch everything (MONITOR)."""
        (reply,) = self._talker.ask(("CLIENT", "LIST"))
        if not isinstance(reply, bytes):
            return
        clients = []
        for line in reply.split(b"\n")[:MAX_CLIENTS]:
            found = dict(_CLIENT_FIELD.findall(line.decode("utf-8", "replace")))
            if "id" in found:
                clients.append(found)
        yield Fact(source="CLIENT LIST", field="clients", value=str(len(clients)))
        for verb, count in Counter(found.get("cmd", "") for found in clients).most_common(NAMED_CLIENTS):
            yield Fact(source="CLIENT LIST", field=f"last command {printable(verb, 40)}", value=str(count))
        for found in [one for one in clients if one.get("name")][:MAX_NAMES]:
            for name in ("addr", "name"):
                number = printable(found["id"], 24)
                yield Fact(source="CLIENT NAMED", field=f"{number}.{name}", value=printable(found.get(name, ""), 64))
        clients.sort(key=lambda found: (-("O" in found.get("flags", "")), -_number(found.get("omem"))))
        for found in clients[:NAMED_CLIENTS]:
            if _number(found.get("omem")) or "O" in found.get("flags", ""):
                for name in _CLIENT_KEPT:
                    yield Fact(
                        source="CLIENT LIST", field=f"{printable(found['id'], 24)}.{name}",
                        value=printable(found.get(name, ""), 64),
                    )  # fmt: skip

    def _largest_keys(self) -> Iterator[Fact]:
        """The largest of a bounded sample of keys, by pattern; SCAN in small steps, never the whole of it."""
        sizes: list[tuple[int, bytes]] = []
        seen, cursor, until = 0, b"0", time.monotonic_ns() + SAMPLE_NS
        while True:
            (step,) = self._talker.ask(("SCAN", cursor, "COUNT", str(SCAN_COUNT)))
            if not (isinstance(step, list) and len(step) == 2 and isinstance(step[1], list)):
                return
            keys = [key for key in step[1] if isinstance(key, bytes)]
            memory = self._talker.ask(*(("MEMORY", "USAGE", key, "SAMPLES", "5") for key in keys)) if keys else []
            seen += len(keys)
            sizes += [(size, key) for size, key in zip(memory, keys, strict=True) if isinstance(size, int)]
            sizes = sorted(sizes, reverse=True)[:LARGEST_KEYS]
            cursor = step[0] if isinstance(step[0], bytes) else b"0"
            if cursor == b"0" or seen >= SAMPLED_KEYS or time.monotonic_ns() > until:
                break
        yield Fact(source="KEYS SAMPLED", field="keys", value=str(seen))
        yield Fact(source="KEYS SAMPLED", field="complete", value=str(int(cursor == b"0")))
        for rank, (size, key) in enumerate(sizes):
            told: dict[str, object] = {"bytes": size, "pattern": _pattern(key), **self._size(key)}
            for name, value in told.items():
                yield Fact(source="KEYS SAMPLED", field=f"{rank}.{name}", value=printable(str(value)))


def _numbered(commands: Iterable[tuple[str, ...]], replies: Iterable[Reply]) -> Iterator[Fact]:
    """The facts in replies, with those that `facts_of` does not know."""
    for command, reply in zip(commands, replies, strict=True):
        if command == ("DBSIZE",) and isinstance(reply, int):
            yield Fact(source="DBSIZE", field="keys", value=str(reply))
        elif command == ("CLUSTER", "INFO") and isinstance(reply, bytes):
            for line in reply.decode("utf-8", "replace").splitlines()[:64]:
                name, colon, value = line.partition(":")
                if colon:
                    yield Fact(source="CLUSTER INFO", field=printable(name, 64), value=printable(value, 64))
        elif command[:2] == ("CONFIG", "GET") and isinstance(reply, list):
            for setting, said in zip(reply[:MAX_SETTINGS:2], reply[1:MAX_SETTINGS:2], strict=False):
                if isinstance(setting, bytes) and isinstance(said, bytes) and _text(setting) in SETTINGS:
                    yield Fact(source="CONFIG GET", field=_text(setting), value=_text(said))
        else:
            yield from facts_of([command], [reply])


def _pattern(key: bytes) -> str:
    return str(key_patterns(pl.Series("key", [key[:256].decode("latin-1")], dtype=pl.String))[0])


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _text(value: bytes) -> str:
    return printable(value.decode("utf-8", "replace"), 500)
