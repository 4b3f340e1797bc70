"""The command log of a Valkey (since 8.1): requests and replies that were larger than a limit, as it recorded them.

`COMMANDLOG GET COUNT TYPE` answers with entries like those of the slow log: number, unix time, bytes, arguments,
address and name of the client (commandlogGetReply in src/commandlog.c). A server that has no such log is not asked for
it, so that it counts no error: what it would hold is then unknown, and not nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from culpa.collect.redis_answers import Fact, Reply, refusal
from culpa.collect.redis_link import Talker
from culpa.collect.trace.redis_commands import KEY_FIRST
from culpa.units import printable

TYPES: Final = ("large-request", "large-reply")
"""The third, `slow`, is what SLOWLOG tells."""
ENTRIES: Final = 128
"""That many it keeps of each type unless it is told otherwise."""
SETTING: Final = "commandlog-reply-larger-than"
"""Only a server with such a log has it."""
LONGEST_VERB: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry: its number, second (unix) and size, the arguments as the server shortened them, the client."""

    number: int
    at_unix: int
    size_bytes: int
    arguments: tuple[bytes, ...]
    client: str


class CommandLog:
    """That of one server, over one window."""

    def __init__(self, pattern: Callable[[bytes], str]) -> None:
        """Nothing is asked before `begin`; `pattern` makes of a key what may be kept of it."""
        self._pattern = pattern
        self._newest: dict[str, int] = {}
        self._refused: str | None = None

    def begin(self, talker: Talker, *, exists: bool) -> None:
        """Remember the newest entry of each type.

        Raises:
            NotAnswered: the server stops answering.
        """
        for type in TYPES if exists else ():  # the server's own word
            (reply,) = talker.ask(("COMMANDLOG", "GET", "1", type))
            if isinstance(reply, Exception):
                self._refused = printable(refusal(reply).partition(" ")[0], 40)
                return
            self._newest[type] = max((entry.number for entry in entries(reply)), default=-1)

    def facts(self, talker: Talker, *, own: str | None) -> Iterator[Fact]:
        """What came since `begin`, but for what culpa itself (`own`, its address as the server sees it) asked.

        Raises:
            NotAnswered: the server stops answering.
        """
        if self._refused is not None:
            yield Fact(source="refused", field="COMMANDLOG GET", value=self._refused)
            return
        for type, newest in self._newest.items():
            (reply,) = talker.ask(("COMMANDLOG", "GET", str(ENTRIES), type))
            new = (entry for entry in entries(reply) if entry.number > newest and entry.client != own)
            yield from self._told(f"COMMANDLOG GET {type}", list(new))

    def _told(self, source: str, new: Iterable[Entry]) -> Iterator[Fact]:
        found = list(new)
        yield Fact(source=source, field="new", value=str(len(found)))
        for entry in found:
            verb = printable(entry.arguments[0].decode("ascii", "replace")[:LONGEST_VERB].upper())
            told: dict[str, object] = {"at_unix": entry.at_unix, "bytes": entry.size_bytes, "verb": verb}
            if len(entry.arguments) > 1 and verb in KEY_FIRST:
                told["pattern"] = self._pattern(entry.arguments[1])
            for name, value in told.items():
                yield Fact(source=source, field=f"{entry.number}.{name}", value=printable(str(value)))


def entries(reply: Reply) -> list[Entry]:
    """The entries in a reply; what has another shape is none."""
    found = []
    for row in reply[:ENTRIES] if isinstance(reply, list) else []:
        if not (isinstance(row, list) and len(row) >= 5 and isinstance(row[3], list)):
            continue
        number, at_unix, size, words, client = row[:5]
        arguments = tuple(word for word in words if isinstance(word, bytes)) if isinstance(words, list) else ()
        if isinstance(number, int) and isinstance(at_unix, int) and isinstance(size, int) and arguments:
            address = client.decode("ascii", "replace") if isinstance(client, bytes) else ""
            found.append(
                Entry(number=number, at_unix=at_unix, size_bytes=size, arguments=arguments, client=printable(address))
            )
    return found
