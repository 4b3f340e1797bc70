"""Waits for names, connections and room on scenes whose times are chosen by hand."""

from __future__ import annotations

import pytest
from scene import APP, ASK_NS, MS, REDIS, SENDTO, US, Scene

from culpa.capture import schema
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Node, Verdict

LOOKUP, POLL, CLOSE, CONNECT, GETSOCKOPT, OPENAT, SELECT = 30, 7, 3, 42, 55, 257, 23
ENOSPC, EINPROGRESS = -28, -115


def heads(verdict: Verdict) -> list[str]:
    """Ids of the heads above a note."""
    return [cause.id for cause in verdict.causes if cause.level != "note"]


def cause(verdict: Verdict, name: str) -> Cause:
    """The head of that id."""
    return next(one for one in verdict.causes if one.id == name)


def share(node: Node, kind: str) -> float:
    """Of the root, in leaves of a kind."""
    own = node.share if node.kind == kind and not node.children else 0.0
    return own + sum(share(child, kind) for child in node.children)


def begun() -> Scene:
    """A request has just been read."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    return scene


def ask_for_a_name(scene: Scene) -> None:
    """A datagram to the name server."""
    scene.call(APP, SENDTO, scene.now, scene.now + ASK_NS, ino=LOOKUP)
    scene.message(APP, LOOKUP, scene.now, scene.now + ASK_NS, "out", "data", "unknown")
    scene.now += ASK_NS


def wait(scene: Scene, ns: int, *, nr: int = POLL, ret: int = 1, ino: int = 0) -> None:
    """The service is off its CPU within one call."""
    scene.call(APP, nr, scene.now, scene.now + ns + 2 * US, ino=ino, kind="sock" if ino else "", ret=ret)
    scene.sleep(APP, scene.now + US, scene.now + ns, scene.now + ns + US)
    scene.now += ns + 2 * US


def close(scene: Scene, ino: int) -> None:
    scene.call(APP, CLOSE, scene.now, scene.now + US, ino=ino, ret=0)
    scene.now += US


def name_server(scene: Scene, port: int = 53) -> None:
    scene.add(
        schema.SOCKETS, ino=LOOKUP, family="udp", local_addr="127.0.0.1", local_port=40000, peer_addr="127.0.0.53",
        peer_port=port, listening=False,
    )  # fmt: skip


def test_a_name_that_is_asked_for_twice_is_waited_for_from_the_first_time() -> None:
    """The first datagram is lost: 40 ms until the timer, and 20 ms for the answer to the second."""
    scene = begun()
    ask_for_a_name(scene)
    wait(scene, 40 * MS, ret=0)
    ask_for_a_name(scene)
    wait(scene, 20 * MS)
    scene.call(APP, 45, scene.now, scene.now + US, ino=LOOKUP)
    scene.message(APP, LOOKUP, scene.now, scene.now + US, "in", "data", "unknown")
    close(scene, LOOKUP)
    scene.answer()
    name_server(scene)
    verdict = judge(scene.capture())
    found = cause(verdict, "net.name-lookup")

    assert ["net.name-lookup"] == heads(verdict)
    assert found.on is not None
    assert found.who is not None
    assert ("127.0.0.53:53", APP) == (found.on.peer, found.who.pid)
    assert 60 * MS / 1e9 == pytest.approx(found.evidence[0].value, abs=1e-4)
    assert 1 == next(fact.value for fact in found.evidence if fact.fact.startswith("waits that ended"))


def test_a_name_that_was_given_up_costs_nothing_once_its_socket_is_closed() -> None:
    """10 ms for no answer, then 100 ms of sleep in the same kind of call."""
    scene = begun()
    ask_for_a_name(scene)
    wait(scene, 10 * MS, ret=0)
    close(scene, LOOKUP)
    wait(scene, 100 * MS, ret=0)
    scene.answer()
    name_server(scene)
    verdict = judge(scene.capture())

    assert "net.name-lookup" not in heads(verdict)
    assert 0.09 == pytest.approx(share(verdict.blame, "remote"), abs=0.01)


def test_datagrams_to_another_port_are_no_names() -> None:
    """The same conversation with a service of another kind."""
    scene = begun()
    ask_for_a_name(scene)
    wait(scene, 40 * MS)
    scene.call(APP, 45, scene.now, scene.now + US, ino=LOOKUP)
    scene.message(APP, LOOKUP, scene.now, scene.now + US, "in", "data", "unknown")
    scene.answer()
    name_server(scene, port=8125)

    assert "net.name-lookup" not in heads(judge(scene.capture()))


def connecting(scene: Scene, ns: int, *, waits_itself: bool) -> None:
    """A connection that takes its time, made by one call, or by one that leaves the wait to poll."""
    if waits_itself:
        wait(scene, ns, nr=CONNECT, ret=0, ino=LOOKUP)
    else:
        scene.call(APP, CONNECT, scene.now, scene.now + US, ino=LOOKUP, ret=EINPROGRESS)
        scene.now += US
        wait(scene, ns)
        scene.call(APP, GETSOCKOPT, scene.now, scene.now + US, ino=LOOKUP, ret=0)
        scene.now += US


def listener(scene: Scene, *, overflows: int) -> None:
    """Somebody here listens where the connection goes; the kernel counted so many that found a queue full."""
    ends = {"family": "tcp", "local_addr": "127.0.0.1", "netns": 1}
    scene.add(
        schema.SOCKETS, ino=LOOKUP, local_port=40000, peer_addr="127.0.0.1", peer_port=8100, listening=False, **ends
    )
    scene.add(schema.SOCKETS, ino=31, local_port=8100, listening=True, pid=REDIS, **ends)
    for moment, value in ((scene.start, 7.0), (scene.now, 7.0 + overflows)):
        scene.add(
            schema.COUNTERS, ts_ns=moment, source="/proc/net/netstat", object="", field="ListenOverflows", value=value
        )


@pytest.mark.parametrize("waits_itself", [True, False])
def test_a_connection_that_finds_the_queue_full_names_who_listens(waits_itself: bool) -> None:
    """90 of 100 ms pass until the connection comes about, whichever way the program waits for it."""
    scene = begun()
    connecting(scene, 90 * MS, waits_itself=waits_itself)
    scene.compute(10 * MS)
    scene.answer()
    listener(scene, overflows=3)
    verdict = judge(scene.capture())
    found = cause(verdict, "net.accept-queue")

    assert ["net.accept-queue"] == heads(verdict)
    assert found.on is not None
    assert found.who is not None
    assert ("127.0.0.1:8100", REDIS) == (found.on.peer, found.who.pid)
    assert 0.9 == pytest.approx(found.share, abs=0.01)


def test_without_a_full_queue_nobody_is_to_blame_for_a_late_connection() -> None:
    """The kernel counted none: something else holds it up, and is not known."""
    scene = begun()
    connecting(scene, 90 * MS, waits_itself=True)
    scene.answer()
    listener(scene, overflows=0)

    assert [] == heads(judge(scene.capture()))


def test_a_late_connection_to_another_host_is_that_hosts() -> None:
    """90 ms until a connection to another host comes about."""
    scene = begun()
    wait(scene, 90 * MS, nr=CONNECT, ret=0, ino=13)
    scene.answer()
    verdict = judge(scene.capture())

    assert ["net.remote-slow"] == heads(verdict)
    assert "192.0.2.9:443" in str(cause(verdict, "net.remote-slow").on)


def room(scene: Scene, **left: float) -> None:
    """What statvfs says of the file system with device 0:5."""
    for field, value in {"bytes": 1e9, "available_bytes": 1e8, "inodes": 1000.0, "free_inodes": 50.0, **left}.items():
        scene.add(schema.COUNTERS, ts_ns=scene.now, source="statvfs 0:5", object="/data", field=field, value=value)


def refused(scene: Scene, *, nr: int = 1) -> None:
    """A write, or the making of a file, for which there is no room."""
    named = {"ino": 7, "kind": "reg", "dev": 5} if nr == 1 else {"ino": 0, "kind": "", "dev": 0}
    scene.call(APP, nr, scene.now, scene.now + 10 * US, ret=ENOSPC, **named)  # type: ignore[arg-type]  # by name
    scene.now += 10 * US


def test_sleep_between_two_refusals_is_the_full_file_systems() -> None:
    """Three attempts, 50 ms apart."""
    scene = begun()
    for _ in range(2):
        refused(scene)
        wait(scene, 50 * MS, nr=SELECT, ret=0)
    refused(scene)
    scene.answer()
    room(scene, available_bytes=0.0)
    verdict = judge(scene.capture())
    found = cause(verdict, "fs.full")

    assert ["fs.full"] == heads(verdict)
    assert found.on is not None
    assert ("/data/some.aof", "slowness", "critical") == (found.on.path, found.kind, found.level)


def test_one_refusal_is_a_danger_to_the_data() -> None:
    """It costs next to no time, and what was to be kept is lost."""
    scene = begun()
    refused(scene, nr=OPENAT)
    scene.compute(20 * MS)
    scene.answer()
    room(scene, free_inodes=0.0)
    found = cause(judge(scene.capture()), "fs.full")

    assert found.on is not None
    assert ("/data", "risk", "warning") == (found.on.path, found.kind, found.level)


def test_a_file_system_that_is_full_and_refuses_nothing_is_no_cause() -> None:
    """The program sleeps by its own choice."""
    scene = begun()
    wait(scene, 300 * MS, nr=SELECT, ret=0)
    scene.answer()
    room(scene, available_bytes=0.0)

    assert ["sleep.by-choice"] == heads(judge(scene.capture()))
