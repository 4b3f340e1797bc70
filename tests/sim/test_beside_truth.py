"""The truth of requests done beside a thread and of waits for memory, worked out by hand."""

from __future__ import annotations

from culpa.sim import engine, truth
from culpa.sim.log import Log
from culpa.sim.program import (
    Beside,
    Call,
    Compute,
    DirectRead,
    Loop,
    Machine,
    Op,
    Process,
    Program,
    Serve,
    Service,
    Sleep,
    Thread,
    Touch,
    Work,
)

STEADY = Machine(
    cpus=4, syscall_ns=(1_000, 1_000), wake_ns=(0, 0), device_ns=(50_000, 50_000), flush_ns=(70_000, 70_000),
    journal_blocks=(1, 1), user_ns=(100, 100),
)  # fmt: skip
"""The way to a call takes 100 ns, a piece of it 1,000, a block 50,000, a flush 70,000; a commit writes one block."""
ANSWER_NS = 100 + 1_000
Told = tuple[int, str, tuple[int, ...], str | None]


def run(*ops: Op, others: tuple[Process, ...] = ()) -> tuple[Program, Log]:
    """A client (30) asks a server (10) once, whose worker of io_uring is 11."""
    serve = Thread(tid=10, comm="t10", body=Serve(service="front", handlers={"GET": ops}))
    work = Thread(tid=11, comm="iou-wrk-10", body=Work(owner_tid=10))
    ask = Loop(ops=(Sleep(ns=50_000), Call(service="front", verb="GET")), times=1)
    program = Program(
        seed=1,
        machine=STEADY,
        processes=(
            Process(pid=10, name="p10", role="target", threads=(serve, work)),
            Process(pid=30, name="p30", role="peer", threads=(Thread(tid=30, comm="t30", body=ask),)),
            *others,
        ),
        services=(Service(name="front", port=80, protocol="http"),),
        target_pid=10,
        window=(0, 2_000_000),
    )
    return program, engine.run(program)


def told(program: Program, log: Log) -> list[Told]:
    """The one request, neighbours of the same name joined: length, kind, chain, what was done for memory."""
    (root,) = truth.roots(program, log)
    found: list[Told] = []
    for leaf in truth.explain(program, log, root.tid, root.start_ns, root.end_ns):
        name, length = (leaf.kind, leaf.chain, leaf.room), leaf.end_ns - leaf.start_ns
        if found and found[-1][1:] == name:
            length += found.pop()[0]
        found.append((length, *name))
    return found


def test_a_read_through_a_ring():
    """Given after 1,100; a call of 2,100 and 1,100 of the next one lie before the wait, which ends with the device."""
    expected = [
        (2_100 + 1_100, "running", (10,), None),
        (50_000 - 1_000 - 1_100, "device", (10,), None),
        (1_000 + ANSWER_NS, "running", (10,), None),
    ]
    program, log = run(Beside(file="/data", interface="io_uring", op="read"))
    assert expected == told(program, log)
    (aside,) = log.asides
    assert (10, aside.of.complete_ns + 1_000) == (aside.ender_tid, aside.posted_ns)


def test_what_is_done_meanwhile_is_not_waited_for():
    """The device is done before the thread asks: it takes the event and does not wait."""
    program, log = run(Beside(file="/data", interface="libaio", meanwhile=(Compute(ns=60_000),)))
    assert [(2_100 + 60_000 + 1_100 + ANSWER_NS, "running", (10,), None)] == told(program, log)
    (aside,) = log.asides
    assert aside.posted_ns == next(call.exit_ns for call in log.syscalls if call.nr == 208)


def test_three_at_once_and_three_in_turn():
    """The device takes 150,000 either way; who is woken by each of them runs twice in between."""
    given = 3 * 1_000 + 1_000 + 100
    first = 50_000 - 3_000 - 1_100  # the first goes to the device when it is given
    before, after = (given + 1_100, "running", (10,), None), (1_000 + ANSWER_NS, "running", (10,), None)
    at_once, in_turn = (
        told(*run(Beside(file="/data", interface="libaio", count=3, least=3, each=each))) for each in (False, True)
    )
    assert [before, (first + 100_000, "device", (10,), None), after] == at_once
    between = [(1_000, "running", (10,), None), (49_000, "device", (10,), None)]
    assert [before, (first, "device", (10,), None), *between, *between, after] == in_turn


