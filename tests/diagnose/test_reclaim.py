"""A host that is short of memory: when that is what a request waited for, and when it is something else or nothing."""

from __future__ import annotations

import msgspec
import pytest
from memory_scene import (
    AT_LIMIT,
    HOG,
    IN_PIECES,
    PAUSED,
    SHORT,
    SWAPPED,
    WAIT_NS,
    WAITS,
    Files,
    limited,
    named,
    nodes,
    only,
    waited,
)
from scene import APP, MS, Scene

from culpa.capture import schema
from culpa.capture.redact import redact
from culpa.diagnose.judge import judge
from culpa.diagnose.picture import draw
from culpa.diagnose.rule import Skipped
from culpa.diagnose.rules.reclaim import reclaim
from culpa.diagnose.verdict import Verdict
from culpa.model import requests

KSWAPD = 44
VMSTAT, MEMINFO, PRESSURE = "/proc/vmstat", "/proc/meminfo", "/proc/pressure/memory"
BUSY: Files = {
    (VMSTAT, "allocstall_normal"): (100.0, 140.0),
    (VMSTAT, "allocstall_movable"): (7.0, 9.0),
    (VMSTAT, "pgscan_direct"): (1e6, 1.009e6),
    (VMSTAT, "pgscan_direct_throttle"): (0.0, 0.0),
    (VMSTAT, "pgsteal_direct"): (1e6, 1.00005e6),
    (VMSTAT, "compact_stall"): (3.0, 3.0),
    (PRESSURE, "some.total"): (5e6, 5.15e6),
    (MEMINFO, "MemAvailable"): (9e5, 2e5),
    (MEMINFO, "MemTotal"): (1e7, 1e7),
    (f"/proc/{HOG}/status", "VmRSS"): (1e6, 9e6),
}
"""42 times, two zones together; 9,000 pages looked at for 50; 0.15 s of pressure; somebody grew by 8.19 GB."""
CALM: Files = {key: (before, before) for key, (before, _) in BUSY.items() if key[0] == VMSTAT}


def mentions(verdict: Verdict) -> bool:
    """Whether the cause is named anywhere, as a note or below another one."""
    return any(one.id == "mem.reclaim" for head in verdict.causes for one in (head, *head.because))


@pytest.mark.parametrize("host", [BUSY, {}], ids=["counted", "not counted"])
@pytest.mark.parametrize(("stack", "device"), [(SHORT, "sdz"), (PAUSED, None), (IN_PIECES, None)])
def test_waits_while_room_is_made_for_the_host_are_laid_at_its_door(
    stack: int, device: str | None, host: Files
) -> None:
    """Whether a device takes what is thrown out, a pause passes, or pages are moved together."""
    verdict = judge(waited(stack, host=host))
    assert ["mem.reclaim"] == named(verdict)
    cause = only(verdict, "mem.reclaim")
    assert cause.who is not None
    assert (APP, device) == (cause.who.pid, cause.on.device if cause.on else None)
    assert cause.share > 0.9
    assert cause.evidence[0].fact == f"service[{APP}] made room for the pages that it asked for, 10 waits"
    assert 0.2 == pytest.approx(cause.evidence[0].value, abs=0.001)
    assert ["memory-more", "reclaim-sooner"] == [fix.id for fix in cause.fixes]
    assert (["disk.slow-device"] if device else []) == [because.id for because in cause.because]


def test_what_the_kernel_counted_is_told_and_who_holds_the_memory() -> None:
    """All zones together, the pressure, what is left, and who grew."""
    cause = only(judge(waited(SHORT, IN_PIECES, host=BUSY)), "mem.reclaim")
    told = {one.fact: one.value for one in cause.evidence}
    assert 0.4 == pytest.approx(told[f"service[{APP}] made room for the pages that it asked for, 20 waits"], abs=0.001)
    assert 0.2 == pytest.approx(told["of it, so that pages lie in one piece (compaction), 10 waits"], abs=0.001)
    assert 42 == told["times that a thread of the host had to make room itself (direct reclaim)"]
    assert 9000 == told["pages that they looked at for it; 50 could be thrown out"]
    assert 0.15 == told["of the window, some thread of the host waited for memory"]
    assert 204_800_000 == told["memory available on the host, of 10.2 GB"]
    assert 9_216_000_000 == told[f"hog[{HOG}] holds memory, 8.19 GB of it since the window began"]


def test_older_kernels_count_for_each_zone() -> None:
    """Before Linux 4.8 the pages that were looked at have a field for each zone; how often one waited is another."""
    fields = {"allocstall": 5.0, "pgscan_direct_dma32": 30.0, "pgscan_direct_normal": 40.0,
              "pgscan_direct_throttle": 900.0, "pgsteal_direct_normal": 2.0}  # fmt: skip
    old: Files = {(VMSTAT, field): (0.0, grown) for field, grown in fields.items()}
    told = {one.fact: one.value for one in only(judge(waited(SHORT, host=old)), "mem.reclaim").evidence}
    assert 5 == told["times that a thread of the host had to make room itself (direct reclaim)"]
    assert 70 == told["pages that they looked at for it; 2 could be thrown out"]


