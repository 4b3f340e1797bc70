"""Which end of a connection asks and which answers, where the bytes do not say."""

from __future__ import annotations

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.manifest import Cost, Evidence, Host, Manifest, Target, Window
from culpa.model import requests

MS = 1_000_000
SERVER, CLIENT = 700, 800
ACCEPTED, CONNECTED = 71, 81
HOST = Host(kernel="6.1", machine="x86_64", cpus=2, memory_bytes=1 << 30, page_bytes=4096, ticks_per_second=100)


def capture(sockets: list[dict[str, object]], messages: list[tuple[int, int, int, str]]) -> Capture:
    """A capture of some sockets and of messages: pid, socket, moment (ns) and direction of each."""
    pids, inos, moments, directions = zip(*messages, strict=True)
    rows = {"pid": pids, "tid": pids, "ino": inos, "enter_ns": moments, "exit_ns": [at + 1 for at in moments],
            "direction": directions, "protocol": ["unknown"] * len(pids), "kind": ["data"] * len(pids)}  # fmt: skip
    names = sorted({name for row in sockets for name in row})
    tables = {
        "messages": schema.MESSAGES.frame(rows),
        "sockets": schema.SOCKETS.frame({name: [row.get(name) for row in sockets] for name in names}),
    }
    manifest = Manifest(
        culpa_version="0",
        host=HOST,
        target=Target(kind="process", name="x", pids=(CLIENT,)),
        window=Window(start_ns=0, end_ns=100 * MS, start_realtime_ns=0, ended_by="limit"),
        evidence=Evidence(waits="events"),
        cost=Cost(events=len(pids), lost_events=0),
    )
    return Capture(manifest=manifest, tables=tables)


def test_a_unix_server_met_while_it_answers_is_still_the_server() -> None:
    """The accepted socket bears the listener's name; the first message seen of the server is an answer."""
    sockets: list[dict[str, object]] = [
        {"ino": ACCEPTED, "family": "unix", "local_addr": "/run/db.sock", "peer_ino": CONNECTED, "pid": SERVER},
        {"ino": CONNECTED, "family": "unix", "local_addr": None, "peer_ino": ACCEPTED, "pid": CLIENT},
    ]
    messages = [(CLIENT, CONNECTED, 0, "out")]
    for turn in range(1, 4):
        messages += [
            (SERVER, ACCEPTED, turn * MS, "out"),
            (CLIENT, CONNECTED, turn * MS + 2, "in"),
            (CLIENT, CONNECTED, turn * MS + 10, "out"),
            (SERVER, ACCEPTED, turn * MS + 20, "in"),
        ]
    found = requests.find(capture(sockets, messages))
    assert dict(found.exchanges.select("pid", "role").unique().iter_rows()) == {SERVER: "server", CLIENT: "client"}
    asked = (found.exchanges["role"] == "client").to_numpy() & found.exchanges["ask_start_ns"].is_not_null().to_numpy()
    assert int((found.server_of[asked] >= 0).sum()) == 3
