"""Waits for a child to begin its program, on scenes whose times are chosen by hand."""

from __future__ import annotations

import pytest
from scene import APP, MS, US, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Node

CHILD, STARTER = 800, 900
STACK = 4
KILL, OPEN, VFORK = 62, 2, 58
SPAWN_NS = 100 * MS


def nodes(node: Node, kind: str) -> list[Node]:
    """Every node of a kind."""
    own = [node] if node.kind == kind else []
    return own + [deeper for child in node.children for deeper in nodes(child, kind)]


def spawned(*, waker: int | None = CHILD, act: int = OPEN) -> Capture:
    """A request that starts a child, which computes for 100 ms before it executes a program."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    start, wake = scene.now, scene.now + SPAWN_NS
    scene.call(APP, VFORK, start, wake + 3 * US, ino=0, kind="anon")
    scene.sleep(APP, start + US, wake, wake + US, state=2, stack=STACK, waker=waker)
    scene.call(CHILD, act, start + 2 * US, wake + US, ino=0, kind="anon")
    scene.sleep(CHILD, wake + 2 * US, wake + 3 * US, wake + 4 * US)
    scene.add(schema.TASKS, tid=CHILD, pid=CHILD, comm="importer", watched_ns=start)
    scene.now = wake + 50 * US
    scene.answer()
    scene.add(schema.STACKS, stack_id=STACK, frames=["wait_for_vfork_done", "kernel_clone", "__do_sys_vfork"])
    return scene.capture()


def test_a_wait_for_a_child_to_begin_is_spent_on_what_the_child_does() -> None:
    """It computed."""
    blame = judge(spawned()).blame
    (wait,) = [node for node in nodes(blame, "peer") if node.who is not None and node.who.pid == CHILD]
    assert wait.label.endswith("in vfork")
    assert 0.1 == pytest.approx(wait.seconds, abs=0.001)
    assert 0.1 == pytest.approx(sum(node.seconds for node in nodes(wait, "running")), abs=0.001)


@pytest.mark.parametrize("ended", [{"waker": None}, {"act": KILL}, {"waker": APP}, {"waker": STARTER}])
def test_nobody_else_is_blamed_for_it(ended: dict[str, int | None]) -> None:
    """Not seen, killed by a signal, woken by a thread of its own, or by one that was not watched: unexplained."""
    blame = judge(spawned(**ended)).blame
    assert [] == [node for node in nodes(blame, "peer") if node.who is not None and node.who.pid != APP]
    assert 0.1 == pytest.approx(sum(node.seconds for node in nodes(blame, "unexplained")), abs=0.001)
