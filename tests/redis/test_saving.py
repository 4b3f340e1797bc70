"""How real servers get their data onto the disk: long saves, a slow disk, the end of a rewrite, renames; the list."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from servers import (
    EACH_SERVER,
    INSTALLED,
    answer,
    cause,
    examined,
    in_memory,
    needs_installed,
    needs_redis,
    once_asked,
    port_of,
    recorded,
    serving,
)
from test_states import SOUND, keeps_asking

from culpa.collect.checkup_host import HostView, cpus_of
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Check, Verdict
from culpa.labs import disturbance, slowdisk, throttle
from culpa.labs.places import Places, of_host
from culpa.labs.site import opened
from culpa.report import checklist

pytestmark = [pytest.mark.redis, needs_redis]

EACH = pytest.mark.parametrize("program", EACH_SERVER)
BUNDLED = EACH_SERVER[0].values[0]
FILL = "for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'k' .. i, 'x') end"
KEYS, DELAY_US = 300_000, 500
TRIES = 3
AOF = ("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")


@EACH
def test_a_save_that_will_take_minutes_is_told_while_it_runs(tmp_path: Path, program: str) -> None:
    """Half a millisecond for each of 300,000 keys is 150 s; the pace of some seconds says so."""
    with serving(tmp_path, *SOUND, program=program) as client:
        client.eval(FILL, 0, KEYS)
        client.config_set("rdb-key-save-delay", DELAY_US)
        began = time.monotonic()
        client.bgsave()
        verdict = examined(client, for_ns=6_000_000_000)
        saved, took = client.info("persistence")["current_save_keys_processed"], time.monotonic() - began
    found = cause(verdict, "redis.rdb.slow")
    (expected,) = [fact.value for fact in found.evidence if fact.fact.startswith("at this pace")]
    assert "note" == found.level
    assert isinstance(expected, int | float)
    # A child whose naps end late is slower, as its progress until now shows; that comes in steps of 2048 keys.
    measured = KEYS * took / saved
    assert KEYS * DELAY_US / 1e6 <= expected <= max(2 * KEYS * DELAY_US / 1e6, 1.5 * measured)


@EACH
def test_a_save_of_seconds_is_not(tmp_path: Path, program: str) -> None:
    """The same keys without the delay."""
    with serving(tmp_path, *SOUND, program=program) as client:
        client.eval(FILL, 0, KEYS)
        client.bgsave()
        verdict = examined(client)
    assert "clear" == answer(verdict, "redis.rdb.slow")


@pytest.mark.root
@pytest.mark.trace
@EACH
def test_a_slow_disk_below_the_files_is_told(program: str) -> None:
    """Ten writes a second are all it takes; the same writes on a disk in memory that takes any number are no news."""
    slow, device = _appending(of_host(), program, per_second=10)
    swift = _on_a_swift_disk(program)
    found = cause(slow, "redis.disk.slow")
    assert "note" == found.level
    assert found.on is not None
    assert str(found.on.setting).endswith(device)
    check = _check(swift, "redis.disk.slow")
    assert "clear" == check.answer
    assert check.evidence


def _on_a_swift_disk(program: str) -> Verdict:
    """Threads of the kernel are such a disk: where others had the CPUs, by the labs' own measure, it is tried again,
    for all to see. The last try counts in any case.
    """
    for left in range(TRIES - 1, -1, -1):
        with disturbance.watched() as watch, in_memory() as directory:
            verdict, _ = _appending(replace(of_host(), temp=directory, state=directory), program, per_second=10_000_000)
            disturbed = watch.end()
        if not left or not disturbed or "clear" == answer(verdict, "redis.disk.slow"):
            break
        warnings.warn(f"a disk in memory again: {'; '.join(disturbed)}", stacklevel=2)
    return verdict


def _appending(places: Places, program: str, *, per_second: int) -> tuple[Verdict, str]:
    """The verdict on a server whose files are on such a disk, and the disk."""
    with opened(lambda _: None, places=places) as here:
        slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=per_second))
        disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
        return _appended(disk, program), str(disk.device_name)


def _appended(disk: slowdisk.Disk, program: str) -> Verdict:
    settings = (*SOUND, *AOF, "--appendfsync", "everysec")
    with serving(disk.directory, *settings, program=program) as client, ExitStack() as stack:
        disk.admit(int(client.info()["process_id"]))
        keeps_asking(stack, lambda: client.set("a", "b"), pause=0.02)
        time.sleep(1)
        return examined(client, trace=True, for_ns=6_000_000_000)


def test_what_waits_for_the_end_of_a_rewrite_is_told_up_to_6(tmp_path: Path) -> None:
    """A child that is slow takes little of what clients write meanwhile."""
    with serving(tmp_path, *SOUND, *AOF, "--maxmemory", "0", program=BUNDLED) as client:
        client.eval(FILL, 0, 30_000)
        client.config_set("rdb-key-save-delay", 1000)
        client.bgrewriteaof()
        for _ in range(130):
            client.set("large", "x" * 1_000_000)
        verdict = examined(client)
    found = cause(verdict, "redis.aof.rewrite-tail")
    assert "note" == found.level
    assert "INFO persistence: aof_rewrite_buffer_length" == found.evidence[0].source


@EACH
def test_a_rewrite_that_ends_at_once_leaves_nothing(tmp_path: Path, program: str) -> None:
    """Up to 6.2 nothing waited; since 7.0 nothing can, and the figure says so."""
    with serving(tmp_path, *SOUND, *AOF, program=program) as client:
        client.bgrewriteaof()
        verdict = examined(client)
        major = int(client.info("server")["redis_version"].partition(".")[0])
    (check,) = [one for one in verdict.checks if one.id == "redis.aof.rewrite-tail"]
    assert "clear" == check.answer
    assert ("since 7.0" in check.evidence[0].fact) == (major >= 7)


@pytest.mark.root
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here: NOT TESTED with a slow rename")
@EACH
def test_a_rename_in_the_main_thread_that_takes_long_is_told(program: str) -> None:
    """Each is made to take 80 ms; the server's own monitor notes it. Without that a rewrite is no news."""
    with ExitStack() as stack:
        directory = stack.enter_context(in_memory())  # a disk may take long for it by itself
        client = stack.enter_context(serving(directory, *SOUND, *AOF, program=program))
        swift = _rewriting(client)
        delay = ["strace", "-qq", "-p", str(client.info()["process_id"]), "-o", "/dev/null"]
        delay += ["-e", "trace=rename", "-e", "inject=rename:delay_enter=80000"]
        strace = subprocess.Popen(delay)
        stack.callback(strace.wait)
        stack.callback(strace.kill)
        _wait_until_traced(int(client.info()["process_id"]))
        slow = _rewriting(client)
    assert "clear" == answer(swift, "redis.aof.rename-unlink")
    assert "fired" == answer(slow, "redis.aof.rename-unlink")
    assert "aof-rename" in cause(slow, "redis.aof.rename-unlink").evidence[0].fact