def test_with_names_hidden_it_is_the_same() -> None:
    """Files of the kernel keep their names."""
    capture = waited(SHORT, host=BUSY)
    plain, hidden = (only(judge(one), "mem.reclaim") for one in (capture, redact(capture, b"k" * 16)))
    assert [one.value for one in plain.evidence] == [one.value for one in hidden.evidence]


@pytest.mark.parametrize("host", [BUSY, CALM, {}], ids=["host short as well", "host at ease", "not counted"])
@pytest.mark.parametrize(("stack", "cause"), [(AT_LIMIT, "mem.cgroup-limit"), (SWAPPED, "mem.swap")])
def test_a_groups_limit_and_pages_in_swap_are_something_else(stack: int, cause: str, host: Files) -> None:
    """Even while others on the host have to make room."""
    verdict = judge(waited(stack, limit=limited(hits=0.0, used=1e8), host=host))
    assert [cause] == named(verdict)
    assert not mentions(verdict)


def test_both_are_named_where_both_are_waited_for() -> None:
    """At the limit of its group, and for the host."""
    verdict = judge(waited(AT_LIMIT, PAUSED, limit=limited(hits=70.0, used=0.99e9), host=BUSY))
    assert {"mem.cgroup-limit", "mem.reclaim"} == set(named(verdict))
    assert [0.5, 0.5] == pytest.approx([cause.share for cause in verdict.causes if cause.level != "note"], abs=0.03)


def test_a_little_of_it_is_no_cause() -> None:
    """A fifth of a second of three and more."""
    verdict = judge(waited(SHORT, host=BUSY, compute_ns=15 * WAITS * WAIT_NS))
    assert not mentions(verdict)
    assert nodes(verdict.blame, "reclaim")


def test_where_nobody_had_to_make_room_a_stack_that_says_so_is_not_believed() -> None:
    """The kernel counts it for the host only: what looks like it was for a control group, or by hand (drop_caches)."""
    assert not mentions(judge(waited(SHORT, host=CALM)))


def test_counters_that_were_read_once_acquit_nobody() -> None:
    """Nothing can be said of what they grew by."""
    capture = waited(SHORT, host=CALM)
    rows = capture.tables[schema.COUNTERS.name]
    once = rows.unique(["source", "object", "field"], keep="first", maintain_order=True)
    capture.tables[schema.COUNTERS.name] = once  # type: ignore[index]  # a dict here
    assert ["mem.reclaim"] == named(judge(capture))


@pytest.mark.parametrize("kind", ["url", "process", "host"])
def test_what_the_kernel_does_beside_the_programs_delays_nobody(kind: str) -> None:
    """kswapd writes all the time, and its counters fly; the service computes."""
    scene = Scene()
    begun = scene.now
    scene.now += 2 * MS
    scene.request_arrives()
    scene.add(schema.TASKS, tid=KSWAPD, pid=KSWAPD, comm="kswapd0", kernel=True, watched_ns=begun)
    scene.add(schema.PROCESSES, pid=KSWAPD, comm="kswapd0", role="kernel")
    scene.add(schema.STACKS, stack_id=21, frames=["io_schedule", "folio_wait_writeback", "shrink_folio_list",
                                                  "shrink_node", "balance_pgdat", "kswapd", "kthread"])  # fmt: skip
    for _ in range(WAITS):
        scene.sleep(KSWAPD, scene.now, scene.now + 19 * MS, scene.now + 19 * MS, state=2, stack=21)
        scene.compute(20 * MS)
    scene.answer()
    for field, grown in (("pgscan_kswapd", 9e6), ("allocstall_normal", 3.0)):
        for ts_ns, value in ((begun, 0.0), (scene.now, grown)):
            scene.add(schema.COUNTERS, ts_ns=ts_ns, source=VMSTAT, object="", field=field, value=value)
    assert not mentions(judge(scene.capture(kind=kind)))


def test_without_waits_the_rule_cannot_look() -> None:
    """Counters alone do not say that anybody waited."""
    capture = waited(SHORT, host=BUSY)
    tables = {name: frame for name, frame in capture.tables.items() if name != schema.OFFCPU.name}
    blind = type(capture)(manifest=msgspec.structs.replace(capture.manifest), tables=tables)
    assert isinstance(reclaim.ask(draw(blind, requests.find(blind))), Skipped)


@pytest.mark.parametrize(("stack", "acquitted"), [(SHORT, False), (SWAPPED, True)])
def test_memory_is_not_acquitted_where_room_was_made_for_the_host(stack: int, acquitted: bool) -> None:
    """With half of it available there was none in one piece, or none in that zone."""
    half: Files = {(MEMINFO, "MemAvailable"): (5e6, 5e6), (MEMINFO, "MemTotal"): (1e7, 1e7)}
    verdict = judge(waited(stack, host=half))
    assert acquitted is any(one.resource == "memory" for one in verdict.ruled_out)
