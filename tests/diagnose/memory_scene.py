"""Scenes in which a request waits for memory: what each wait was for, and what the host's files said meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

from scene import APP, MS, US, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.verdict import Cause, Node, Verdict

SWAP_DEV, HOG = 5, 90_000
SWAPPED, AT_LIMIT, SHORT, PAUSED, IN_PIECES = 11, 12, 13, 14, 15
WAIT_NS, WAITS = 20 * MS, 10
GROUP = "/sys/fs/cgroup/memory/box"
WRITE = 1
STACKS = {
    SWAPPED: ["io_schedule", "folio_wait_bit_common", "do_swap_page", "handle_mm_fault", "exc_page_fault"],
    AT_LIMIT: [
        "io_schedule", "folio_wait_writeback", "shrink_folio_list", "do_try_to_free_pages",
        "try_to_free_mem_cgroup_pages", "do_anonymous_page", "handle_mm_fault",
    ],
    SHORT: ["io_schedule", "folio_wait_writeback", "shrink_folio_list", "do_try_to_free_pages", "try_to_free_pages"],
    PAUSED: ["schedule_timeout", "reclaim_throttle", "shrink_node", "do_try_to_free_pages", "try_to_free_pages"],
    IN_PIECES: [
        "schedule_timeout", "reclaim_throttle", "isolate_migratepages_block", "compact_zone", "try_to_compact_pages",
        "__alloc_pages_direct_compact", "__alloc_pages_slowpath",
    ],
}  # fmt: skip


Files = Mapping[tuple[str, str], tuple[float, float]]
"""What a field of a file of the host said when the window began and when it ended."""


def waited(
    *stacks: int, within_write: bool = False, limit: dict[str, float] | None = None, host: Files | None = None,
    compute_ns: int = 0,
) -> Capture:  # fmt: skip
    """A request with ten waits of 20 ms at each stack; all but pauses are ended by a request of the thread itself to
    the swap device.

    Args:
        stacks: of the waits.
        within_write: whether each happens in a write call on a file.
        limit: what the control group's files say at the begin and, of counters, how much more at the end.
        host: what the host's files say.
        compute_ns: what the service computes besides.
    """
    scene = Scene()
    begun = scene.now
    scene.now += 2 * MS
    scene.request_arrives()
    for stack in stacks:
        for _ in range(WAITS):
            _wait(scene, stack, within_write=within_write)
    scene.compute(compute_ns)
    scene.answer()
    for number, frames in STACKS.items():
        scene.add(schema.STACKS, stack_id=number, frames=frames)
    for field, value in (limit or {}).items():
        for ts_ns, read in ((begun, 0.0 if field == "memory.failcnt" else value), (scene.now, value)):
            scene.add(schema.COUNTERS, ts_ns=ts_ns, source=f"{GROUP}/{field}", object=GROUP, field=field, value=read)
    for (source, field), values in (host or {}).items():
        for ts_ns, read in zip((begun, scene.now), values, strict=True):
            pid = source.split("/")[2]
            scene.add(schema.COUNTERS, ts_ns=ts_ns, source=source, object=pid if pid.isdigit() else "", field=field,
                      value=read)  # fmt: skip
    scene.add(schema.PROCESSES, pid=HOG, comm="hog", role="neighbour")
    for pid, field, value in ((HOG, "VmRSS", 9e6), (APP, "VmRSS", 1e3), (APP, "VmSwap", 2e3)):
        scene.add(schema.COUNTERS, ts_ns=scene.now, source=f"/proc/{pid}/status", object=str(pid), field=field,
                  value=value)  # fmt: skip
    return scene.capture()


def _wait(scene: Scene, stack: int, *, within_write: bool) -> None:
    start, wake = scene.now, scene.now + WAIT_NS
    if stack not in (PAUSED, IN_PIECES):
        scene.add(schema.BLOCKS, queued_ns=start + US, issue_ns=start + 2 * US, complete_ns=wake - 10 * US,
                  dev=SWAP_DEV, sector=start, bytes=4096, op="read" if stack == SWAPPED else "write", sync=True,
                  tid=APP, pid=APP)  # fmt: skip
    if within_write:
        scene.call(APP, WRITE, start, wake + 2 * US, ino=7, kind="reg", dev=SWAP_DEV)
    scene.sleep(APP, start + US, wake, wake + US, state=2, stack=stack)
    scene.now = wake + 3 * US


def limited(*, hits: float, used: float) -> dict[str, float]:
    """A limit of 1 GB, so often reached in the window, and what was used."""
    return {"memory.limit_in_bytes": 1e9, "memory.usage_in_bytes": used, "memory.failcnt": hits}


def named(verdict: Verdict) -> list[str]:
    """The heads."""
    return [cause.id for cause in verdict.causes if cause.level != "note"]


def only(verdict: Verdict, name: str) -> Cause:
    """That cause, head or because."""
    every = [one for head in verdict.causes for one in (head, *head.because)]
    (found,) = [one for one in every if one.id == name]
    return found


def nodes(node: Node, kind: str) -> list[Node]:
    """Every node of a kind."""
    own = [node] if node.kind == kind else []
    return own + [deeper for child in node.children for deeper in nodes(child, kind)]
