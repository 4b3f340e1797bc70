"""The latency monitor of one Redis server: what it noted in the window, and switched on for the window if asked.

To switch it on is the one change that culpa makes to a server it examines. It is written down before (`undo.py`) and
put back at the end, or by the next culpa if this one is killed. The configuration file is never written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from culpa.capture.manifest import BlindSpot
from culpa.collect import undo
from culpa.collect.redis_answers import Address, Fact, NotAnswered, Reply, refusal
from culpa.collect.redis_link import Link, Talker
from culpa.errors import CulpaError
from culpa.units import printable

SETTING: Final = "latency-monitor-threshold"
THRESHOLD_MS: Final = 1
"""The least that it can be told. It keeps the worst of each second only, so a low one costs no memory, and where a
client waits for several short delays one after the other each of them is noted.
"""
HISTORY_SOURCE: Final = "LATENCY HISTORY"
MONITOR_SOURCE: Final = "LATENCY MONITOR"
MAX_EVENTS: Final = 64
MAX_SAMPLES: Final = 160
"""LATENCY_TS_LEN of latency.h: what it keeps of each event."""
RESTORE_SECONDS: Final = 20.0
SETTLE_SECONDS: Final = 2.0
CLOCKS_SECONDS: Final = 1.0
"""A server that was started later than this after a change has lost it; its own clock counts whole seconds."""
SETTLED_AT_ONCE: Final = 4
"""Servers that are asked at a start of culpa for what a killed one owes them."""

Samples = frozenset[tuple[str, int, int]]
"""Event, second (unix), milliseconds."""


class LatencyMonitor:
    """That of one server, over one window."""

    def __init__(self, link: Link, directory: Path) -> None:
        self._link = link
        self._directory = directory
        self._record: undo.Record | None = None
        self._before: Samples | None = None
        self._threshold_ms: int | None = None
        self._is_over = False
        self._spot: BlindSpot | None = None
        self.settled: list[str] = []
        """Sentences on what a killed culpa left, and this one put back or could not."""

    def begin(self, talker: Talker, *, raises: bool) -> None:
        """Remember what it has, and let it note what takes a millisecond if that is wanted.

        Raises:
            NotAnswered: the server stops answering.
        """
        self.settled = settle(talker, identity(talker).run_id, self._directory)
        found = identity(talker)
        value = found.threshold
        self._threshold_ms = int(value) if value is not None and value.isdecimal() else None
        self._before = samples(talker)
        if not raises or self._threshold_ms == THRESHOLD_MS:
            return
        if value is None or self._threshold_ms is None:
            self._refused("the server does not say what its threshold is")
        elif self._before is None:
            self._refused("the server does not let LATENCY be read", right="+latency")
        else:
            self._raise(talker, found.run_id, value)

    @property
    def is_raised(self) -> bool:
        """Whether its setting is another now than before."""
        return self._record is not None

    def _raise(self, talker: Talker, run_id: str, before: str) -> None:
        address = self._link.address
        change = undo.Change(
            run_id=run_id, setting=SETTING, before=before, during=str(THRESHOLD_MS), at_unix=time.time(),
            host=address.host, port=address.port, path=address.path, tls=self._link.tls is not None,
        )  # fmt: skip
        try:
            self._record = undo.write(change, self._directory)
        except CulpaError as error:
            self._refused(error.what)
            return
        (reply,) = talker.ask(("CONFIG", "SET", SETTING, change.during))
        if isinstance(reply, Exception):
            self._record.discard()
            self._record = None
            self._refused(f"the server refuses CONFIG SET ({printable(refusal(reply).partition(' ')[0], 40)})")
        else:
            self._threshold_ms = THRESHOLD_MS

    def restore(self) -> None:
        """Put back what was changed; safe to call twice. What the server does not take now, the next culpa tries."""
        record, self._record = self._record, None
        if record is None:
            return
        try:
            talker = self._link.connect(silence_seconds=RESTORE_SECONDS)
            try:
                self._see_changed(talker)
                why = _put_back(talker, record)
            finally:
                talker.close()
        except NotAnswered as reason:
            why = reason.why
        else:
            self._is_over = True
        if why is not None:
            record.leave()
            self._spot = BlindSpot(
                what=f"{record.change.sentence}, which culpa could not do", why=why,
                way_out="run culpa redis on it again: it is put back then",
            )  # fmt: skip

    def facts(self, talker: Talker) -> Iterator[Fact]:
        """From what on it noted anything (milliseconds; 0: it was off), and what it noted since `begin`.

        Nothing where the server tells either of these to nobody.

        Raises:
            NotAnswered: the server stops answering.
        """
        if not self._is_over:
            self._see_changed(talker)
        noted = samples(talker)
        if noted is None or self._before is None or self._threshold_ms is None:
            return
        yield Fact(source=MONITOR_SOURCE, field="threshold_ms", value=str(self._threshold_ms))
        for event, at_unix, lasted_ms in sorted(noted - self._before):
            yield Fact(source=HISTORY_SOURCE, field=f"{event}.{at_unix}", value=str(lasted_ms))

    def blind_spots(self) -> tuple[BlindSpot, ...]:
        """Why it could not be switched on, or not be put back."""
        return () if self._spot is None else (self._spot,)

    def _see_changed(self, talker: Talker) -> None:
        """Where somebody else has set it in the window, or the server was restarted, nobody knows what it noted."""
        if identity(talker).threshold != str(self._threshold_ms):
            self._threshold_ms = None

    def _refused(self, why: str, *, right: str = "+config|set") -> None:
        self._spot = BlindSpot(
            what="what the server's latency monitor would note in the window", why=why,
            way_out=f"let this user run it (ACL SETUSER ... {right}), or set {SETTING} in the provider's console",
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A server's name for its process (empty: it has none), how long that runs, and what its monitor is set to."""

    run_id: str
    uptime_seconds: int | None
    threshold: str | None