def test_behind_one_s_own_is_behind_nobody():
    """Of three at once two are queued behind the thread's own; a neighbour's is somebody else's."""
    program, log = run(Beside(file="/data", interface="libaio", count=3, least=3))
    (root,) = truth.roots(program, log)
    leaves = truth.explain(program, log, root.tid, root.start_ns, root.end_ns)
    assert {None} == {leaf.behind for leaf in leaves}
    assert [("queue", 45_900), ("queue", 50_000), ("service", 50_000)] == [
        (leaf.stage, leaf.end_ns - leaf.start_ns) for leaf in leaves if leaf.kind == "device"
    ]
    reads = Loop(ops=(DirectRead(file="/cold"),), times=100)
    other = Process(pid=40, name="p40", role="waker", threads=(Thread(tid=40, comm="t40", body=reads),))
    program, log = run(Beside(file="/data", interface="libaio"), others=(other,))
    (root,) = truth.roots(program, log)
    leaves = truth.explain(program, log, root.tid, root.start_ns, root.end_ns)
    assert {None, 40} == {leaf.behind for leaf in leaves}


def test_an_fsync_by_a_worker_is_what_that_does_and_its_journal():
    """Written (1,100), given (1,100); the worker runs, waits for the data, asks for a commit, and tells."""
    device = [
        (48_900, "device", (10, 11), None),  # 1,000 to wake and 50,000, of which 2,100 were over
        (1_000, "running", (10, 11), None),
        (1_000 + 1_000, "running", (10, 11, 90), None),
        (50_000, "device", (10, 11, 90), None),
        (1_000, "running", (10, 11, 90), None),
        (70_000, "device", (10, 11, 90), None),
        (1_000, "running", (10, 11, 90), None),
        (1_000 + 1_000, "running", (10, 11), None),
    ]
    expected = [(1_100 + 2_100 + 1_100, "running", (10,), None), *device, (1_000 + ANSWER_NS, "running", (10,), None)]
    for posts, ender in (("worker", 11), ("waiter", 10)):
        program, log = run(Beside(file="/data", interface="io_uring", op="fsync", posts=posts))
        assert expected == told(program, log)
        assert [ender] == [aside.ender_tid for aside in log.asides]


def test_a_timer_that_runs_out_ends_no_wait_for_the_device():
    """Woken by it after 20,000 and again, and back to waiting for the same block."""
    program, log = run(Beside(file="/data", interface="libaio", tick_ns=20_000))
    calls = [call.ret for call in log.syscalls if call.nr == 208]
    assert [0, 0, 1] == calls
    waits = [entry[0] for entry in told(program, log) if entry[1] == "device"]
    assert [20_000, 20_000, 50_000 - 2_100 - 2 * (20_000 + 2_100)] == waits


def test_a_page_in_swap():
    """Missed after 1,100; the device reads it; then the fault and the answer."""
    expected = [
        (1_100, "running", (10,), None),
        (50_000, "device", (10,), "swap"),
        (2_000 + ANSWER_NS, "running", (10,), None),
    ]
    assert expected == told(*run(Touch(need="swap")))


def test_pauses_for_memory_are_no_waits_for_the_device():
    """What is thrown out is written meanwhile; the timer ends the pause. Above memory.high nothing is written."""
    for need, before, blocks in (("host", 2_100, 1), ("group", 2_100, 1), ("compaction", 1_100, 0), ("high", 1_100, 0)):
        program, log = run(Touch(need=need, pause_ns=60_000, within="/data"))
        assert [
            (before, "running", (10,), None),
            (60_000, "reclaim", (10,), need),
            (1_000 + ANSWER_NS, "running", (10,), None),
        ] == told(program, log)
        assert blocks == len(log.blocks)
        (off,) = [off for off in log.offs[10] if off.cause is not None and off.cause.kind == "reclaim"]
        assert (0x102 if need == "high" else 2) == off.state
