"""Sockets of the host: parsers, pairing of ends, holders, all against sockets made here."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from living import line_of, network_namespace, running

from culpa.collect.procfs import PROC
from culpa.collect.sockdiag import unix_peers
from culpa.collect.sockets import (
    Holders,
    Socket,
    SocketTable,
    _tcp_peers,
    parse_net_tcp,
    parse_net_unix,
    plain_address,
    socket_inodes,
)

TCP = b"""  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1247 1 0 100 0 0 10 0
   1: 0100007F:18EB 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 1300 1 0 20 4 30 10 -1
   2: 0100007F:D431 0100007F:18EB 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0
"""
TCP6 = b"""  sl  local_address remote_address st
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1
   1: 0000000000000000FFFF00000100007F:0050 0000000000000000FFFF00000200007F:9C40 01 0:0 00:0 0 0 0 78 1
"""
UNIX = b"""Num       RefCount Protocol Flags    Type St Inode Path
000000004e3adb49: 00000002 00000000 00010000 0001 01 20 /run/my redis.sock
0000000075fe37cb: 00000003 00000000 00000000 0001 03 21
0000000075fe37cc: 00000003 00000000 00000000 0001 03 22 @abstract
torn line
"""


def test_tcp_table() -> None:
    """Addresses in the host's byte order; what is in TIME_WAIT belongs to nobody."""
    listening, connected = parse_net_tcp(TCP, family="tcp", netns=5)
    assert ("127.0.0.1", 6379, None, True, 1247) == (
        listening.local_addr, listening.local_port, listening.peer_port, listening.listening, listening.ino,
    )  # fmt: skip
    assert ("127.0.0.1", 54321, False) == (connected.peer_addr, connected.peer_port, connected.listening)


def test_tcp6_table() -> None:
    """IPv6 in words; IPv4 mapped into it is shown as IPv4."""
    listening, connected = parse_net_tcp(TCP6, family="tcp6", netns=None)
    assert ("::1", 80) == (listening.local_addr, listening.local_port)
    assert ("127.0.0.1", "127.0.0.2", 40000) == (connected.local_addr, connected.peer_addr, connected.peer_port)


def test_unix_table() -> None:
    """Names with blanks, without name, abstract."""
    found = list(parse_net_unix(UNIX, netns=None))
    assert [(20, "/run/my redis.sock", True), (21, None, False), (22, "@abstract", False)] == [
        (s.ino, s.local_addr, s.listening) for s in found
    ]


def test_plain_addresses() -> None:
    """Zones and mapped forms."""
    assert "fe80::1" == plain_address("fe80::1%eth0")
    assert "10.0.0.1" == plain_address("::ffff:10.0.0.1")


def test_both_ends_of_a_connection_find_each_other() -> None:
    """TCP and unix, by the inodes that fstat knows."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        one, two = socket.socketpair()
        with accepted, one, two:
            inode = {name: os.fstat(s.fileno()).st_ino for name, s in locals().items() if isinstance(s, socket.socket)}
            known = SocketTable.read(PROC).by_ino()
            assert inode["accepted"] == known[inode["client"]].peer_ino
            assert inode["client"] == known[inode["accepted"]].peer_ino
            assert inode["two"] == unix_peers()[inode["one"]] == known[inode["one"]].peer_ino
            assert {inode["server"]: [os.getpid()]} == Holders(PROC).of({inode["server"]})
            assert set(inode.values()) <= set(socket_inodes(PROC, os.getpid()))


def test_every_listener_of_ss_is_seen() -> None:
    """The ports that ss lists in this namespace are the ports in the table."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        table = SocketTable.read(PROC)
        told = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
        ports = {int(line.split()[3].rpartition(":")[2]) for line in told.splitlines()}
        assert port in ports
        assert 1 == len(table.listeners(port))


def test_an_unaccepted_connection_leads_to_the_listener() -> None:
    """The server is busy: the other end has no inode yet."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        table = SocketTable.read(PROC)
        waiting = table.by_ino()[os.fstat(client.fileno()).st_ino]
        assert waiting.peer_ino is None
        assert [os.fstat(server.fileno()).st_ino] == [s.ino for s in table.listener_of_unaccepted(waiting)]


def end(ino: int, netns: int, local: tuple[str, int], peer: tuple[str, int]) -> Socket:
    """A connected TCP socket."""
    return Socket(
        ino=ino,
        netns=netns,
        family="tcp",
        local_addr=local[0],
        local_port=local[1],
        peer_addr=peer[0],
        peer_port=peer[1],
    )


def test_pairing_across_namespaces_guesses_nothing() -> None:
    """One foreign mirror is the peer, though it be named twice; two are none; loopback never leaves its namespace."""
    a, b = ("10.0.0.1", 5), ("10.0.0.2", 6)
    assert {1: 2, 2: 1} == _tcp_peers([end(1, 1, a, b), end(2, 2, b, a)])
    assert 1 not in _tcp_peers([end(1, 1, a, b), end(2, 2, b, a), end(3, 3, b, a)])
    assert {1: 2, 2: 1} == _tcp_peers([end(1, 1, a, b), end(2, 1, b, a), end(1, 1, a, b), end(2, 1, b, a)])
    home = (("127.0.0.1", 5), ("127.0.0.1", 6))
    assert {} == _tcp_peers([end(1, 1, *home), end(2, 2, *home[::-1])])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="making a network namespace needs root")
def test_a_listener_in_another_network_namespace_is_seen() -> None:
    """Its port is found although this namespace does not have it."""
    code = "import socket,sys; s=socket.create_server(('127.0.0.1',0)); print(s.getsockname()[1]); sys.stdin.read()"
    with network_namespace("sockets") as name, running(code, prefix=("ip", "netns", "exec", name)) as child:
        port = int(line_of(child))
        (found,) = [
            s for s in SocketTable.read(PROC).listeners(port) if s.netns != Path("/proc/self/ns/net").stat().st_ino
        ]
        assert Path(f"/proc/{child.pid}/ns/net").stat().st_ino == found.netns
