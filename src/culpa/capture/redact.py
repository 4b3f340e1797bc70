"""A capture that can be shown to others: keyed hashes instead of names.

The same name becomes the same hash everywhere in one capture, so that files, sockets and settings still fit together
and the verdict stays what it was. What stays: numbers, times, ports, system calls, kernel symbols, and the structure of
paths and keys (separators, `*`, words of `vocabulary.py`). Without the key a hash cannot be tried against a dictionary.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from base64 import b32encode
from collections.abc import Callable
from functools import cached_property
from typing import Final
from urllib.parse import urlsplit

import msgspec
import polars as pl

from culpa.capture.bundle import Capture
from culpa.capture.columns import Column, PolarsType, Table
from culpa.capture.manifest import BlindSpot, Manifest, Target
from culpa.capture.schema import BY_NAME, DEVICES
from culpa.capture.vocabulary import PUBLIC_WORDS

Redactor = Callable[[str], str]

MIN_KEY_BYTES: Final = 16
_DIGEST_BYTES: Final = 5
"""40 bits, 8 letters: two of a thousand names collide once in two million captures."""

_TOKEN: Final = re.compile(r"[^/:.\-_*@,=?&%#+\[\](){}<>|~'\"; \t]+")
_SMALL_NUMBER: Final = re.compile(r"[0-9]{1,3}")
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+){0,2}[kmgKMG]?[bB]?%?")
_CHUNK: Final = re.compile(r"[^ ,=;\t\r\n]+")
_PLAIN_WORD: Final = re.compile(r"[A-Za-z]+(?:'[a-z]+)?[,.;:)]?|[(][A-Za-z]+|[0-9]{1,6}[,.;:)]?")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.()\-]{1,64}")
_VERB: Final = re.compile(r"[A-Z][A-Z.]{0,20}")
_OF_MACHINE: Final = re.compile(r"cpu[0-9]*|node[0-9]+")

_MADE_BY_KERNEL: Final = r"^iou-(wrk|sqp)-\d+$"
"""Threads of io_uring, which the kernel makes in the process that uses it; their names say what they are."""
_PUBLIC_COLUMNS: Final = frozenset(
    {
        "file_type", "direction", "protocol", "kind", "family", "op", "interface", "role", "fs_type", "frames", "state",
        "wchan", "scheduler", "affinity.cpus", "devices.name", "redis.source",
    }
)  # fmt: skip


def redact(capture: Capture, key: bytes) -> Capture:
    """The capture with keyed hashes for key names, paths, addresses, host, process and target names, command lines.

    Args:
        capture: any capture, whole; its tables may lack columns.
        key: at least 16 secret bytes. With the same key two captures stay comparable; drawn anew they do not.

    Raises:
        ValueError: the key is too short to protect anything.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a key for redaction needs at least {MIN_KEY_BYTES} bytes")
    hashes = _Hashes(capture, hashlib.blake2b(key, digest_size=32).digest())
    tables = {name: hashes.table(BY_NAME[name], frame) for name, frame in capture.tables.items()}
    return Capture(manifest=hashes.manifest(capture.manifest), tables=tables)


