"""Random programs: chains of services, load on them, neighbours on the device and the CPUs; the same for the same seed.

A service only asks services further down and locks do not nest, so no program can block itself for good.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from culpa.sim.program import (
    Ask,
    Beside,
    Call,
    Compute,
    DirectRead,
    Help,
    Locked,
    Loop,
    Machine,
    Need,
    Op,
    Process,
    Program,
    Protocol,
    RemoteClient,
    Serve,
    Service,
    Shared,
    Sleep,
    Sync,
    Thread,
    Touch,
    Work,
)

VERBS = ("GET", "PUT", "LIST")
FOREVER = 10_000
_US, _MS = 1_000, 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Nature:
    """How nasty a program is; all off is a world in which everything is seen.

    locks: locks and helper threads, which the wait graph does not explain yet. split: requests and answers in two
    writes. pipelined: several requests in one write. middle: the window opens and ends in the middle of things.
    late: peers and the journal are watched late, clients not at all. bystanders: wakers are often not the true ones.
    inside: bytes arrive before the write that carries them has ended. shared: files to which several write at once.
    beside: requests to io_uring and libaio. memory: too little of it, on the host and in control groups.
    """

    locks: bool = False
    split: bool = False
    pipelined: bool = False
    middle: bool = False
    late: bool = False
    bystanders: bool = False
    inside: bool = False
    shared: bool = False
    beside: bool = False
    memory: bool = False


def random_program(seed: int, *, size: int = 2, nature: Nature = Nature()) -> Program:
    """A program of about `size` services below the target's, and as many clients and neighbours."""
    return _Writer(random.Random(seed), size, nature).program(seed)


