"""The same redis-server under other tracers that do the same work: every system call with its time.

strace stops the target at each call, `perf trace -s` and bpftrace sum up. Their output goes to /dev/null, which spares
them the writing. A tool that is not installed, or refuses, is a row without a value.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from measure import Effort, Row
from stand import BenchError, Load, Server, Stretch, redis_server
from target_cost import case_name, compared, rounds

READY_SECONDS: Final = 15.0
STOP_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.02
CASES: Final = (("GET", 1), ("GET", 50))
BPFTRACE: Final = """
BEGIN { printf("ready\\n"); }
tracepoint:raw_syscalls:sys_enter /pid == PID/ { @began[tid] = nsecs; }
tracepoint:raw_syscalls:sys_exit /@began[tid]/ {
    @calls[args->id] = count(); @ns[args->id] = sum(nsecs - @began[tid]); delete(@began[tid]);
}
tracepoint:sched:sched_switch /pid == PID/ { @off[tid] = nsecs; }
tracepoint:sched:sched_switch /@off[args->next_pid]/ {
    @wait_ns = hist(nsecs - @off[args->next_pid]); delete(@off[args->next_pid]);
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One tool: its program, its arguments for a pid, and how to know that it is attached."""

    program: str
    shown: str
    arguments: Callable[[int], list[str]]
    attached: Callable[[int, int], bool]
    """Of the target's pid and the tool's."""


def _is_ptraced(target: int, _tool: int) -> bool:
    status = Path(f"/proc/{target}/status").read_text()
    return re.search(r"^TracerPid:\t[1-9]", status, re.MULTILINE) is not None


def _has_perf_events(_target: int, tool: int) -> bool:
    """It has opened its events, and sleeps until they come."""
    links = [str(link.readlink()) for link in Path(f"/proc/{tool}/fd").iterdir() if link.is_symlink()]
    asleep = Path(f"/proc/{tool}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    return asleep and any("perf_event" in link for link in links)


PEERS: Final = (
    Peer(
        program="strace",
        shown="strace -f -T",
        arguments=lambda pid: ["-f", "-T", "-o", "/dev/null", "-p", str(pid)],
        attached=_is_ptraced,
    ),
    Peer(
        program="perf",
        shown="perf trace -s",
        arguments=lambda pid: ["trace", "-s", "-o", "/dev/null", "-p", str(pid)],
        attached=_has_perf_events,
    ),
    Peer(
        program="bpftrace",
        shown="bpftrace",
        arguments=lambda pid: ["-o", "/dev/null", "-e", BPFTRACE.replace("PID", str(pid))],
        attached=_has_perf_events,
    ),
)


@contextmanager
def attached(peer: Peer, target: int) -> Iterator[None]:
    """Run the tool on the target.

    Raises:
        BenchError: it ended at once, or did not attach in time.
    """
    argv = [peer.program, *peer.arguments(target)]
    popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_attached(peer, target, popen)
        yield
    finally:
        _interrupt(popen)


def _wait_attached(peer: Peer, target: int, popen: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while popen.poll() is None:
        try:
            if peer.attached(target, popen.pid):
                return
        except FileNotFoundError:
            pass  # a descriptor was closed while it was looked at, or the tool has just ended
        if time.monotonic() > deadline:
            raise BenchError("it did not attach")
        time.sleep(LOOK_SECONDS)
    assert popen.stderr is not None
    words = popen.stderr.read(300).decode(errors="replace").split("\n")[0]
    raise BenchError(f"it refused: {words}")


def _interrupt(popen: subprocess.Popen[bytes]) -> None:
    """Ctrl-C is how each of them is told to detach."""
    popen.send_signal(signal.SIGINT)
    try:
        popen.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.communicate()


def measure(effort: Effort) -> Iterator[Row]:
    """Each tool against the untraced server, in pairs."""
    with redis_server() as server:
        for command, clients in CASES:
            with server.loader(command, clients) as load:
                for peer in PEERS:
                    name = f"{case_name(command, clients)}, {peer.shown}"
                    yield from _one(name, peer, server, load, effort)


def _one(name: str, peer: Peer, server: Server, load: Load, effort: Effort) -> Iterator[Row]:
    if shutil.which(peer.program) is None:
        yield Row(name=f"{name} (not installed)", value=None, unit="% more")
        return
    seconds = effort.choose(0.6, 0.25)

    def with_peer() -> Stretch:
        with attached(peer, server.pid):
            return load.stretch(seconds)

    try:
        arms = {"untraced": lambda: load.stretch(seconds), "peer": with_peer}
        found = rounds(load, arms, effort.times(4, 1))
    except BenchError as error:
        yield Row(name=f"{name} ({error})", value=None, unit="% more")
        return
    yield from compared(name, found["peer"], found["untraced"])
