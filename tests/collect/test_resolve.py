"""Targets become the right processes, and processes lead to those they talk to."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from living import line_of, network_namespace, running, states_of_threads, wait_until

from culpa.collect.processes import process_rows, socket_rows, task_rows, thread_state_rows
from culpa.collect.procfs import PROC
from culpa.collect.resolve import local_addresses, peers_of, processes_of, resolve
from culpa.errors import CulpaError, UsageError
from culpa.target import parse_target

LISTEN = "import socket,sys; s=socket.create_server(('127.0.0.1',0)); print(s.getsockname()[1]); sys.stdin.read()"
SERVE = """
import socket, sys, os
s = socket.create_server((sys.argv[1], int(sys.argv[2])))
print(s.getsockname()[1])
c, _ = s.accept()
print("accepted")
sys.stdin.read()
"""
FORKED = """
import os, socket, sys
s = socket.create_server(("127.0.0.1", 0))
pid = os.fork()
if pid:
    print(s.getsockname()[1], pid)
sys.stdin.read()
"""
FORKED_FOR_ONE = """
import os, socket, sys
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1])
c, _ = s.accept()
pid = os.fork()
if pid:
    c.close()
else:
    s.close()
    print(os.getpid())
sys.stdin.read()
"""
THREADS = """
import sys, threading, time
for _ in range(3):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("up")
sys.stdin.read()
"""


def test_pid_and_thread_id() -> None:
    """A thread's number means its process; a number without process ends in a sentence and exit code 1."""
    with running(THREADS) as child:
        line_of(child)
        tids = sorted(int(entry.name) for entry in Path(f"/proc/{child.pid}/task").iterdir())
        assert 4 == len(tids)
        assert [(child.pid,)] * 4 == [processes_of(parse_target(str(tid))) for tid in tids]
    with pytest.raises(CulpaError, match="there is no process 4194305") as caught:
        processes_of(parse_target("4194305"))
    assert 1 == caught.value.exit_code


def test_port_names_every_process_behind_it() -> None:
    """A parent and its forked worker share the listening socket."""
    with running(FORKED) as child:
        port, worker = map(int, line_of(child).split())
        try:
            assert tuple(sorted((child.pid, worker))) == processes_of(parse_target(f":{port}"))
        finally:
            os.kill(worker, 9)


def test_url_of_this_host_and_of_another() -> None:
    """A local address leads to the listener; a foreign one to none, with the reason."""
    with running(LISTEN) as child:
        port = int(line_of(child))
        assert (child.pid,) == processes_of(parse_target(f"http://localhost:{port}/x"))
        assert (child.pid,) == processes_of(parse_target(f"redis://u:p@127.0.0.1:{port}/0"))
        with pytest.raises(CulpaError, match="nobody listens"):
            processes_of(parse_target(f"http://127.0.0.2:{port}/"))
    far = resolve(parse_target("http://192.0.2.77:80/"))
    assert () == far.pids
    assert "192.0.2.77" in str(far.reason)


def test_port_without_listener() -> None:
    """A sentence and the way out."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(CulpaError, match="nobody listens") as caught:
            processes_of(parse_target(f":{bound.getsockname()[1]}"))
    assert "ss -ltn" in caught.value.way_out


def test_unix_socket_path(tmp_path: Path) -> None:
    """`unix://PATH` leads to the process that listens there."""
    path = tmp_path / "a b.sock"
    code = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(); sys.stdin.read()"
    )
    with running(code, str(path)) as child:
        line_of(child)
        assert (child.pid,) == processes_of(parse_target(f"unix://{tmp_path}/a%20b.sock"))


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A program whose name nobody else has, longer than the kernel keeps."""
    found = shutil.which("sleep")
    assert found
    name = f"culpa-test-long-name-{os.getpid()}"
    shutil.copy(found, tmp_path / name)
    return str(tmp_path / name)


SPAWN = """
import subprocess, sys
children = [subprocess.Popen([sys.argv[1], "60"]) for _ in range(int(sys.argv[2]))]
print(*[child.pid for child in children])
sys.stdin.read()
"""


def test_name_of_one_process(program: str) -> None:
    """By name though it is longer than the kernel keeps, and by the path of the program."""
    with running(SPAWN, program, "1") as child:
        pid = int(line_of(child))
        try:
            assert (pid,) == processes_of(parse_target(Path(program).name))
            assert (pid,) == processes_of(parse_target(program))
        finally:
            os.kill(pid, 9)


def test_several_of_one_name_are_listed(program: str) -> None:
    """Siblings do not belong together: exit code 2, both pids, never the first one."""
    with running(SPAWN, program, "2") as child:
        pids = [int(pid) for pid in line_of(child).split()]
        try:
            with pytest.raises(UsageError) as caught:
                processes_of(parse_target(Path(program).name))
            assert all(f"  {pid}  {program} 60" in str(caught.value) for pid in pids)
        finally:
            for pid in pids:
                os.kill(pid, 9)