class _Hashes:
    """One key, and the names this capture must not show."""

    def __init__(self, capture: Capture, key: bytes) -> None:
        self._capture = capture
        self._key = key
        self._by_column: dict[str, Redactor] = {
            "sockets.local_addr": self.address_or_path,
            "sockets.peer_addr": self.address_or_path,
            "processes.cmdline": self.command_line,
            "messages.verb": lambda text: text if _VERB.fullmatch(text) else self.words(text),
            "probe_requests.error": self.prose,
            "redis.server": self.setting,
            "redis.field": self.identifier,
            "redis.value": self.setting,
            "counters.source": self.system_file,
            "counters.object": self.counted_object,
            "counters.field": self.identifier,
        }

    # --- the parts of a capture

    def manifest(self, manifest: Manifest) -> Manifest:
        spots = tuple(
            BlindSpot(what=self.prose(spot.what), why=self.prose(spot.why), way_out=self.prose(spot.way_out))
            for spot in manifest.blind_spots
        )
        return msgspec.structs.replace(manifest, target=self.target(manifest.target), blind_spots=spots, redacted=True)

    def target(self, target: Target) -> Target:
        shown = {"url": self.url, "redis": self.url, "command": self.command_line}.get(target.kind, self.words)
        return msgspec.structs.replace(target, name=shown(target.name))

    def table(self, table: Table, frame: pl.DataFrame) -> pl.DataFrame:
        columns = [self.column(table, column, frame) for column in table.columns if column.name in frame.columns]
        return pl.DataFrame(columns)

    def column(self, table: Table, column: Column, frame: pl.DataFrame) -> pl.Series:
        values = frame.get_column(column.name)
        full_name = f"{table.name}.{column.name}"
        if not column.is_text or column.name in _PUBLIC_COLUMNS or full_name in _PUBLIC_COLUMNS:
            return values
        hashed = self.values(values, self._by_column.get(full_name, self.words), column.dtype)
        if full_name == "tasks.comm" and "kernel" in frame.columns:
            made = frame.get_column("kernel").fill_null(False) | values.str.contains(_MADE_BY_KERNEL).fill_null(False)
            return values.zip_with(made, hashed)
        if full_name == "processes.comm" and "role" in frame.columns:
            return values.zip_with((frame.get_column("role") == "kernel").fill_null(False), hashed)
        return hashed

    def values(self, values: pl.Series, redactor: Redactor, dtype: PolarsType) -> pl.Series:
        """The redactor applied once to each different value."""
        known = [text for text in values.unique().to_list() if text is not None]
        hidden = pl.Series([redactor(text) for text in known], dtype=dtype)
        return values.replace_strict(pl.Series(known, dtype=dtype), hidden, default=None, return_dtype=dtype)

    # --- kinds of text

    def digest(self, text: str) -> str:
        """A keyed hash in eight lower-case letters and digits."""
        raw = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=_DIGEST_BYTES).digest()
        return b32encode(raw).decode().lower()

    def words(self, text: str) -> str:
        """A path, key pattern or name, word by word; separators, public words and small numbers stay."""
        return _TOKEN.sub(lambda match: self.word(match[0]), text)

    def word(self, word: str) -> str:
        return word if word in PUBLIC_WORDS or _SMALL_NUMBER.fullmatch(word) else self.digest(word)

    def identifier(self, text: str) -> str:
        """A field name, which kernel and Redis choose; anything of another form is hashed."""
        return text if _IDENTIFIER.fullmatch(text) and self.address(text) is None else self.words(text)

    def command_line(self, text: str) -> str:
        """The program by its words, all arguments as one hash."""
        program, _, arguments = text.partition(" ")
        return f"{self.words(program)} {self.digest(arguments)}" if arguments else self.words(program)

    def address(self, text: str) -> str | None:
        """A stand-in for an IP address, itself an address from a range nobody uses; null: not an address.

        Loopback and wildcard addresses stay: they are the same on every host.
        """
        try:
            address = ipaddress.ip_address(text.strip("[]"))
        except ValueError:
            return None
        if address.is_loopback or address.is_unspecified:
            return text
        raw = hashlib.blake2b(address.packed, key=self._key, digest_size=8).digest()
        if address.version == 4:
            return str(ipaddress.IPv4Address(0xF0000000 | int.from_bytes(raw[:4], "big") >> 4))
        return str(ipaddress.IPv6Address(0x20010DB8 << 96 | int.from_bytes(raw, "big")))

    def address_or_path(self, text: str) -> str:
        return self.address(text) or self.words(text)

    def endpoint(self, text: str) -> str | None:
        """`ADDRESS:PORT`; null: it is not one."""
        host, colon, port = text.rpartition(":")
        shown = self.address(host) if colon and port.isdecimal() and host else None
        return None if shown is None else f"{shown}:{port}"

    def url(self, text: str) -> str:
        """Scheme, host, port and path, each in its own way; the query is dropped."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return self.digest(text)
        shown = self.address(host) or self.words(host)
        place = f"[{shown}]" if ":" in shown else shown
        return f"{self.words(parts.scheme)}://{place}{f':{port}' if port else ''}{self.words(parts.path)}"

    def setting(self, text: str) -> str:
        """A value of Redis: numbers and public words stay, addresses and the rest are hashed."""
        return _CHUNK.sub(lambda match: self._setting_chunk(match[0]), text)

    def _setting_chunk(self, chunk: str) -> str:
        stand_in = self.address(chunk) or self.endpoint(chunk)
        return stand_in or (chunk if _NUMBER.fullmatch(chunk) else self.words(chunk))

    def system_file(self, path: str) -> str:
        """Files of /proc and /sys as they are, but for the names of control groups."""
        public = path.startswith(("/proc/", "/sys/")) and not path.startswith("/sys/fs/cgroup/")
        if public:
            return path
        folder, slash, name = path.rpartition("/")
        return self.words(folder) + slash + name if folder.startswith("/sys/fs/cgroup") else self.words(path)

    def counted_object(self, name: str) -> str:
        """Devices, CPUs, memory nodes and process ids as they are."""
        public = name.removeprefix("/dev/") in self._devices or _OF_MACHINE.fullmatch(name) or name.isdecimal()
        return name if public else self.words(name)

    def prose(self, text: str) -> str:
        """A sentence: plain words stay unless they are a name somewhere in this capture."""
        return re.sub(r"\S+", lambda match: self._prose_chunk(match[0]), text)

    def _prose_chunk(self, chunk: str) -> str:
        bare = chunk.strip("(),.;:'\"`")
        stand_in = self.address(bare) or self.endpoint(bare) or (self.url(bare) if "://" in bare else None)
        if stand_in is not None:
            return chunk.replace(bare, stand_in)
        if _PLAIN_WORD.fullmatch(chunk) and bare not in self._names:
            return chunk
        return self.words(chunk)

    @cached_property
    def _devices(self) -> frozenset[str]:
        frame = self._capture.frame(DEVICES)
        return frozenset(frame.get_column("name").drop_nulls().to_list())

    @cached_property
    def _names(self) -> frozenset[str]:
        """Every word of every name in the capture."""
        names = set(_TOKEN.findall(self._capture.manifest.target.name))
        for name, frame in self._capture.tables.items():
            for column in BY_NAME[name].columns:
                if column.is_text and column.name in frame.columns and column.name in _NAME_COLUMNS:
                    for text in frame.get_column(column.name).drop_nulls().unique().to_list():
                        names.update(_TOKEN.findall(text))
        return frozenset(names - PUBLIC_WORDS)


_NAME_COLUMNS: Final = frozenset(
    {"comm", "cmdline", "exe", "cgroup", "unit", "container", "path", "inner_path", "detail", "local_addr", "peer_addr"}
)
