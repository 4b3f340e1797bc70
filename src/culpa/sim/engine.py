"""Run a program: a discrete event simulation, the same for the same program, without a kernel or a clock."""

from __future__ import annotations

import random
from collections.abc import Iterator

from culpa.sim.behaviour import Actor
from culpa.sim.beside import Rings, Worker
from culpa.sim.kernel import Channel, Kernel, Lock
from culpa.sim.log import Log, Request, Socket
from culpa.sim.memory import Memory
from culpa.sim.program import Beside, Call, Help, Locked, Op, Program, RemoteClient, Serve, Shared, Thread, Work
from culpa.sim.scheduler import Scheduler
from culpa.sim.sockets import Chunk, Listener, Sockets
from culpa.sim.storage import Storage

MARGIN_NS = 1_000_000
"""How long the simulation goes on after the window, so that nothing of the truth ends with it."""


def run(program: Program) -> Log:
    """Simulate a program from 0 to a little after its window and return everything that happened."""
    log = Log()
    sched = Scheduler(machine=program.machine, rng=random.Random(program.seed), log=log)
    kernel = Kernel(program=program, sched=sched, log=log)
    sockets, storage = Sockets(kernel=kernel), Storage(kernel=kernel)
    memory = Memory(kernel=kernel, storage=storage)
    rings = Rings(kernel=kernel, storage=storage, workers=_workers(program))
    _listen(sockets)
    _prepare(kernel)
    sched.spawn_at(0, program.journal_tid, storage.journal_thread())
    for process in program.processes:
        for thread in process.threads:
            _start(
                Actor(
                    kernel=kernel, sockets=sockets, storage=storage, rings=rings, memory=memory, pid=process.pid,
                    thread=thread,
                )
            )  # fmt: skip
    for client in program.remote_clients:
        _start_remote(sockets, client)
    sched.run(program.window[1] + MARGIN_NS)
    return log


def _workers(program: Program) -> dict[int, Worker]:
    """The workers of io_uring by the thread they work for."""
    threads = [thread for process in program.processes for thread in process.threads]
    return {one.body.owner_tid: Worker(tid=one.tid) for one in threads if isinstance(one.body, Work)}


def _listen(sockets: Sockets) -> None:
    """A listening socket for every service that a process of this host serves."""
    kernel = sockets.kernel
    servers = {
        thread.body.service: process.pid
        for process in kernel.program.processes
        for thread in process.threads
        if isinstance(thread.body, Serve)
    }
    for service in kernel.program.services:
        if service.name in servers:
            pid, ino = servers[service.name], kernel.number()
            sockets.listeners[service.name] = Listener(service=service, pid=pid, ino=ino)
            kernel.log.sockets.append(
                Socket(
                    ino=ino,
                    pid=pid,
                    local_port=service.port,
                    peer_port=None,
                    peer_ino=None,
                    remote=False,
                    listening=True,
                )
            )


def _prepare(kernel: Kernel) -> None:
    """The channels and locks that the program names."""
    for process in kernel.program.processes:
        for thread in process.threads:
            if isinstance(thread.body, Help):
                base = 0x7F00_0000_0000 + 256 * thread.tid
                kernel.channels[thread.body.helper] = Channel(
                    kind=thread.body.channel,
                    helper_tid=thread.tid,
                    ino=kernel.number(),
                    back_ino=kernel.number(),
                    uaddr=base,
                    back_uaddr=base + 64,
                )
            for op in _ops(thread):
                name = op.lock if isinstance(op, Locked) else op.file if isinstance(op, Shared) else None
                if name is not None and name not in kernel.locks:
                    number = len(kernel.locks)
                    kernel.locks[name] = Lock(number=number, uaddr=0x6000_0000_0000 + 64 * number)


def _start(actor: Actor) -> None:
    body = actor.thread.body
    if isinstance(body, Serve) and body.style == "epoll":
        actor.sockets.listeners[body.service].polls.append((actor.tid, actor.polled))
    actor.kernel.sched.spawn_at(actor.thread.start_ns, actor.tid, actor.live())


def _start_remote(sockets: Sockets, client: RemoteClient) -> None:
    """A client on another host is no thread: its requests arrive, and its next one follows the answer."""
    left = client.times
    call = Call(service=client.service, verb=client.verb, detail=client.detail)

    def ask() -> None:
        nonlocal left
        if left:
            left -= 1
            requests: tuple[Request, ...] = sockets.new_requests(None, call)
            sockets.deliver(end, Chunk(requests=requests, kind="request", last=True, bytes=120), None)

    def answered(chunk: Chunk) -> None:
        if chunk.last:
            sockets.kernel.sched.after(client.think_ns, ask)

    end = sockets.connect_from_afar(client.service, answered)
    sockets.kernel.sched.after(client.think_ns, ask)


def _ops(thread: Thread) -> Iterator[Op]:
    """Every operation a thread may do, those under locks and beside others included."""
    body = thread.body
    if isinstance(body, Work):
        return
    tops = (*(op for ops in body.handlers.values() for op in ops), *body.flush) if isinstance(body, Serve) else body.ops
    for op in tops:
        yield op
        if isinstance(op, Locked):
            yield from op.ops
        if isinstance(op, Beside):
            yield from op.meanwhile