class _Writer:
    """Makes up one program."""

    def __init__(self, rng: random.Random, size: int, nature: Nature) -> None:
        self._rng, self._size, self._nature = rng, size, nature
        self._tid = 1000
        self._end_ns = rng.randint(10 * _MS, 80 * _MS)
        self._start_ns = rng.randint(2 * _MS, self._end_ns // 2) if nature.middle else 0
        self._services = [self._service(i) for i in range(rng.randint(1, size + 1))]
        self._remote = Service(name="far", port=5432, protocol="unknown", remote_ns=(100 * _US, 3 * _MS))

    def program(self, seed: int) -> Program:
        """All of it."""
        rng, nature = self._rng, self._nature
        servers = [self._server(i) for i in range(len(self._services))]
        clients = [self._client(i) for i in range(rng.randint(1, self._size + 1))]
        neighbours = [self._neighbour(i) for i in range(rng.randint(0, self._size))]
        remote_clients = [
            RemoteClient(
                service=self._services[0].name,
                verb=rng.choice(VERBS),
                detail="/far",
                think_ns=rng.randint(50 * _US, 4 * _MS),
                times=FOREVER,
            )
            for _ in range(rng.randint(0, 1))
        ]
        return Program(
            seed=seed,
            machine=Machine(
                cpus=rng.randint(1, 4),
                slice_ns=rng.choice((200 * _US, 3 * _MS)),
                true_wakers=0.4 if nature.bystanders else 1.0,
                delivery="inside" if nature.inside else "exit",
            ),
            processes=(*servers, *clients, *neighbours),
            services=(*self._services, self._remote),
            remote_clients=tuple(remote_clients),
            target_pid=servers[0].pid,
            journal_watched_ns=self._late(),
            window=(self._start_ns, self._end_ns),
        )

    def _late(self) -> int:
        """Since when something that is not the target is watched."""
        return self._rng.randint(0, self._end_ns) if self._nature.late and self._rng.random() < 0.5 else 0

    def _next_tid(self) -> int:
        self._tid += 1
        return self._tid

    def _service(self, i: int) -> Service:
        protocols: tuple[Protocol, ...] = ("http", "resp", "unknown")
        return Service(
            name=f"s{i}", port=8000 + i, protocol="http" if i == 0 else self._rng.choices(protocols, (2, 5, 1))[0]
        )

    def _server(self, i: int) -> Process:
        rng = self._rng
        helper = f"helper-{i}" if self._nature.locks and rng.random() < 0.5 else None
        handlers = {verb: self._ops(i, helper, rng.randint(1, 4)) for verb in VERBS}
        epoll = rng.random() < 0.6
        flush = (Sync(file=f"/data/log-{i}", journal=rng.random() < 0.7),) if epoll and rng.random() < 0.3 else ()
        body = Serve(
            service=self._services[i].name,
            handlers=handlers,
            style="epoll" if epoll else "accept",
            reply_parts=2 if self._nature.split and rng.random() < 0.5 else 1,
            flush=flush,
            tick_ns=rng.choice((None, 2 * _MS)) if epoll else None,
        )
        workers = rng.randint(1, 3) if epoll else rng.randint(1, 5)
        threads = [self._thread(f"srv{i}", body) for _ in range(workers)]
        if helper is not None:
            threads.append(
                self._thread(f"help{i}", Help(helper=helper, ops=self._quick(i), channel=rng.choice(("pipe", "queue"))))
            )
        threads += self._workers(threads)
        return Process(
            pid=threads[0].tid,
            name=f"server{i}",
            role="peer" if i else "target",
            threads=tuple(threads),
            watched_ns=self._late() if i else 0,
        )

    def _client(self, i: int) -> Process:
        rng = self._rng
        call = self._call(0, fresh=rng.random() < 0.5)
        think: tuple[Op, ...] = rng.choice(((), (Sleep(ns=rng.randint(20 * _US, 3 * _MS)),), (Compute(ns=50 * _US),)))
        thread = self._thread(f"cli{i}", Loop(ops=(call, *think), times=rng.choice((2, FOREVER))))
        watched = not (self._nature.late and rng.random() < 0.5)
        return Process(pid=thread.tid, name=f"client{i}", role="peer", threads=(thread,), watched=watched)

    def _neighbour(self, i: int) -> Process:
        """Somebody with whom the target shares the CPUs, the device and the journal, but no socket."""
        rng, nature = self._rng, self._nature
        habits: list[tuple[Op, ...]] = [
            (Compute(ns=rng.randint(_MS, 5 * _MS)),),
            (Sync(file=f"/data/other-{i}"), Sleep(ns=300 * _US)),
            (DirectRead(file=f"/data/other-{i}"),),
        ]
        if nature.shared:
            habits += [(self._shared(i), Sleep(ns=200 * _US))] * len(habits)
        if nature.beside:
            habits.append((self._beside(f"other-{i}"), Compute(ns=20 * _US)))
        if nature.memory:
            habits.append((self._touch(f"other-{i}"), Compute(ns=20 * _US)))
        thread = self._thread(f"nbr{i}", Loop(ops=rng.choice(habits), times=FOREVER))
        threads = (thread, *self._workers([thread]))
        return Process(pid=thread.tid, name=f"neighbour{i}", role="waker", threads=threads, watched=not nature.late)

    def _thread(self, comm: str, body: Loop | Serve | Help | Work) -> Thread:
        return Thread(tid=self._next_tid(), comm=comm, body=body)

    def _workers(self, threads: list[Thread]) -> list[Thread]:
        """A worker of io_uring for each of them, where there are any."""
        owners = [thread.tid for thread in threads] if self._nature.beside else []
        return [self._thread(f"iou-wrk-{tid}", Work(owner_tid=tid)) for tid in owners]

    def _ops(self, i: int, helper: str | None, count: int) -> tuple[Op, ...]:
        """What service `i` does for one verb."""
        return tuple(self._op(i, helper) for _ in range(count))

    def _op(self, i: int, helper: str | None) -> Op:
        rng, nature = self._rng, self._nature
        if nature.beside and rng.random() < 0.3:
            return self._beside(f"base-{i}")
        if nature.memory and rng.random() < 0.3:
            return self._touch(f"log-{i}")
        dice = rng.random()
        deeper = list(range(i + 1, len(self._services)))
        if dice < 0.35 and deeper:
            return self._call(rng.choice(deeper), fresh=rng.random() < 0.2)
        if dice < 0.42:
            return Call(service="far", verb="GET", wait=rng.choice(("poll", "recv")))
        if dice < 0.60:
            return self._sync(i)
        if dice < 0.65:
            return DirectRead(file=f"/data/cold-{i}")
        if dice < 0.73:
            return Sleep(ns=rng.randint(20 * _US, 2 * _MS))
        if nature.locks and dice < 0.82:
            return Locked(lock=f"lock-{i}", ops=self._quick(i))
        if helper is not None and dice < 0.9:
            return Ask(helper=helper)
        if nature.shared and rng.random() < 0.7:
            return self._shared(i)
        return Compute(ns=rng.randint(5 * _US, 800 * _US))

    def _quick(self, i: int) -> tuple[Op, ...]:
        """What is done under a lock or by a helper."""
        choices: list[Op] = [self._sync(i), Sleep(ns=200 * _US), Compute(ns=300 * _US)]
        if self._nature.beside:
            choices.append(self._beside(f"base-{i}"))
        if self._nature.memory:
            choices.append(self._touch(f"log-{i}"))
        return tuple(self._rng.sample(choices, 2))

    def _beside(self, name: str) -> Beside:
        """Requests to io_uring or libaio; who waits with a timer waits for one."""
        rng = self._rng
        interface: Literal["io_uring", "libaio"] = rng.choice(("io_uring", "libaio"))
        ops: tuple[Literal["read", "write", "fsync"], ...] = ("read", "write", "fsync")
        op = rng.choice(ops if interface == "io_uring" else ops[:2])
        tick = rng.random() < 0.2 and op != "fsync"
        count = 1 if tick else rng.randint(1, 4)
        quick: tuple[tuple[Op, ...], ...] = ((), (), (Compute(ns=rng.randint(5 * _US, 900 * _US)),))
        slow: tuple[tuple[Op, ...], ...] = ((Sleep(ns=rng.randint(20 * _US, _MS)),), (Sync(file=f"/data/{name}"),))
        return Beside(
            file=f"/data/{name}",
            interface=interface,
            op=op,
            count=count,
            least=rng.randint(1, count),
            each=rng.random() < 0.5,
            tick_ns=rng.randint(50 * _US, _MS) if tick else None,
            posts=rng.choice(("worker", "waiter")),
            meanwhile=rng.choice(quick + slow if interface == "libaio" else quick),
        )

    def _touch(self, name: str) -> Touch:
        """A page that is not there."""
        rng = self._rng
        needs: tuple[Need, ...] = ("swap", "host", "group", "compaction", "high")
        need = rng.choice(needs)
        pauses = need in ("compaction", "high") or (need != "swap" and rng.random() < 0.5)
        return Touch(
            need=need,
            pause_ns=rng.randint(50 * _US, 4 * _MS) if pauses else None,
            within=f"/data/{name}" if rng.random() < 0.3 else None,
        )

    def _sync(self, i: int) -> Sync:
        rng = self._rng
        return Sync(file=f"/data/log-{i}", data_only=rng.random() < 0.7, journal=rng.random() < 0.6)

    def _shared(self, i: int) -> Shared:
        return Shared(file=f"/data/shared-{i % 2}", ns=self._rng.randint(5 * _US, 400 * _US))

    def _call(self, i: int, *, fresh: bool) -> Call:
        rng, nature = self._rng, self._nature
        return Call(
            service=self._services[i].name,
            verb=rng.choice(VERBS),
            detail=rng.choice(("/a", "key:*", None)),
            pipeline=rng.randint(1, 4) if nature.pipelined and not fresh else 1,
            parts=2 if nature.split and rng.random() < 0.5 else 1,
            wait=rng.choice(("poll", "recv")),
            fresh=fresh,
        )