def _rewriting(client: redis.Redis) -> Verdict:
    """A check-up with a rewrite in it, and with the monitor on."""
    with once_asked(client, client.bgrewriteaof, after=10):
        return judge(recorded(port_of(client), latency_monitor=True, for_ns=3_000_000_000))


def _wait_until_traced(pid: int) -> None:
    deadline = time.monotonic() + 10
    while "\nTracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "strace does not attach"
        time.sleep(0.01)


# The list -------------------------------------------------------------------------------------------------------


def _listed(verdict: Verdict) -> str:
    return "\n".join(line.text for line in checklist.lines(verdict))


def _check(verdict: Verdict, name: str) -> Check:
    (found,) = [one for one in verdict.checks if one.id == name]
    return found


@EACH
@pytest.mark.parametrize(
    ("hz", "effort", "looked_at", "stale", "longest_ms"), [(10, 1, 200, 10, 25.0), (50, 3, 1500, 8, 5.8)]
)
def test_the_list_has_the_expire_cycle_in_this_servers_numbers(
    tmp_path: Path, program: str, hz: int, effort: int, looked_at: int, stale: int, longest_ms: float
) -> None:
    """200 keys a second is 20 a sample at hz 10; 30 at effort 3. By the constants of src/expire.c of 6.2 and 7.0."""
    settings = ("--hz", str(hz), "--active-expire-effort", str(effort))
    with serving(tmp_path, *SOUND, *settings, program=program) as client:
        verdict = examined(client)
    values = [fact.value for fact in _check(verdict, "redis.expire.burst").evidence][-3:]
    assert [looked_at, stale, pytest.approx(longest_ms)] == values
    assert f"hz {hz}" in _listed(verdict)


