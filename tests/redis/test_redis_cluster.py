"""A cluster of three real nodes, and a replica of one: sound, with a node that stopped, and in a failover."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import redis
from servers import answer, cause, examined, free_cluster_port, in_memory, needs_redis, once_asked, port_of, serving
from test_states import SOUND

from culpa.diagnose.verdict import Verdict

pytestmark = [pytest.mark.redis, needs_redis]

SLOTS = 16384
NODE = (*SOUND, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
OF_THE_HOST = {"redis.cpu.starved", "cpu.runqueue", "redis.stall.unattributed"}
"""Others on the CPUs of the machine, which samples may miss."""


@contextmanager
def _cluster(*, replica: tuple[str, ...] | None = None) -> Iterator[list[redis.Redis]]:
    """Three nodes with a third of the slots each; if wanted a fourth, with these settings, that follows the third."""
    with ExitStack() as stack:
        # Each change of the cluster is synced to a file by the main thread: the disk's time, not looked at here.
        directory = stack.enter_context(in_memory())
        nodes = []
        for name, more in zip("abcd", ((), (), (), replica), strict=True):
            if more is not None:
                (directory / name).mkdir()
                settings = (*NODE, *more)
                nodes.append(stack.enter_context(serving(directory / name, *settings, port=free_cluster_port())))
        for number, node in enumerate(nodes[:3]):
            own = range(SLOTS * number // 3, SLOTS * (number + 1) // 3)
            node.execute_command("CLUSTER", "ADDSLOTS", *own)
            node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port_of(node))
        _until(lambda: all(_state(node) == "ok" and _known(node) == len(nodes) for node in nodes))
        for follower in nodes[3:]:
            follower.execute_command("CLUSTER", "REPLICATE", nodes[2].execute_command("CLUSTER", "MYID"))
            _until(lambda: follower.info("replication").get("master_link_status") == "up")  # noqa: B023  # called now
        yield nodes


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _said(node: redis.Redis) -> dict[str, str]:
    """CLUSTER INFO."""
    answered = node.execute_command("CLUSTER", "INFO")
    return dict(line.split(":", 1) for line in str(answered).splitlines() if ":" in line)


def _state(node: redis.Redis) -> str:
    return _said(node)["cluster_state"]


def _known(node: redis.Redis) -> int:
    return int(_said(node)["cluster_known_nodes"])


def _kill(node: redis.Redis) -> None:
    os.kill(int(node.info()["process_id"]), signal.SIGKILL)


def _slow(verdict: Verdict) -> set[str]:
    return {one.id for one in verdict.causes if one.level != "note" and one.kind == "slowness"} - OF_THE_HOST


def test_a_node_is_sound_until_another_one_stops() -> None:
    """Then its slots are not served, which is a risk and nobody's slowness."""
    with _cluster() as nodes:
        sound = examined(nodes[0])
        os.kill(pid := int(nodes[2].info()["process_id"]), signal.SIGSTOP)
        try:
            _until(lambda: _state(nodes[0]) == "fail")
            broken = examined(nodes[0])
        finally:
            os.kill(pid, signal.SIGCONT)
        _until(lambda: _state(nodes[0]) == "ok")
        mended = examined(nodes[0])
    assert ["clear", "fired", "clear"] == [answer(one, "redis.cluster.state") for one in (sound, broken, mended)]
    found = cause(broken, "redis.cluster.state")
    assert ("risk", "warning") == (found.kind, found.level)
    assert {fact.fact: fact.value for fact in found.evidence}["cluster_state"] == "fail"
    assert [] == [
        one.id for one in (*sound.causes, *mended.causes) if one.level != "note" and one.id not in OF_THE_HOST
    ]
    assert _slow(broken) == set()


def test_a_replica_whose_primary_is_gone_says_so() -> None:
    """One that may not take over: its copy grows old, and a third of the slots is not served."""
    with _cluster(replica=("--cluster-replica-no-failover", "yes")) as nodes:
        sound = examined(nodes[3])
        _kill(nodes[2])
        _until(lambda: _state(nodes[3]) == "fail")
        orphan = examined(nodes[3])
    for check in ("redis.repl.down", "redis.cluster.state"):
        assert (answer(sound, check), answer(orphan, check)) == ("clear", "fired")
        assert cause(orphan, check).kind == "risk"
    assert _slow(sound) | _slow(orphan) == set()


def test_a_failover_in_the_window_is_no_slowness() -> None:
    """A replica that becomes the primary while it is watched: it answers all the while, and serves at the end."""
    with _cluster(replica=()) as nodes:
        with once_asked(nodes[3], lambda: _kill(nodes[2]), after=10):
            verdict = examined(nodes[3], for_ns=5_000_000_000)
        _until(lambda: nodes[3].info("replication")["role"] == "master")
        _until(lambda: _state(nodes[3]) == "ok")
        after = examined(nodes[3])
    assert _slow(verdict) | _slow(after) == set()
    assert ("clear", "clear") == (answer(after, "redis.repl.down"), answer(after, "redis.cluster.state"))
