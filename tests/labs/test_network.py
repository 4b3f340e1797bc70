"""A peer in another network namespace, and a host at the end of a tunnel: what the kernel says they are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import lab_host
import pytest

from culpa.labs import ledger, leftovers, netns, site, stand, tunnel
from culpa.labs.places import PREFIX, Places

pytestmark = pytest.mark.root
PORT = 4321
PAUSE_S = 1.0
"""Longer than a busy machine holds up an answer that is given at once."""
LAB = """
import sys, time
from pathlib import Path
from culpa.labs import netns, site, tunnel
from culpa.labs.places import Places
base = Path(sys.argv[1])
places = Places(temp=base / "temp", state=base, lock=base / "lock")
with site.opened(print, places=places) as here:
    if sys.argv[2] == "netns":
        netns.start(here, ["sleep", "60"], name="peer")
    else:
        here.stack.enter_context(tunnel.distant_host(here, port=4321, pause_s=0.1))
    print("ready", flush=True)
    time.sleep(60)
"""


def said(address: str, word: str) -> tuple[str, float]:
    """The answer to one word, and how long it took."""
    started = time.monotonic()
    with socket.create_connection((address, PORT), timeout=10) as connection:
        connection.sendall(f"{word}\n".encode())
        answer = connection.recv(100)
        assert connection.recv(100) == b""  # the other end closes in order
    return answer.decode(), time.monotonic() - started


def interfaces() -> list[str]:
    return sorted(path.name for path in Path("/sys/class/net").iterdir())


def sockets_here(address: str) -> int:
    """Sockets of this namespace that are bound to an address, by /proc/net/tcp (little-endian hex)."""
    packed = socket.inet_aton(address)[::-1].hex().upper()
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].startswith(f"{packed}:") for line in lines)


def test_a_peer_in_a_namespace_answers_and_is_a_process_of_this_host(places: Places) -> None:
    """Its namespace is another one; interfaces are as before afterwards."""
    before = interfaces()
    with site.opened(print, places=places) as here:
        file = stand.copied(here, "back.pl", "back.pl")
        peer = netns.start(here, ["perl", str(file), "0.0.0.0", str(PORT), str(PAUSE_S)], name="back")
        lab_host.wait_until(lambda: _listens(peer.program.pid))
        assert Path(f"/proc/{peer.program.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        assert Path(f"/proc/{peer.program.pid}/comm").read_text() == "perl\n"
        now, later = said(peer.address, "now"), said(peer.address, "later")
        assert len(interfaces()) == len(before) + 1
    assert (now[0], later[0]) == ("answered\n", "answered\n")
    assert later[1] >= PAUSE_S > now[1]
    assert before == interfaces()


def _listens(pid: int) -> bool:
    return any(f":{PORT:04X} " in line for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines())


def test_the_distant_host_answers_and_no_socket_here_holds_its_address(places: Places) -> None:
    """It speaks TCP well enough for the kernel, two conversations at a time; its device goes with it."""
    before = interfaces()
    with site.opened(print, places=places) as here, tunnel.distant_host(here, port=PORT, pause_s=PAUSE_S):
        with socket.create_connection((tunnel.THERE, PORT), timeout=10) as waiting:
            waiting.sendall(b"later\n")
            now = said(tunnel.THERE, "now")
            assert sockets_here(tunnel.HERE) >= 1
            assert sockets_here(tunnel.THERE) == 0
            assert waiting.recv(100) == b"answered from afar\n"
        later = said(tunnel.THERE, "later")
        with pytest.raises(TimeoutError):
            socket.create_connection((tunnel.THERE, PORT + 1), timeout=0.3)
    assert now[0] == later[0] == "answered from afar\n"
    assert later[1] >= PAUSE_S > now[1]
    assert before == interfaces()


def test_a_line_in_pieces_is_one_question(places: Places) -> None:
    """Two segments, one answer."""
    with (
        site.opened(print, places=places) as here,
        tunnel.distant_host(here, port=PORT, pause_s=PAUSE_S),
        socket.create_connection((tunnel.THERE, PORT), timeout=10) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"no")
        connection.sendall(b"w\n")
        assert connection.recv(100) == b"answered from afar\n"
        assert connection.recv(100) == b""


@pytest.mark.parametrize("kind", ["netns", "tunnel"])
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_no_interface_is_left_however_it_ends(places: Places, kind: str, ending: signal.Signals) -> None:
    """After SIGKILL the next site removes it, after Ctrl-C there is nothing to remove."""
    before = interfaces()
    lab = subprocess.Popen(
        [sys.executable, "-c", LAB, str(places.state), kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert lab.stdout is not None
    assert lab.stdout.readline() == "ready\n"
    assert len(interfaces()) == len(before) + 1
    lab.send_signal(ending)
    lab.communicate(timeout=30)
    if ending == signal.SIGKILL:
        assert len(interfaces()) == len(before) + 1
    leftovers.remove(places)
    assert before == interfaces()
    assert lab_host.processes_in(places.temp) == []


def test_only_a_named_interface_with_the_prefix_is_removed(places: Places) -> None:
    """One that the ledger does not name stays, and a line of the ledger cannot name one of somebody else."""
    stranger = f"{PREFIX}{os.getpid() % 10000:04d}"
    subprocess.run(["ip", "tuntap", "add", "dev", stranger, "mode", "tun"], check=True)
    try:
        book = ledger.create(places.ledger)
        book.note(ledger.Interface(name="lo"))
        book.close()
        assert leftovers.remove(places) == ()
        assert {stranger, "lo"} <= set(interfaces())
        book = ledger.create(places.ledger)
        book.note(ledger.Interface(name=stranger))
        book.close()
        assert leftovers.remove(places) == (f"network interface {stranger}",)
        assert stranger not in interfaces()
    finally:
        subprocess.run(["ip", "link", "delete", stranger], check=False, capture_output=True)
