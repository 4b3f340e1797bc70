"""Whose a Redis main thread was, message by message, on hand-made turns of its event loop: every figure by hand."""

from __future__ import annotations

import pytest
from scene import MS, US, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose import redisserved
from culpa.diagnose.judge import judge
from culpa.diagnose.redisserved import Served
from culpa.diagnose.verdict import CommandRow, Commands
from culpa.model import requests
from culpa.report.terminal import render

SERVER, AOF_INO = 700, 7
A, B, C, OWN = 31, 32, 33, 39
OWN_PORT = 5039
HOSTILE = "\x1b[31m\u202e[bold]:*" + "x" * 200


class Turns:
    """Grows the turns of one server's event loop; times are microseconds after the window began."""

    def __init__(self) -> None:
        self.scene = Scene()

    def _ns(self, us: float) -> int:
        return self.scene.start + int(us * US)

    def poll(self, enter: float, leave: float, *, slept: bool = True) -> None:
        """The loop looks which sockets are ready, and sleeps until one is."""
        self.scene.call(SERVER, 232, self._ns(enter), self._ns(leave), ino=98, kind="anon", ret=1)
        if slept:
            self.scene.sleep(SERVER, self._ns(enter + 1), self._ns(leave - 1), self._ns(leave - 1))

    def read(self, ino: int, enter: float, verb: str | None, key: str | None = None, *, commands: int = 1) -> None:
        """Two microseconds of reading a request, or its later part."""
        self.scene.call(SERVER, 0, self._ns(enter), self._ns(enter + 2), ino=ino)
        kind = "request" if verb else "data"
        self.scene.message(SERVER, ino, self._ns(enter), self._ns(enter + 2), "in", kind, "resp", verb, key)
        self.scene.rows["messages"]["commands"][-1] = commands

    def write(self, ino: int, enter: float, *, commands: int = 1) -> None:
        """Five microseconds of answering."""
        self.scene.call(SERVER, 1, self._ns(enter), self._ns(enter + 5), ino=ino)
        self.scene.message(SERVER, ino, self._ns(enter), self._ns(enter + 5), "out", "response", "resp")
        self.scene.rows["messages"]["commands"][-1] = commands

    def append(self, enter: float, leave: float) -> None:
        """A write to the append-only file."""
        self.scene.call(SERVER, 1, self._ns(enter), self._ns(leave), ino=AOF_INO, kind="reg", dev=5)

    def preempted(self, off: float, on: float) -> None:
        """It had no CPU."""
        self.scene.add(schema.OFFCPU, off_ns=self._ns(off), on_ns=self._ns(on), tid=SERVER, pid=SERVER, state=0, cpu=0)

    def capture(self, end_us: float = 10_000) -> Capture:
        """A check-up's capture: culpa's own connection is among the sockets."""
        self.scene.now = self._ns(end_us) - MS
        for ino, port in ((A, 5031), (B, 5032), (C, 5033), (OWN, OWN_PORT)):
            self.scene.add(
                schema.SOCKETS, ino=ino, family="tcp", local_addr="127.0.0.1", local_port=7000, listening=False,
                peer_addr=f"10.0.0.{port - 5030}", peer_port=port,
            )  # fmt: skip
        said = {"CLIENT NAMED": {"4.addr": "10.0.0.2:5032", "4.name": "report"}, "INFO server": {"redis_version": "7"}}
        for source, fields in said.items():
            for name, value in fields.items():
                self.scene.add(
                    schema.REDIS, ts_ns=self._ns(1), server="127.0.0.1:7000", pid=SERVER, source=source, field=name,
                    value=value,
                )  # fmt: skip
        capture = self.scene.capture(kind="redis")
        capture.tables["files"] = schema.FILES.frame({"dev": [5], "ino": [AOF_INO], "append": [True]})
        ping = {"start_ns": [self._ns(5)], "end_ns": [self._ns(9)], "local_port": [OWN_PORT], "bytes": [7]}
        capture.tables[schema.REQUESTS.name] = schema.REQUESTS.frame(ping)
        return capture


def one_turn() -> Turns:
    """Three clients are ready at once: a GET, a slow HGETALL, a SET; the file is written; all three are answered."""
    turns = Turns()
    turns.poll(0, 100)
    turns.read(A, 100, "GET", "user:*")
    turns.read(B, 112, "HGETALL", "big:*")
    turns.read(C, 614, "SET", "n:*")
    turns.append(620, 720)
    turns.write(A, 721)
    turns.write(B, 726)
    turns.write(C, 731)
    turns.poll(737, 9000)
    return turns


def served(turns: Turns) -> Served:
    capture = turns.capture()
    return redisserved.find(capture, requests.find(capture))[SERVER]


def told(turns: Turns) -> Commands:
    (table,) = judge(turns.capture()).commands
    return table


def row(table: Commands, verb: str) -> CommandRow:
    (found,) = [one for one in table.rows if one.verb == verb]
    return found


def test_each_request_of_a_turn_is_charged_its_own_time_alone() -> None:
    """Its read, what follows it, its reply; not the replies of others, nor the append-only file."""
    rows = served(one_turn()).requests
    assert ["GET", "HGETALL", "SET"] == rows["verb"].to_list()
    assert [17 * US, 507 * US, 12 * US] == rows["held_ns"].to_list()