def test_parent_and_child_of_one_name_belong_together(tmp_path: Path) -> None:
    """A forked worker is of its parent's family."""
    name = f"culpa-fork-{os.getpid() % 1000}"
    link = tmp_path / name
    link.write_text(f"#!{sys.executable}\n{FORKED}")
    link.chmod(0o755)
    with running(f"import os; os.execv({str(link)!r}, [{str(link)!r}])") as child:
        worker = int(line_of(child).split()[1])
        try:
            assert tuple(sorted((child.pid, worker))) == processes_of(parse_target(name))
        finally:
            os.kill(worker, 9)


def test_unknown_name() -> None:
    """Exit code 1 and what to try."""
    with pytest.raises(CulpaError, match="no process named"):
        processes_of(parse_target("no-such-program-anywhere"))


def test_host_capture_and_command_have_no_processes_yet() -> None:
    """And say why."""
    assert () == resolve(parse_target(None)).pids
    assert resolve(parse_target(None)).reason


def test_peers_over_tcp_both_ways() -> None:
    """Client and server find each other, and the rows carry both ends."""
    with (
        running(SERVE, "127.0.0.1", "0") as server,
        socket.create_connection(("127.0.0.1", int(line_of(server)))) as client,
    ):
        line_of(server)
        assert server.pid in peers_of([os.getpid()])
        assert {os.getpid()} == peers_of([server.pid])
        rows = socket_rows([server.pid])
        mine = rows.filter(ino=os.fstat(client.fileno()).st_ino).to_dicts()[0]
        assert (os.getpid(), client.getsockname()[1]) == (mine["pid"], mine["local_port"])
        assert [server.pid] == rows.filter(ino=mine["peer_ino"])["pid"].to_list()
        assert [True] == rows.filter(pid=server.pid, listening=True)["listening"].to_list()


def test_who_is_forked_for_a_connection_serves_on_the_port_of_its_parent() -> None:
    """It has closed the listening socket, as database servers do; that socket has a row all the same."""
    with running(FORKED_FOR_ONE) as parent, socket.create_connection(("127.0.0.1", int(line_of(parent)))) as client:
        port, worker = client.getpeername()[1], int(line_of(parent))
        rows = socket_rows([worker])
        (serving,) = rows.filter(pid=worker, listening=False).to_dicts()
        (listener,) = rows.filter(listening=True).to_dicts()
    assert (port, None) == (listener["local_port"], listener["pid"])
    assert port == serving["local_port"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="making a network namespace needs root")
def test_peer_port_and_address_in_another_network_namespace() -> None:
    """As with a container on a bridge: found by port, by address, and as a peer of its client."""
    with network_namespace("peer") as name:
        near, far = f"cuT{os.getpid() % 100000}", f"cuF{os.getpid() % 100000}"
        for command in (
            f"ip link add {near} type veth peer name {far} netns {name}",
            f"ip addr add 198.18.77.1/30 dev {near}", f"ip link set {near} up",
            f"ip -n {name} addr add 198.18.77.2/30 dev {far}", f"ip -n {name} link set {far} up",
        ):  # fmt: skip
            subprocess.run(command.split(), check=True)
        with running(SERVE, "198.18.77.2", "0", prefix=("ip", "netns", "exec", name)) as server:
            port = int(line_of(server))
            assert (server.pid,) == processes_of(parse_target(f":{port}"))
            assert (server.pid,) == processes_of(parse_target(f"http://198.18.77.2:{port}/"))
            assert "198.18.77.2" in local_addresses(PROC, server.pid)
            with socket.create_connection(("198.18.77.2", port)):
                line_of(server)
                assert server.pid in peers_of([os.getpid()])


def test_process_task_and_state_rows() -> None:
    """Counts and identities against what was started; a pid without process keeps its role alone."""
    with running(THREADS) as child:
        line_of(child)
        row, gone = process_rows({child.pid: "target", 4194305: "peer"}).to_dicts()
        assert (child.pid, os.getpid(), "target") == (row["pid"], row["ppid"], row["role"])
        assert os.path.realpath(sys.executable) == row["exe"]
        assert (4194305, "peer", None) == (gone["pid"], gone["role"], gone["comm"])
        assert 4 == task_rows([child.pid], watched_ns=5).filter(watched_ns=5, kernel=False).height
        wait_until(lambda: states_of_threads(child.pid) == ["S"] * 4)
        states = thread_state_rows([child.pid])
        assert {"S"} == set(states["state"])
        assert child.pid in states["tid"].to_list()
    assert 0 == thread_state_rows([4194305]).height


def test_the_signals_that_a_process_handles() -> None:
    """Those it has a handler for, not those it ignores or leaves as they are."""
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGUSR2, print); signal.signal(signal.SIGHUP, print)\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL); signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "print('ready'); time.sleep(60)"
    )
    with running(code) as child:
        line_of(child)
        (row,) = process_rows({child.pid: "target"}).to_dicts()
    assert "HUP USR2" == row["caught"]
