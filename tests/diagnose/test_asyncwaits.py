"""Waits for requests to io_uring and libaio, on a clock of round numbers: what each was for, and which are idle."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl
import pytest
from scene import APP, GAP_NS, MS, US, Scene

from culpa.capture import schema
from culpa.capture.manifest import TargetKind
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Node, Verdict
from culpa.model import requests, timeline, waitgraph

WORKER, TAKER, PEER = 501, 502, 700
RING_ENTER, GETEVENTS, WRITE = 426, 208, 1
RING, DISK, DATA = 77, 5, 9
OURS, THEIRS = 31, 32
ETIME = -62


@dataclass
class Beside:
    """Grows a scene whose service waits for what is done beside it."""

    scene: Scene = field(default_factory=Scene)

    def wait(
        self, length: int, *, nr: int = RING_ENTER, ret: int | None = 1, waker: int | None = None, told: bool = True
    ) -> tuple[int, int]:
        """A call that waits from `now` for `length`; the moments at which it slept and was woken."""
        scene, enter = self.scene, self.scene.now
        off, wake = enter + US, enter + US + length
        leave = wake + 2 * US
        scene.add(
            schema.SYSCALLS, enter_ns=enter, exit_ns=leave, tid=APP, pid=APP, nr=nr, ret=ret, arg0=RING, arg1=1,
            arg2=1, ino=RING if told and nr == RING_ENTER else None, file_type="anon" if nr == RING_ENTER else None,
        )  # fmt: skip
        scene.sleep(APP, off, wake, wake + US, waker=waker)
        scene.now = leave + GAP_NS
        return off, wake

    def hang(self, length: int) -> int:
        """A call that waits from `now` on, and has waited for `length` when the window ends; when it slept."""
        scene, off = self.scene, self.scene.now + US
        scene.add(
            schema.SYSCALLS, enter_ns=scene.now, tid=APP, pid=APP, nr=RING_ENTER, arg0=RING, arg1=1, arg2=1, ino=RING,
            file_type="anon",
        )  # fmt: skip
        scene.add(schema.OFFCPU, off_ns=off, tid=APP, pid=APP, state=1, cpu=0)
        scene.now = off + length - MS  # a scene ends a millisecond after its last moment
        self.hangs = True
        return off

    hangs: bool = False

    def request(self, op: str, given: int, done: int | None, **values: object) -> None:
        """One request; by default the service's own, on its data."""
        row = {"tid": APP, "pid": APP, "interface": "io_uring", "ring": RING, "dev": DISK, "ino": DATA,
               "file_type": "reg", "ender_tid": APP, "ret": 4096}  # fmt: skip
        self.scene.add(schema.ASYNC_IO, submit_ns=given, complete_ns=done, op=op, **(row | values))

    def block(self, made: int, issue: int, done: int | None, tid: int | None = APP) -> None:
        """One request to the disk; direct I/O, which carries no file's pages."""
        self.scene.add(
            schema.BLOCKS, queued_ns=made, issue_ns=issue, complete_ns=done, dev=DISK, sector=8, bytes=4096, op="write",
            sync=True, tid=tid, pid=APP,
        )  # fmt: skip

    def thread(self, tid: int, comm: str) -> None:
        """Another thread of the service's process, made by the kernel."""
        self.scene.add(schema.TASKS, tid=tid, pid=APP, comm=comm, kernel=False, watched_ns=self.scene.start)

    def off(self, tid: int, off: int, wake: int, on: int, *, state: int, stack: int | None = None) -> None:
        """Such a thread off its CPU; `wake` is when it wants it again."""
        self.scene.add(
            schema.OFFCPU, off_ns=off, wake_ns=wake if state else None, on_ns=on, tid=tid, pid=APP, state=state, cpu=0,
            stack_id=stack,
        )  # fmt: skip

    def socket(self, *, local: int, peer: int) -> None:
        """Our end of a connection, and somebody who listens on 80."""
        self.scene.add(
            schema.SOCKETS, ino=OURS, family="tcp", local_addr="127.0.0.1", local_port=local, peer_addr="127.0.0.1",
            peer_port=peer, peer_ino=THEIRS, listening=False, pid=APP,
        )  # fmt: skip
        self.scene.add(schema.SOCKETS, ino=40, family="tcp", local_addr="0.0.0.0", local_port=80, listening=True)

    def explained(self) -> pl.DataFrame:
        """The service's pieces that are waits: kind, via, thing of the innermost level, next_tid, idle, ns."""
        self.scene.add(schema.FILES, dev=DISK, ino=DATA, path="/data/table")
        self.scene.asleep_since = self.scene.now + MS * self.hangs
        capture = self.scene.capture(kind="process")
        spans = timeline.build(capture)
        graph = waitgraph.build(capture, spans, requests.find(capture))
        pieces = graph.pieces.filter(pl.col("tid") == APP).with_columns(
            ns=pl.col("end_ns") - pl.col("start_ns"),
            things=pl.Series(
                [
                    " in ".join(repr(graph.things[n]) for n in (via, on) if n >= 0)
                    for via, on in zip(graph.via_on.tolist(), graph.on.tolist(), strict=True)
                ]
            ).gather((graph.start // graph.axis.span == graph.axis.tids.tolist().index(APP)).nonzero()[0].tolist()),
        )
        return pieces.filter(~pl.col("kind").is_in(["running", "runnable"]) & (pl.col("ns") >= 100 * US))


def told(pieces: pl.DataFrame) -> list[tuple[str, str | None, int]]:
    """Kind, inner kind, and length in whole milliseconds; the last wait of a scene, for nothing, is left out."""
    return [(kind, via, round(ns / MS)) for kind, via, ns in pieces.select("kind", "via", "ns").rows()]


@pytest.mark.parametrize(("nr", "interface"), [(RING_ENTER, "io_uring"), (GETEVENTS, "libaio")])
def test_a_wait_is_its_request_s_queue_and_service_on_its_file(nr: int, interface: str) -> None:
    """3 ms until it was given to the device, 7 ms in it."""
    here = Beside()
    off, wake = here.wait(10 * MS, nr=nr)
    here.block(off - US, off + 3 * MS, wake - 5 * US)
    here.request("write", off - US, wake + 2 * US, interface=interface)
    pieces = here.explained()
    assert [("io", "device", 3), ("io", "device", 7)] == told(pieces)[:2]
    assert ["queue" in thing for thing in pieces["things"][:2]] == [True, False]
    assert all("/data/table" in thing and "sdz" in thing for thing in pieces["things"][:2])


def test_an_fsync_is_what_the_worker_did_meanwhile() -> None:
    """The wait goes on to the worker, which posted the completion; it slept at the device."""
    here = Beside()
    here.thread(WORKER, f"iou-wrk-{APP}")
    off, wake = here.wait(10 * MS, waker=WORKER)
    here.off(WORKER, off + US, wake - 2 * US, wake - US, state=2, stack=2)
    here.request("fsync", off - US, wake, ender_tid=WORKER, ret=0)
    pieces = here.explained()
    assert [("fsync", "peer", 10)] == told(pieces)[:1]
    assert WORKER == pieces["next_tid"][0]
    assert "/data/table" in pieces["things"][0]


def test_a_thread_that_takes_requests_is_waited_for_before_and_after_the_device() -> None:
    """2 ms until it took the request, 7 ms at the device, and 1 ms until it told of the end."""
    here = Beside()
    here.thread(TAKER, f"iou-sqp-{APP}")
    off, wake = here.wait(10 * MS, waker=TAKER)
    here.off(TAKER, off, 0, off + 2 * MS, state=0)
    here.off(TAKER, off + 9 * MS, 0, wake - US, state=0)
    here.block(off + 2 * MS, off + 2 * MS, off + 9 * MS, tid=TAKER)
    here.request("write", off + 2 * MS, wake - US, tid=TAKER, ender_tid=TAKER)
    pieces = here.explained()
    assert [("io", "peer", 2), ("io", "device", 7), ("io", "peer", 1)] == told(pieces)[:3]
    assert [TAKER, -1, TAKER] == pieces["next_tid"].to_list()[:3]


@pytest.mark.parametrize(
    ("op", "file_type", "ret"), [("accept", "sock", 5), ("recv", "sock", 40), ("poll", "fifo", 1), ("read", "fifo", 1)]
)
def test_the_next_piece_of_work_is_idled_for(op: str, file_type: str, ret: int) -> None:
    """A connection, bytes on a connection that somebody else made, a word of another thread."""
    here = Beside()
    here.socket(local=80, peer=5009)
    for _ in range(3):
        off, wake = here.wait(10 * MS, waker=PEER)
        here.request(op, off - US, wake + US, dev=None, ino=OURS, file_type=file_type, ret=ret)
        here.block(off, off, off + MS)  # something of its own that nobody waits for
    pieces = here.explained()
    assert [("idle", None, 10)] * 3 == told(pieces)[:3]
    assert pieces["idle"][:3].all()


def test_a_block_request_of_nobody_known_ends_no_wait() -> None:
    """It ends at the very moment of the wake-up, and is not the waiter's."""
    here = Beside()
    _, wake = here.wait(10 * MS, told=False)
    here.block(wake - MS, wake - MS, wake - 5 * US, tid=None)
    assert [("idle", None, 10)] == told(here.explained())[:1]


def test_an_answer_that_was_asked_for_is_left_unexplained_in_the_open() -> None:
    """Sent to a server first, then received: what that one did is not known."""
    here = Beside()
    here.socket(local=5009, peer=80)
    for _ in range(3):
        here.request("send", here.scene.now, here.scene.now + US, dev=None, ino=OURS, file_type="sock", ret=40)
        off, wake = here.wait(10 * MS)
        here.request("recv", off - US, wake + US, dev=None, ino=OURS, file_type="sock", ret=40)
    pieces = here.explained()
    assert [("unexplained", None, 10)] * 3 == told(pieces)[:3]
    assert all("127.0.0.1:80" in thing for thing in pieces["things"][:3])


def test_who_only_listens_to_a_server_idles() -> None:
    """Nothing was sent: what comes is the next piece of work."""
    here = Beside()
    here.socket(local=5009, peer=80)
    off, wake = here.wait(10 * MS)
    here.request("recv", off - US, wake + US, dev=None, ino=OURS, file_type="sock", ret=40)
    assert [("idle", None, 10)] == told(here.explained())[:1]


@pytest.mark.parametrize(("nr", "ret"), [(RING_ENTER, ETIME), (GETEVENTS, 0)])
def test_a_timer_that_runs_out_is_idled_for(nr: int, ret: int) -> None:
    """Nothing was under way."""
    here = Beside()
    here.wait(10 * MS, nr=nr, ret=ret)
    assert [("idle", None, 10)] == told(here.explained())[:1]


def test_a_timer_that_runs_out_before_the_device_is_done_is_the_device_s() -> None:
    """What was under way is what it waits for, once and again."""
    here = Beside()
    off, _ = here.wait(10 * MS, nr=GETEVENTS, ret=0)
    here.wait(10 * MS, nr=GETEVENTS, ret=0)
    here.block(off - US, off - US, None)
    here.request("write", off - US, None, interface="libaio", ret=None, ender_tid=None)
    pieces = here.explained()
    assert [("io", "device", 10)] * 2 == told(pieces)[:2]
    assert all("/data/table" in thing for thing in pieces["things"][:2])


def test_what_outlasts_the_window_is_where_it_stands() -> None:
    """A write that is at the device, and an fsync whose worker is there, neither of them ever completed."""
    here = Beside()
    off = here.hang(length=10 * MS)
    here.block(off - US, off + 4 * MS, None)
    here.request("write", off - US, None, ret=None, ender_tid=None)
    assert [("io", "device", 4), ("io", "device", 6)] == told(here.explained())[:2]
    here = Beside()
    here.thread(WORKER, f"iou-wrk-{APP}")
    off = here.hang(length=10 * MS)
    here.scene.add(schema.OFFCPU, off_ns=off, tid=WORKER, pid=APP, state=2, stack_id=2)
    here.request("fsync", off - US, None, ret=None, ender_tid=None)
    pieces = here.explained()
    assert [("fsync", "peer", 10)] == told(pieces)[:1]
    assert ("/data/table" in pieces["things"][0], WORKER) == (True, pieces["next_tid"][0])


def test_where_the_kernel_tells_of_no_requests_the_end_of_one_s_own_is_believed() -> None:
    """A block request that ends just before the wait does; one that ended long before is no reason."""
    here = Beside()
    off, wake = here.wait(10 * MS, told=False)
    here.block(off - US, off, wake - 5 * US)
    again, _ = here.wait(10 * MS, told=False)
    here.block(again - US, again, again + MS)
    pieces = here.explained()
    assert [("io", "device", 10), ("idle", None, 10)] == told(pieces)[:2]
    assert "io_uring_enter" in pieces["things"][0]


def leaves(node: Node) -> list[Node]:
    """Leaves of a blame tree."""
    return [node] if not node.children else [leaf for child in node.children for leaf in leaves(child)]


def verdict_on(scene: Scene, kind: TargetKind = "url") -> Verdict:
    """What culpa says of it."""
    return judge(scene.capture(kind=kind))


@pytest.mark.parametrize("tid", [APP, TAKER])
def test_a_slow_device_is_the_head_as_for_any_call(tid: int) -> None:
    """Twenty writes of 10 ms within a request, sent by the service itself or by the thread that takes its requests."""
    here = Beside()
    here.thread(TAKER, f"iou-sqp-{APP}")
    here.scene.add(schema.FILES, dev=DISK, ino=DATA, path="/data/table")
    here.scene.now += 2 * MS
    here.scene.request_arrives()
    for _ in range(20):
        off, wake = here.wait(10 * MS)
        here.block(off, off + MS, wake - 5 * US, tid=tid)
        here.request("write", off, wake + US, tid=tid)
    here.scene.answer()
    verdict = verdict_on(here.scene)
    assert ["disk.slow-device"] == [cause.id for cause in verdict.causes if cause.level != "note"]
    on = verdict.causes[0].on
    assert on is not None
    assert "sdz" == on.device
    node = next(child for child in verdict.blame.children if child.kind == "io")
    assert ("/data/table", APP) == (node.on.path if node.on else None, node.who.pid if node.who else None)
    assert node.seconds == pytest.approx(0.2, rel=0.02)
    assert not [leaf for leaf in leaves(verdict.blame) if leaf.kind == "unexplained" and leaf.share > 0.02]


def test_a_service_that_only_waits_in_its_ring_is_not_slow() -> None:
    """Two seconds of accepting, and nobody came."""
    here = Beside()
    for _ in range(20):
        off, wake = here.wait(100 * MS)
        here.request("accept", off - US, wake + US, dev=None, ino=OURS, file_type="sock", ret=5)
    here.scene.asleep_since = here.scene.now
    verdict = verdict_on(here.scene, "process")
    assert ("not-slow", []) == (verdict.state, [cause.id for cause in verdict.causes])
    assert 2.0 == pytest.approx(verdict.root.idle_seconds, rel=0.01)
