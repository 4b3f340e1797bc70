"""What only the host shows of a real server: pauses, huge pages, starved background threads, CPUs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from servers import answer, cause, examined, needs_redis, port_of, recorded, serving
from test_states import SOUND, keeps_asking

from culpa.collect.checkup_host import HostView, cpus_in, longest_gap_ns
from culpa.diagnose.judge import judge
from culpa.labs import redis_server, slowdisk, stand, throttle
from culpa.labs.site import opened

pytestmark = [pytest.mark.redis, pytest.mark.root, needs_redis]

UNLIMITED = 10_000_000
DIRTY_BYTES = 16 << 20


@pytest.mark.trace
def test_pauses_of_the_main_thread_are_its_append_only_files() -> None:
    """Four writers beside it fill what may be dirty on its disk; Redis writes little and waits all the same."""
    with opened(lambda _: None) as here:
        slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=UNLIMITED), dirty_bytes=DIRTY_BYTES)
        disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
        server = redis_server.start(here, disk.directory, appendonly="yes", appendfsync="everysec")
        copies = stand.copied(here, "copies.py", "copies.py")
        here.start([sys.executable, str(copies), str(disk.directory), "4", "24"], name="copies")
        with redis.Redis(port=server.port) as client, ExitStack() as stack:
            keeps_asking(stack, lambda: client.set("a", "x" * 400_000), pause=0.04)
            time.sleep(2)
            verdict = examined(server.client, trace=True, for_ns=4_000_000_000)
        expected = server.append_only_file()
    found = cause(verdict, "redis.aof.dirty-throttle")
    assert found.who is not None
    assert found.on is not None
    assert found.who.pid == server.pid
    assert found.on.path == str(expected)
    assert found.level in ("warning", "critical")


@contextlib.contextmanager
def _starved(tid: int) -> Iterator[None]:
    """A thread that gets next to no CPU: it may only idle, on a CPU that is taken."""
    cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(tid, {cpu})
    os.sched_setscheduler(tid, os.SCHED_IDLE, os.sched_param(0))
    code = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nos.nice(-12)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as hog:
        try:
            yield
        finally:
            hog.kill()


def test_memory_given_up_faster_than_it_is_freed_is_a_backlog(tmp_path: Path) -> None:
    """The thread that frees is starved; then it is let go, and the backlog is gone."""
    with serving(tmp_path, *SOUND) as client:
        freer = _thread(client, "bio_lazy_free")
        fill = "for i = 1, 2000 do redis.call('SADD', KEYS[1], i) end redis.call('UNLINK', KEYS[1])"
        with ExitStack() as stack, _starved(freer):
            asker = stack.enter_context(redis.Redis(port=port_of(client)))
            keeps_asking(stack, lambda: asker.eval(fill, 1, "k"), pause=0.001)
            time.sleep(0.5)
            behind = examined(client, for_ns=3_500_000_000)
        os.sched_setscheduler(freer, os.SCHED_OTHER, os.sched_param(0))
        deadline = time.monotonic() + 20
        while int(client.info("memory")["lazyfree_pending_objects"]) and time.monotonic() < deadline:
            time.sleep(0.1)
        caught_up = examined(client)
    assert answer(behind, "redis.lazyfree.backlog") == "fired"
    assert answer(caught_up, "redis.lazyfree.backlog") == "clear"


def test_one_cpu_for_all_threads_is_told_and_two_are_not(tmp_path: Path) -> None:
    """A note where nobody waits."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU only: NOT TESTED")
    with serving(tmp_path, *SOUND) as client:
        pid = int(client.info()["process_id"])
        free = examined(client)
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cpus[0]})
        bound = examined(client)
    assert answer(free, "redis.cpu.pinned") == "clear"
    assert answer(bound, "redis.cpu.pinned") == "fired"