def test_who_was_ready_waited_for_those_before() -> None:
    """All three had come when the poll returned: it had slept."""
    rows = served(one_turn()).requests
    assert [0, 12 * US, 514 * US] == rows["waited_ns"].to_list()
    assert [0, 12 * US, 514 * US] == rows["waited_most_ns"].to_list()
    table = told(one_turn())
    assert "HGETALL big:*" == row(table, "SET").behind
    assert pytest.approx(502e-6) == row(table, "SET").behind_seconds


def test_what_had_come_before_a_poll_that_returned_at_once_may_have_come_earlier() -> None:
    """At most since the poll before, and not before that client's last answer."""
    turns = one_turn()
    turns.poll(9000, 9001, slept=False)
    turns.read(A, 9002, "GET", "user:*")
    turns.write(A, 9010)
    turns.poll(9016, 9017, slept=False)
    turns.read(B, 9020, "GET", "user:*")
    turns.read(A, 9030, "GET", "user:*")
    rows = served(turns).requests.tail(3)
    assert [1 * US, 3 * US, 13 * US] == rows["waited_ns"].to_list()
    assert [2 * US, 19 * US, 15 * US] == rows["waited_most_ns"].to_list()


def test_the_time_without_a_cpu_is_nobodys() -> None:
    """The HGETALL computes for 500 us, of which it was 300 us without a CPU."""
    turns = one_turn()
    turns.preempted(200, 500)
    assert [17 * US, 207 * US, 12 * US] == served(turns).requests["held_ns"].to_list()


def test_later_parts_of_a_request_and_of_its_reply_are_its_own() -> None:
    """A request in two reads with other work between, a reply in two writes of which one looks like many replies."""
    turns = Turns()
    turns.poll(0, 100)
    turns.read(A, 100, "SET", "big:*")
    turns.poll(110, 200)
    turns.read(A, 200, None)
    turns.write(A, 212)
    turns.write(A, 220, commands=30)
    turns.poll(226, 9000)
    rows = served(turns).requests
    assert [10 * US + 12 * US + 10 * US] == rows["held_ns"].to_list()
    assert [False] == rows["several"].to_list()


def test_a_pipeline_is_told_apart_from_single_commands() -> None:
    """How many commands it held is not known; that there were several is."""
    turns = one_turn()
    turns.read(A, 9000, "GET", "user:*", commands=10)
    turns.write(A, 9100, commands=36)
    table = told(turns)
    assert [("HGETALL", 1), ("GET", None), ("GET", 1), ("SET", 1)] == [(one.verb, one.calls) for one in table.rows]
    assert any("several commands" in note for note in table.notes)


def test_culpas_own_requests_are_in_no_row() -> None:
    """A busy loop of its PINGs is its own; others who wait behind it wait behind nobody's command."""
    turns = one_turn()
    for number in range(50):
        turns.read(OWN, 1000 + 100 * number, "PING")
        turns.write(OWN, 1090 + 100 * number)
    table = told(turns)
    assert ["HGETALL", "GET", "SET"] == [one.verb for one in table.rows]
    assert pytest.approx(50 * 95e-6) == table.own_seconds


def test_a_client_is_called_by_its_address_and_the_name_it_gave_itself() -> None:
    """Ports are left out: one program opens many."""
    table = told(one_turn())
    assert ["10.0.0.2:* (name=report)"] == [one.name for one in row(table, "HGETALL").askers]
    assert ["10.0.0.1:*"] == [one.name for one in row(table, "GET").askers]


def test_the_table_is_bounded_and_loses_no_time() -> None:
    """Of 30 patterns the 20 with most time have rows, the others are summed."""
    turns = Turns()
    turns.poll(0, 100)
    for number in range(30):
        turns.read(A, 100 + 20 * number, "GET", f"kind{chr(97 + number % 26)}{'x' * (number // 26)}:*")
        turns.write(A, 112 + 20 * number)
    turns.poll(705, 9000)
    table = told(turns)
    assert (20, 10, 10) == (len(table.rows), table.other_rows, table.other_requests)
    assert pytest.approx(30 * 17e-6) == sum(one.seconds for one in table.rows) + table.other_seconds


def test_a_server_that_nobody_asked_has_no_table() -> None:
    """Neither in the verdict nor on the page."""
    turns = Turns()
    turns.poll(0, 9000)
    turns.read(OWN, 9000, "PING")
    turns.write(OWN, 9010)
    verdict = judge(turns.capture())
    assert () == verdict.commands
    assert "commands" not in render(verdict, width=80, color=False)


def test_a_hostile_key_does_no_harm_on_a_narrow_terminal() -> None:
    """No control character, no markup, no line wider than the terminal."""
    turns = one_turn()
    turns.read(A, 9000, "GET", HOSTILE)
    turns.write(A, 9900)
    page = render(judge(turns.capture()), width=40, color=False)
    assert "commands" in page
    assert max(len(line) for line in page.splitlines()) <= 40
    assert not set(page) & {"\x1b", "\u202e"}


def test_where_io_threads_read_the_table_is_of_the_servers_counters() -> None:
    """What a message held the main thread for is then not seen, and nothing is made up."""
    capture = one_turn().capture()
    rows = capture.tables["messages"]
    capture.tables["messages"] = rows.with_columns(tid=rows["tid"] + 1)
    assert () == judge(capture).commands
