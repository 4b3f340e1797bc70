"""Another host, as far as the kernel can tell: `python distant_host.py INTERFACE ADDRESS PORT PAUSE-SECONDS [LOSS]`.

It makes the TUN device INTERFACE, takes the packets that the kernel routes into it and answers with packets of its own,
as the far end of a tunnel does: no socket on this machine holds ADDRESS. Just enough IPv4 and TCP (RFC 9293) for short
conversations: one line is asked, `later` answered after PAUSE-SECONDS, all else at once. The way to PORT loses nothing.
LOSS is `PORT WHAT CHANCE SEED`: on the way to that other port each copy of a `question`, or of what asks for a
`connection`, gets lost by that chance; no more of one conversation than `MOST_LOST`, and none after a SIGUSR1.
It must not import culpa: labs copy it out of the package and run it as anybody's program.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
"""linux/if_tun.h: packets from the IP header on, nothing before it."""
PACKET_BYTES = 65535
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
WINDOW_BYTES = 65535
FIRST_SEQUENCE = 1000
MODULUS = 1 << 32
IP_HEADER, TCP_HEADER = struct.Struct("!BBHHHBBH4s4s"), struct.Struct("!HHIIBBHHH")
ANSWER = b"answered from afar\n"
MOST_LOST = 3

Peer = tuple[bytes, int, int]
"""Address and port of a client, and the port that it asks."""


@dataclass
class Conversation:
    """One connection: the next sequence number of each side, and what was asked so far."""

    expected: int
    own: int = FIRST_SEQUENCE
    asked: bytes = b""
    answered: bool = False


@dataclass(frozen=True)
class Segment:
    """A TCP segment that came in."""

    peer: Peer
    sequence: int
    flags: int
    data: bytes

    @property
    def port(self) -> int:
        """Where it was sent to."""
        return self.peer[2]


@dataclass
class Loss:
    """What gets lost on the way to one port."""

    port: int = 0
    what: str = ""
    chance: float = 0.0
    drawn: random.Random = field(default_factory=random.Random)
    count: dict[Peer, int] = field(default_factory=dict)

    def takes(self, segment: Segment) -> bool:
        """Whether this copy gets lost."""
        opens = bool(segment.flags & SYN)
        meant = opens if self.what == "connection" else bool(segment.data)
        if segment.port != self.port or not meant:
            return False
        so_far = self.count.get(segment.peer, 0)
        lost = so_far < MOST_LOST and self.drawn.random() < self.chance
        self.count[segment.peer] = so_far + 1 if lost else 0
        return lost

    def end(self, *_: object) -> None:
        """From now on nothing gets lost."""
        self.chance = 0.0


class Host:
    """The far end of the tunnel."""

    def __init__(self, tunnel: int, address: str, port: int, pause_s: float, loss: Loss) -> None:
        self.tunnel, self.address, self.ports, self.pause_s = tunnel, socket.inet_aton(address), {port}, pause_s
        self.conversations: dict[Peer, Conversation] = {}
        self.due: list[tuple[float, Peer]] = []
        self.loss = loss
        self.ports |= {loss.port}

    def live(self) -> None:
        """Take packets and send answers that are due, until stopped."""
        while True:
            wait_s = max(0.0, self.due[0][0] - time.monotonic()) if self.due else None
            if select.select([self.tunnel], [], [], wait_s)[0]:
                segment = parsed(os.read(self.tunnel, PACKET_BYTES))
                if segment is not None and segment.port in self.ports and not self.loss.takes(segment):
                    self.take(segment)
            while self.due and self.due[0][0] <= time.monotonic():
                self.answer(heapq.heappop(self.due)[1])

    def take(self, segment: Segment) -> None:
        """One step of a connection."""
        if segment.flags & RST:
            self.conversations.pop(segment.peer, None)
        elif segment.flags & SYN:
            begun = self.conversations[segment.peer] = Conversation(expected=(segment.sequence + 1) % MODULUS)
            self.send(segment.peer, begun, SYN | ACK)
            begun.own += 1
        elif segment.peer in self.conversations:
            self.go_on(segment, self.conversations[segment.peer])

    def go_on(self, segment: Segment, conversation: Conversation) -> None:
        """Data and the end of a connection; what was seen before is acknowledged again."""
        if not segment.data and not segment.flags & FIN:
            return
        if segment.sequence == conversation.expected:
            ended = bool(segment.flags & FIN)
            conversation.expected = (conversation.expected + len(segment.data) + ended) % MODULUS
            conversation.asked += segment.data
            if segment.data.endswith(b"\n"):
                pause_s = self.pause_s if conversation.asked.startswith(b"later") else 0.0
                heapq.heappush(self.due, (time.monotonic() + pause_s, segment.peer))
            if ended and conversation.answered:
                del self.conversations[segment.peer]
        self.send(segment.peer, conversation, ACK)

    def answer(self, peer: Peer) -> None:
        """Answer and close."""
        conversation = self.conversations.get(peer)
        if conversation is not None and not conversation.answered:
            self.send(peer, conversation, PSH | ACK | FIN, ANSWER)
            conversation.own += len(ANSWER) + 1
            conversation.answered = True

    def send(self, peer: Peer, conversation: Conversation, flags: int, data: bytes = b"") -> None:
        """One segment in one packet."""
        address, port, own_port = peer
        fields = (own_port, port, conversation.own, conversation.expected, TCP_HEADER.size // 4 << 4, flags)
        bare = TCP_HEADER.pack(*fields, WINDOW_BYTES, 0, 0)
        length = len(bare) + len(data)
        pseudo = self.address + address + struct.pack("!BBH", 0, socket.IPPROTO_TCP, length)
        header = TCP_HEADER.pack(*fields, WINDOW_BYTES, checksum(pseudo + bare + data), 0)
        total = IP_HEADER.size + length
        ip = (0x45, 0, total, 0, 0, 64, socket.IPPROTO_TCP)
        sums = checksum(IP_HEADER.pack(*ip, 0, self.address, address))
        os.write(self.tunnel, IP_HEADER.pack(*ip, sums, self.address, address) + header + data)


def parsed(packet: bytes) -> Segment | None:
    """The TCP segment in an IPv4 packet; None for anything else."""
    if len(packet) < IP_HEADER.size + TCP_HEADER.size or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
        return None
    start, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4])
    source, port, sequence, _, offset, flags, *_ = TCP_HEADER.unpack_from(packet, start)
    data = packet[start + (offset >> 4) * 4 : total]
    return Segment(peer=(packet[12:16], source, port), sequence=sequence, flags=flags, data=data)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def main() -> None:
    """Make the device and live behind it; it goes with this program."""
    interface, address, port, pause_s, *lost = sys.argv[1:]
    loss = Loss()
    if lost:
        drawn = random.Random(lost[3])  # noqa: S311  # no secrets
        loss = Loss(port=int(lost[0]), what=lost[1], chance=float(lost[2]), drawn=drawn)
    signal.signal(signal.SIGUSR1, loss.end)
    tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tunnel, TUNSETIFF, struct.pack("16sH14x", interface.encode(), IFF_TUN | IFF_NO_PI))
    Host(tunnel, address, int(port), float(pause_s), loss).live()


if __name__ == "__main__":
    main()