def test_huge_pages_are_counted(tmp_path: Path) -> None:
    """Memory the allocator asks huge pages for, in a server that saves; without them the check is clear."""
    chosen = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    if "[never]" in chosen:
        pytest.skip("this host has no huge pages: NOT TESTED")
    (tmp_path / "huge").mkdir()
    (tmp_path / "small").mkdir()
    environment = {"MALLOC_CONF": "thp:always", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    with serving(tmp_path / "huge", *SOUND, "--disable-thp", "no", environment=environment) as client:
        client.execute_command("DEBUG", "POPULATE", "1200000", "k", "200")
        kilobytes = _huge_kilobytes(client)
        huge = examined(client)
        by_now = _huge_kilobytes(client)
    with serving(tmp_path / "small", *SOUND, "--disable-thp", "yes") as client:
        client.execute_command("DEBUG", "POPULATE", "100000", "k", "200")
        small = examined(client)
    # The kernel goes on to gather pages into huge ones: what culpa read lies between the two.
    assert answer(huge, "redis.fork.thp") in {_expected(kilobytes), _expected(by_now)}
    assert answer(small, "redis.fork.thp") == "clear"
    if kilobytes < 100 << 10:
        pytest.skip("the host gave no huge pages: NOT TESTED with them")


def _huge_kilobytes(client: redis.Redis) -> int:
    rollup = Path(f"/proc/{client.info()['process_id']}/smaps_rollup").read_text()
    return int(rollup.partition("AnonHugePages:")[2].split()[0])


def _expected(kilobytes: int) -> str:
    return "fired" if kilobytes >= 100 << 10 else "clear"


def test_a_host_that_lets_a_program_wait_is_seen(tmp_path: Path) -> None:
    """By a program that only looks at the clock, beside others on every CPU."""
    with serving(tmp_path, *SOUND) as client, ExitStack() as stack:
        for cpu in sorted(os.sched_getaffinity(0)):
            code = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
            for _ in range(4):
                stack.enter_context(_killed(subprocess.Popen([sys.executable, "-c", code])))
        time.sleep(0.3)
        verdict = judge(recorded(port_of(client), baseline=True))
    assert answer(verdict, "redis.cpu.host-latency") == "fired"


def test_without_a_baseline_the_hosts_latency_is_not_known(tmp_path: Path) -> None:
    """It is measured for the list only: it keeps a CPU busy. What it measures on one CPU is far below the window."""
    with serving(tmp_path, *SOUND) as client:
        assert answer(examined(client), "redis.cpu.host-latency") == "skipped"
    gaps = [longest_gap_ns(100_000_000) for _ in range(5)]  # a host that is away for a moment is so in one of them
    assert 0 < min(gaps) < 100_000_000


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here: NOT TESTED with a late sync")
def test_a_sync_in_the_background_that_is_late_is_a_note(tmp_path: Path) -> None:
    """Each sync of the background thread is made to take three seconds; the writes it postpones are counted."""
    with serving(tmp_path, *SOUND, "--appendonly", "yes", "--appendfsync", "everysec") as client:
        delay = ["strace", "-qq", "-p", str(_thread(client, "bio_aof_fsync")), "-o", "/dev/null"]
        delay += ["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_enter=3000000"]
        with ExitStack() as stack:
            stack.enter_context(_killed(subprocess.Popen(delay)))
            asker = stack.enter_context(redis.Redis(port=port_of(client)))
            keeps_asking(stack, lambda: asker.set("a", "b"), pause=0.02)
            deadline = time.monotonic() + 20
            while not int(client.info("persistence")["aof_delayed_fsync"]) and time.monotonic() < deadline:
                time.sleep(0.1)
            late = examined(client, for_ns=5_000_000_000)
    assert answer(late, "redis.aof.fsync-late") == "fired"
    assert cause(late, "redis.aof.fsync-late").level == "note"


def _thread(client: redis.Redis, name: str) -> int:
    """A thread of the server by its name, which it gives itself when it first runs."""
    tasks = Path(f"/proc/{client.info()['process_id']}/task")
    deadline = time.monotonic() + 10
    while not (found := [int(path.parent.name) for path in tasks.glob("*/comm") if path.read_text().strip() == name]):
        assert time.monotonic() < deadline, f"it has no thread {name}"
        time.sleep(0.01)
    (tid,) = found
    return tid


@contextlib.contextmanager
def _killed(child: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(("text", "count"), [("0-3", 4), ("0", 1), ("0-1,8,10-11", 5), ("", 0), ("x-", 0)])
def test_lists_of_cpus_are_counted(text: str, count: int) -> None:
    """As the kernel writes them; anything else is nothing."""
    assert cpus_in(text) == count


def test_a_process_that_is_gone_has_no_host_view(tmp_path: Path) -> None:
    """No rows and no error."""
    view = HostView(1 << 22, proc_root=tmp_path, sys_root=tmp_path)
    view.start()
    assert view.stop().is_empty()
