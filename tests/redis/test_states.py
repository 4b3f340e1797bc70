"""States and settings of real servers: each check fires on a sick one and is clear on a sound one."""

from __future__ import annotations

import itertools
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import redis
from hosttime import Kept, above_a_note, measured
from servers import (
    WINDOW_NS,
    answer,
    cause,
    examined,
    free_cluster_port,
    free_port,
    in_memory,
    needs_redis,
    once_asked,
    port_of,
    recorded,
    serving,
)

from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Verdict

pytestmark = [pytest.mark.redis, needs_redis]

SOUND = (
    "--save", "3600", "1", "--maxmemory", "500mb", "--maxmemory-policy", "allkeys-lru", "--tcp-backlog", "64",
    "--latency-monitor-threshold", "10",
)  # fmt: skip
Sick = Callable[[redis.Redis, ExitStack, Path], None]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Verdict, Kept]]:
    """A server with nothing wrong and a little to do, and how long the host kept it from its CPU."""
    with serving(tmp_path_factory.mktemp("sound"), *SOUND) as client:
        for number in range(2000):
            client.set(f"user:{number}", "x" * 50)
        with measured(client) as kept:
            verdict = examined(client)
        yield verdict, kept


@pytest.fixture(scope="module")
def sound(seen: tuple[Verdict, Kept]) -> Verdict:
    """What is said of that server."""
    return seen[0]


def _config(**settings: str) -> Sick:
    def make(client: redis.Redis, _stack: ExitStack, _directory: Path) -> None:
        for name, value in settings.items():
            client.config_set(name.replace("_", "-"), value)

    return make


def _refusing(client: redis.Redis, stack: ExitStack, _directory: Path) -> None:
    """Full, and asked to write all the while."""
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "500000")
    keeps_asking(stack, lambda: client.set("one", "more"))


def _fragmented(client: redis.Redis, _stack: ExitStack, _directory: Path) -> None:
    """Small values between which most were deleted."""
    pipeline = client.pipeline(transaction=False)
    for number in range(200_000):
        pipeline.set(f"v:{number}", "x" * 400)
    pipeline.execute()
    for number in range(200_000):
        if number % 12:
            pipeline.delete(f"v:{number}")
    pipeline.execute()
    time.sleep(0.3)


def _many_scripts(client: redis.Redis, _stack: ExitStack, _directory: Path) -> None:
    pipeline = client.pipeline(transaction=False)
    for number in range(1200):
        pipeline.eval(f"return {number}", 0)
    pipeline.execute()


def _failing_save(client: redis.Redis, _stack: ExitStack, directory: Path) -> None:
    """The file it would write to is a directory that is not empty."""
    (directory / "not-a-file.rdb").mkdir()
    (directory / "not-a-file.rdb" / "x").touch()
    client.config_set("dbfilename", "not-a-file.rdb")
    client.set("a", "b")
    client.bgsave()
    deadline = time.monotonic() + 10
    while client.info("persistence")["rdb_last_bgsave_status"] == "ok" and time.monotonic() < deadline:
        time.sleep(0.05)


def _failing_writes(client: redis.Redis, _stack: ExitStack, _directory: Path) -> None:
    """An append-only file that may not grow any more, as on a full disk."""
    client.config_set("appendonly", "yes")
    deadline = time.monotonic() + 10
    while client.info("persistence")["aof_rewrite_in_progress"] and time.monotonic() < deadline:
        time.sleep(0.05)
    resource.prlimit(int(client.info()["process_id"]), resource.RLIMIT_FSIZE, (4096, 4096))
    deadline = time.monotonic() + 10
    while client.info("persistence")["aof_last_write_status"] == "ok" and time.monotonic() < deadline:
        with suppress(redis.ResponseError):  # MISCONF: that is what is wanted
            client.set("a", "x" * 2000)


def _crowded(client: redis.Redis, stack: ExitStack, _directory: Path) -> None:
    client.config_set("maxclients", "20")
    for _ in range(16):
        one = redis.Redis(port=port_of(client))
        one.ping()
        stack.callback(one.close)


def _watched(client: redis.Redis, stack: ExitStack, _directory: Path) -> None:
    watcher = stack.enter_context(redis.Redis(port=port_of(client)).monitor())
    assert watcher is not None


def _orphan(client: redis.Redis, _stack: ExitStack, _directory: Path) -> None:
    client.replicaof("127.0.0.1", str(free_port()))
    deadline = time.monotonic() + 10
    while client.info("replication")["master_link_status"] != "down" and time.monotonic() < deadline:
        time.sleep(0.05)


