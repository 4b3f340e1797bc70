"""The truth of small programs, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from culpa.sim import engine, truth
from culpa.sim.log import Log
from culpa.sim.program import (
    Call,
    Compute,
    DirectRead,
    Loop,
    Machine,
    Process,
    Program,
    Serve,
    Service,
    Sleep,
    Sync,
    Thread,
)


def _steady(cpus: int) -> Machine:
    """Nothing is left to chance: the way to a call takes 100 ns, a piece of it 1,000, a block 50,000, a flush 70,000;
    a commit writes one block."""
    return Machine(
        cpus=cpus,
        syscall_ns=(1_000, 1_000),
        wake_ns=(0, 0),
        device_ns=(50_000, 50_000),
        flush_ns=(70_000, 70_000),
        journal_blocks=(1, 1),
        user_ns=(100, 100),
    )


def _process(pid: int, body: Loop | Serve, role: str = "peer") -> Process:
    return Process(pid=pid, name=f"p{pid}", role=role, threads=(Thread(tid=pid, comm=f"t{pid}", body=body),))


def _one_request(handler: tuple, *, cpus: int, peer_handler: tuple = ()) -> Program:
    """A client (30) asks a server (10) once; the server may ask another one (20)."""
    return Program(
        seed=1,
        machine=_steady(cpus),
        processes=(
            _process(10, Serve(service="front", handlers={"GET": handler}), role="target"),
            _process(20, Serve(service="back", handlers={"SET": peer_handler})),
            _process(30, Loop(ops=(Sleep(ns=50_000), Call(service="front", verb="GET")), times=1)),
        ),
        services=(
            Service(name="front", port=80, protocol="http"),
            Service(name="back", port=6379, protocol="resp"),
        ),
        target_pid=10,
        window=(0, 2_000_000),
    )


def _told(program: Program) -> list[tuple[int, str, tuple[int, ...], tuple[str, ...]]]:
    """The one root, leaf by leaf, neighbours of the same name joined: length, kind, chain, edges."""
    log = engine.run(program)
    (root,) = truth.roots(program, log)
    told: list[tuple[int, str, tuple[int, ...], tuple[str, ...]]] = []
    for leaf in truth.explain(program, log, root.tid, root.start_ns, root.end_ns):
        name, length = (leaf.kind, leaf.chain, leaf.edges), leaf.end_ns - leaf.start_ns
        if told and told[-1][1:] == name:
            length += told.pop()[0]
        told.append((length, *name))
    return told


def test_a_handler_that_only_computes():
    """Computing, then one write: the way there (100) and the call (1,000)."""
    expected = [(7_000 + 100 + 1_000, "running", (10,), ())]
    assert expected == _told(_one_request((Compute(ns=7_000),), cpus=4))


def test_a_sleep_is_its_own_leaf():
    """The call is entered (100 + 1,000) and left (1,000) on the CPU; what lies between is sleep."""
    expected = [
        (1_100, "running", (10,), ()),
        (9_000, "sleep", (10,), ()),
        (1_000 + 1_100, "running", (10,), ()),
    ]
    assert expected == _told(_one_request((Sleep(ns=9_000),), cpus=4))


def test_a_peer_that_works_for_us():
    """connect, sendto and poll on our CPU; then the peer reads (queued), works, and writes; then we read and answer."""
    call = Call(service="back", verb="SET")
    told = _told(_one_request((call,), cpus=4, peer_handler=(Compute(ns=20_000),)))
    # From the delivery on: the peer ends epoll_wait (1,000) and reads (100 + 1,000); we enter poll meanwhile (1,100).
    expected = [
        (1_100 + 1_100 + 1_100, "running", (10,), ()),
        (1_000, "running", (10, 20), ("queued",)),
        (20_000 + 1_100, "running", (10, 20), ("peer",)),
        (1_000 + 1_100 + 1_100, "running", (10,), ()),
    ]
    assert expected == told


def test_one_cpu_makes_the_answer_wait_for_it():
    """With one CPU the client that was woken runs after the server has stopped: no time of the request is runnable."""
    told = _told(_one_request((Compute(ns=5_000),), cpus=1))
    expected = [(5_000 + 1_100, "running", (10,), ())]
    assert expected == told


def test_a_sync_through_the_journal():
    """write and fdatasync, our own block; then the journal's thread runs, writes a block, flushes, and wakes us."""
    told = _told(_one_request((Sync(file="/log"),), cpus=4))
    expected = [
        (1_100 + 1_100, "running", (10,), ()),
        (50_000, "device", (10,), ()),
        (1_000, "running", (10,), ()),
        (1_000 + 1_000, "running", (10, 90), ("journal",)),
        (50_000, "device", (10, 90), ("journal",)),
        (1_000, "running", (10, 90), ("journal",)),
        (70_000, "device", (10, 90), ("journal",)),
        (1_000, "running", (10, 90), ("journal",)),
        (1_000 + 1_100, "running", (10,), ()),
    ]
    assert expected == told


def test_a_sync_of_the_peer_is_on_the_chain_through_it():
    """Client, front, back, journal, device: the chain names each of them, and the seconds are the device's."""
    program = _one_request((Call(service="back", verb="SET"),), cpus=4, peer_handler=(Sync(file="/aof", journal=True),))
    device = [entry for entry in _told(program) if entry[1] == "device"]
    expected = [
        (50_000, "device", (10, 20), ("peer",)),
        (50_000, "device", (10, 20, 90), ("peer", "journal")),
        (70_000, "device", (10, 20, 90), ("peer", "journal")),
    ]
    assert expected == device


def test_time_behind_a_neighbour_is_queueing_and_the_rest_is_service():
    """The device serves one request at a time; a neighbour (40) that reads without pause is nearly always before us."""
    alone = _one_request((Sync(file="/log", journal=False),), cpus=4)
    neighbour = _process(40, Loop(ops=(DirectRead(file="/cold"),), times=100), role="waker")
    program = replace(alone, processes=(*alone.processes, neighbour))
    log = engine.run(program)
    (root,) = truth.roots(program, log)
    leaves = truth.explain(program, log, root.tid, root.start_ns, root.end_ns)
    spent = {
        stage: sum(leaf.end_ns - leaf.start_ns for leaf in leaves if leaf.stage == stage)
        for stage in ("queue", "service")
    }
    ours_ns = 50_000 + 70_000
    assert ours_ns == spent["service"]
    ours = [block for block in log.blocks if block.tid == 10]
    before_us = [
        b for b in log.blocks if b.tid == 40 and any(o.tid == 10 and o.issue_ns == b.complete_ns for o in log.blocks)
    ]
    assert len(before_us) == len(ours)
    assert sum(b.complete_ns - max(b.issue_ns, _queued(log, b.complete_ns)) for b in before_us) == spent["queue"] > 0


def _queued(log: Log, issue_ns: int) -> int:
    """When the server's request that was issued then had been queued."""
    return next(b.queued_ns for b in log.blocks if b.tid == 10 and b.issue_ns == issue_ns)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_drawn_on_a_steady_machine(seed: int):
    """The figures above do not depend on the seed."""
    program = _one_request((Sync(file="/log"),), cpus=4)
    other = replace(program, seed=seed)
    assert _told(program) == _told(other)