def identity(talker: Talker) -> Identity:
    """Ask for it.

    Raises:
        NotAnswered: the server stops answering.
    """
    info, setting = talker.ask(("INFO", "server"), ("CONFIG", "GET", SETTING))
    said = dict(_lines(info))
    uptime = said.get("uptime_in_seconds", "")
    value = setting[1] if isinstance(setting, list) and len(setting) == 2 else None
    return Identity(
        run_id=said.get("run_id", ""),
        uptime_seconds=int(uptime) if uptime.isdecimal() else None,
        threshold=value.decode("ascii", "replace") if isinstance(value, bytes) else None,
    )


def samples(talker: Talker) -> Samples | None:
    """What it holds of every event; None where the server refuses to tell.

    Raises:
        NotAnswered: the server stops answering.
    """
    (latest,) = talker.ask(("LATENCY", "LATEST"))
    if not isinstance(latest, list):
        return None
    # A row has four fields, of a Valkey six; the name is the first.
    names = [row[0] for row in latest[:MAX_EVENTS] if isinstance(row, list) and row and isinstance(row[0], bytes)]
    histories = talker.ask(*(("LATENCY", "HISTORY", name) for name in names)) if names else []
    if any(isinstance(history, Exception) for history in histories):
        return None
    return frozenset(
        (printable(name.decode("utf-8", "replace"), 64), pair[0], pair[1])
        for name, history in zip(names, histories, strict=True)
        for pair in (history[:MAX_SAMPLES] if isinstance(history, list) else [])
        if isinstance(pair, list) and len(pair) >= 2 and isinstance(pair[0], int) and isinstance(pair[1], int)
    )


def settle(talker: Talker, run_id: str, directory: Path) -> list[str]:
    """Put back what a killed culpa left changed at this very server; a sentence for each.

    Raises:
        NotAnswered: the server stops answering.
    """
    told = []
    for record in undo.left(directory):
        if record.change.run_id != run_id:
            record.leave()
            continue
        try:
            why = _put_back(talker, record)
        except NotAnswered:
            record.leave()
            raise
        told.append(_told(record, why))
    return told


def settle_all(directory: Path, *, but: str | None) -> list[str]:
    """Try that at every server that a killed culpa left changed, `but` one; a sentence for each, done or not.

    Without a password, since none is kept, and without TLS.
    """
    told: list[str] = []
    for record in undo.left(directory):
        if record.change.server == but:
            record.leave()
        else:
            told.append(_told(record, _settled(record) if len(told) < SETTLED_AT_ONCE else "there are many"))
    return told


def _told(record: undo.Record, why: str | None) -> str:
    if why is None:
        return f"put back what a culpa that was killed had changed: {record.change.sentence}"
    record.leave()
    return f"{record.change.sentence}, a culpa that was killed had changed it: {why}; culpa redis on it tries again"


def _settled(record: undo.Record) -> str | None:
    """As `_put_back`, over a connection of its own."""
    change = record.change
    if change.tls:
        return "it speaks TLS"
    link = Link(address=Address(host=change.host, port=change.port, path=change.path))
    try:
        talker = link.connect(silence_seconds=SETTLE_SECONDS)
    except NotAnswered as reason:
        return reason.why
    try:
        return _put_back(talker, record)
    except NotAnswered as reason:
        return reason.why
    finally:
        talker.close()


def _put_back(talker: Talker, record: undo.Record) -> str | None:
    """Set it to what it was, unless somebody else has set it since, and discard the record; why not, if not.

    Raises:
        NotAnswered: the server stops answering.
    """
    change, found = record.change, identity(talker)
    if found.run_id != change.run_id:
        if found.uptime_seconds is None or time.time() - found.uptime_seconds <= change.at_unix + CLOCKS_SECONDS:
            return "another server answers there"
    elif found.threshold is None:
        return "the server does not say what it is set to"
    elif found.threshold == change.during:
        (reply,) = talker.ask(("CONFIG", "SET", change.setting, change.before))
        if isinstance(reply, Exception):
            return "the server refuses CONFIG SET by now"
    record.discard()
    return None


def _lines(reply: Reply) -> Iterator[tuple[str, str]]:
    for line in reply.decode("utf-8", "replace").splitlines()[:256] if isinstance(reply, bytes) else ():
        name, colon, value = line.partition(":")
        if colon:
            yield name, printable(value.strip(), 100)