def test_the_list_has_when_dirty_pages_are_written_back(tmp_path: Path) -> None:
    """By age and by amount, as the kernel has it."""
    with serving(tmp_path, *SOUND) as client:
        verdict = examined(client)
    told = {fact.source: fact.value for fact in _check(verdict, "redis.aof.dirty-throttle").evidence}
    for name in ("dirty_expire_centisecs", "dirty_writeback_centisecs"):
        assert int(Path(f"/proc/sys/vm/{name}").read_text()) / 100 == told[f"vm.{name}"]
    text = _listed(verdict)
    for words in ("older than this", "looked at each", "The end of a rewrite", "renamed over, deleted or closed"):
        assert words in text


@pytest.mark.root
def test_a_pinned_server_is_told_which_cpus_to_use(tmp_path: Path) -> None:
    """The command that is printed runs, and lets every thread use both."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU only: NOT TESTED")
    with serving(tmp_path, *SOUND) as client:
        pid = int(client.info()["process_id"])
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cpus[0]})
        verdict = examined(client)
        (fix,) = cause(verdict, "redis.cpu.pinned").fixes
        assert fix.argv is not None
        subprocess.run(fix.argv, check=True, capture_output=True)
        allowed = {frozenset(os.sched_getaffinity(int(task.name))) for task in Path(f"/proc/{pid}/task").iterdir()}
    siblings = set(
        cpus_of(Path(f"/sys/devices/system/cpu/cpu{cpus[0]}/topology/thread_siblings_list").read_text().strip())
    )
    assert 1 == len(allowed)
    (now,) = allowed
    assert {cpus[0]} < now
    assert len(siblings) == 1 or now == siblings
    assert fix.argv[2] in _listed(verdict)


def test_the_cpus_of_a_core_are_read(tmp_path: Path) -> None:
    """A host with two logical CPUs a core, numbered as most are: 3 and 11."""
    status = tmp_path / "proc/7/task/7/status"
    status.parent.mkdir(parents=True)
    status.write_text("Name:\tredis\nCpus_allowed_list:\t3\n")
    topology = tmp_path / "sys/devices/system/cpu/cpu3/topology"
    topology.mkdir(parents=True)
    (topology / "thread_siblings_list").write_text("3,11\n")
    (topology / "core_siblings_list").write_text("0-15\n")
    view = HostView(7, proc_root=tmp_path / "proc", sys_root=tmp_path / "sys")
    view.start()
    rows = view.stop()
    found = {
        field: sorted(int(v) for f, v in rows.select("field", "value").iter_rows() if f == field)
        for field in ("cpu", "same_core", "same_socket")
    }
    assert {"cpu": [3], "same_core": [3, 11], "same_socket": list(range(16))} == found


@needs_installed
def test_the_two_servers_are_two(tmp_path: Path) -> None:
    """Else the tests above say less than they seem to."""
    assert INSTALLED != BUNDLED