def _past_peak(client: redis.Redis, _stack: ExitStack, _directory: Path) -> None:
    """Most of what it held is gone, but the process keeps the memory: small values stay between the holes."""
    _fragmented(client, _stack, _directory)


def keeps_asking(stack: ExitStack, ask: Callable[[], object], pause: float = 0.005) -> None:
    """Ask again and again from a thread of its own, whatever the answer is."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(pause):
            try:
                ask()
            except redis.ResponseError:
                continue

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(done.set)


def _unread(client: redis.Redis, stack: ExitStack, _directory: Path) -> None:
    """A client that asks for much and reads nothing."""
    client.set("large", "x" * 1_000_000)
    deaf = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(client))))
    deaf.sendall(b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n" * 60)
    deadline = time.monotonic() + 10
    while not any(int(one["omem"]) > 20_000_000 for one in client.client_list()) and time.monotonic() < deadline:
        time.sleep(0.05)


def _saving_often(client: redis.Redis, stack: ExitStack, _directory: Path) -> None:
    """Large enough that a fork takes more than a millisecond on this host, and written to all the while. Values that
    are mostly zeros: much memory, and a small file.
    """
    client.config_set("maxmemory", "4gb")
    client.execute_command("DEBUG", "POPULATE", "2000", "k", "100000")
    client.config_set("save", "1 1")
    count = itertools.count()
    keeps_asking(stack, lambda: client.set("n", next(count)))
    for more in range(10):
        _wait_for_a_fork(client)
        if client.info("stats")["latest_fork_usec"] >= FORK_US:
            return
        client.execute_command("DEBUG", "POPULATE", "2000", f"k{more}", "100000")
    pytest.fail("no fork takes long on this host")


FORK_US = 2500
"""The check begins at a millisecond: so much above it that no fork of that server is shorter."""


def _wait_for_a_fork(client: redis.Redis) -> None:
    forks = client.info("stats")["total_forks"]
    deadline = time.monotonic() + 20
    while client.info("stats")["total_forks"] == forks:
        assert time.monotonic() < deadline, "it does not save"
        time.sleep(0.05)


CASES: tuple[tuple[str, tuple[str, ...], Sick], ...] = (
    ("redis.monitor.off", (), _config(latency_monitor_threshold="0")),
    ("redis.monitor.blind", (), _config(latency_monitor_threshold="100")),
    ("redis.command.invisible", (), _config(slowlog_log_slower_than="-1")),
    ("redis.mem.no-limit", (), _config(maxmemory="0")),
    ("redis.evict.refuse", (), _refusing),
    ("redis.mem.fragmentation", (), _fragmented),
    ("redis.mem.past-peak", (), _past_peak),
    ("redis.script.cache", (), _many_scripts),
    ("redis.rdb.failing", (), _failing_save),
    ("redis.aof.failing", (), _failing_writes),
    ("redis.rdb.none", (), _config(save="")),
    ("redis.clients.limit", (), _crowded),
    ("redis.clients.tool", (), _watched),
    ("redis.clients.slow-reader", (), _unread),
    ("redis.rdb.too-often", (), _saving_often),
    ("redis.repl.down", (), _orphan),
    ("redis.cluster.state", ("--cluster-enabled", "yes"), lambda *_: None),
    ("redis.net.backlog", ("--tcp-backlog", "60000"), lambda *_: None),
    ("redis.cpu.io-threads", ("--io-threads", "8"), lambda *_: None),
)
RISKS = frozenset(
    {"redis.evict.refuse", "redis.rdb.failing", "redis.aof.failing", "redis.repl.down", "redis.cluster.state"}
)


@pytest.mark.parametrize(("check", "settings", "sick"), CASES, ids=[case[0] for case in CASES])
def test_a_sick_server_fires_the_check_and_nothing_worse(
    tmp_path: Path, check: str, settings: tuple[str, ...], sick: Sick
) -> None:
    """A note, or a risk; never a slowness that nobody waited for."""
    port = free_cluster_port() if "--cluster-enabled" in settings else None
    with serving(tmp_path, *SOUND, *settings, port=port) as client, ExitStack() as stack:
        if not settings or "--cluster-enabled" not in settings:
            client.set("some", "key")
        sick(client, stack, tmp_path)
        verdict = examined(client, for_ns=5 * WINDOW_NS if check == "redis.rdb.too-often" else WINDOW_NS)
    assert answer(verdict, check) == "fired"
    found = cause(verdict, check)
    assert found.level == ("warning" if check in RISKS else "note")
    assert found.kind == ("risk" if check in RISKS else "slowness")
    assert found.evidence
    assert found.fixes


def test_writes_refused_for_the_first_time_are_all_counted(tmp_path: Path) -> None:
    """A server that has refused none before has no count of them: it began at 0, not where it was first seen."""
    with serving(tmp_path, *SOUND, "--maxmemory-policy", "noeviction") as client:
        client.config_set("maxmemory", "500000")

        def refused() -> None:
            for _ in range(7):
                with suppress(redis.ResponseError):
                    client.set("one", "more")

        with once_asked(client, refused):
            verdict = examined(client, for_ns=2 * WINDOW_NS)
    facts = {fact.fact: fact.value for fact in cause(verdict, "redis.evict.refuse").evidence}
    assert 7 == facts["writes refused with OOM in the window"]


@pytest.mark.parametrize("check", [case[0] for case in CASES])
def test_a_sound_server_is_clear_of_it(sound: Verdict, check: str) -> None:
    """Looked at, and not found."""
    assert answer(sound, check) == "clear"


def test_a_sound_server_has_no_cause_above_a_note(seen: tuple[Verdict, Kept]) -> None:
    """And so the state is not slow."""
    assert set() == above_a_note(*seen)


def test_the_password_of_a_server_stays_out_of_sight(tmp_path: Path) -> None:
    """It is used, and stands neither in the capture nor in what is printed."""
    secret = "s3cret-of-the-test"
    saved = tmp_path / "x.culpa"
    with serving(tmp_path, *SOUND, "--requirepass", secret) as client:
        command = [sys.executable, "-m", "culpa", "redis", f"redis://127.0.0.1:{port_of(client)}", "--for", "1s"]
        told = subprocess.run(
            [*command, "--no-trace", "-v", "-o", str(saved)], capture_output=True, check=True,
            env={"REDISCLI_AUTH": secret, "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        refused = subprocess.run([*command, "--no-trace"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert secret.encode() not in told.stdout + told.stderr + saved.read_bytes()
    assert refused.returncode == 1
    assert b"wants a password" in refused.stderr
    assert b"REDISCLI_AUTH" in refused.stderr
    assert b"Traceback" not in refused.stderr


def test_a_replica_that_loads_its_copy_is_told_so(tmp_path: Path) -> None:
    """It refuses its clients meanwhile, and that is a risk and no slowness; once loaded the check is clear."""
    with ExitStack() as stack:
        directory = stack.enter_context(in_memory())  # a disk may take longer for the copy than the window is
        (directory / "primary").mkdir()
        (directory / "replica").mkdir()
        primary = stack.enter_context(serving(directory / "primary", "--save", ""))
        replica = stack.enter_context(serving(directory / "replica", *SOUND))
        primary.execute_command("DEBUG", "POPULATE", "1500000", "k", "60")
        with once_asked(replica, lambda: replica.replicaof("127.0.0.1", str(port_of(primary)))):
            loading = examined(replica, for_ns=6_000_000_000)
        deadline = time.monotonic() + 60
        while replica.info("replication")["master_link_status"] != "up" and time.monotonic() < deadline:
            time.sleep(0.1)
        loaded = examined(replica)
    assert answer(loading, "redis.repl.load-blocks") == "fired"
    refused = [one for one in cause(loading, "redis.repl.load-blocks").evidence if "answered with LOADING" in one.fact]
    assert refused[0].value != 0
    assert answer(loaded, "redis.repl.load-blocks") == "clear"
    assert answer(loaded, "redis.repl.down") == "clear"


def test_the_hosts_overcommit_is_held_against_the_forks(sound: Verdict) -> None:
    """A server that saves needs it; one that never forks does not."""
    allowed = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1"
    assert answer(sound, "redis.fork.overcommit") == ("clear" if allowed else "fired")


def test_a_server_that_computes_all_the_time_is_saturated(tmp_path: Path) -> None:
    """It fires where the kernel, too, says that it had a CPU nearly all the time."""
    with serving(tmp_path, *SOUND) as client, ExitStack() as stack:
        asker, pid = redis.Redis(port=port_of(client)), int(client.info()["process_id"])
        stack.callback(asker.close)
        keeps_asking(stack, lambda: asker.eval("local n = 0 for i = 1, 300000 do n = n + i end return n", 0), pause=0)
        began_ns, used_ns = time.monotonic_ns(), _cpu_ns(pid)
        capture = recorded(port_of(client), for_ns=3 * WINDOW_NS)
        share = (_cpu_ns(pid) - used_ns) / (time.monotonic_ns() - began_ns)
    verdict = judge(capture)  # later: it would keep this process from asking
    if abs(share - 0.9) > 0.04:  # nearer than that the two windows, which are not quite the same, may differ
        assert answer(verdict, "redis.cpu.saturated") == ("fired" if share > 0.9 else "clear")


def _cpu_ns(pid: int) -> int:
    """CPU time of the main thread."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
