"""Kill culpa at random moments of applying and undoing, take everything back, and compare with how it was before.

    python tests/fix/kills.py 100

A real redis-server, the kernel's limits on unwritten data (where they can be written), the CPUs, nice values and I/O
classes of a real process. What is compared is read past culpa: all of CONFIG, the files of /proc/sys/vm, each thread.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from fixing import COMMAND_LINE, VM, _environment, _writable, culpa, sleeper, vm
from servers import port_of, serving

from culpa.fix.journal import Journal
from culpa.fix.processes import threads_of

WORKER = """
import os, random, sys, time
from pathlib import Path
from fixing import CONNECTS, applied, kernel_setting, known, process_setting, redis_setting
from culpa.errors import CulpaError
from culpa.fix import run
from culpa.fix.journal import Journal
from culpa.fix.switch import Switch
journal, port, pid, kinds = Journal(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(",")
FIXES = {
    "redis": [("redis-hz", lambda: redis_setting(port, "hz", "100")),
              ("redis-appendfsync-everysec", lambda: redis_setting(port, "appendfsync", "everysec")),
              ("redis-save-rarely", lambda: redis_setting(port, "save", "3600 1"))],
    "kernel": [("dirty-background", lambda: kernel_setting("vm.dirty_background_bytes", str(4 << 30))),
               ("dirty-limits", lambda: kernel_setting("vm.dirty_ratio", "43"))],
    "cpus": [("redis-both-siblings", lambda: process_setting("CPUs", "0", pid))],
    "nice": [("cpu-renice-neighbour", lambda: process_setting("nice", "10", pid))],
}
for line in sys.stdin:
    child = os.fork()
    if not child:
        random.seed(int(line))
        while True:
            for id, parameters in random.sample([one for kind in kinds for one in FIXES[kind]], 2):
                try:
                    if random.random() < float(sys.argv[5]):
                        switch = Switch(known(id), parameters(), cause="some.cause", seen_unix=time.time(),
                                        journal=journal, connects=CONNECTS)
                        for _ in range(random.randrange(1, 6)):
                            (switch.off if switch.is_on else switch.on)()
                    else:
                        applied(id, parameters(), journal)
                except CulpaError as error:
                    if "is in place" not in str(error):
                        print("refused:", error, file=sys.stderr, flush=True)
                        os._exit(1)
            for record in reversed(journal.found().open):
                if random.random() < 0.7:
                    run.undo(record, journal=journal, connects=CONNECTS)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""For each seed that it reads: a child that applies and undoes until it is killed; its number, then how it ended.

Such a share of the fixes as its last argument says is turned on and off as a trial does.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Of so many runs, in how many all was as before; in how many the kill left something to take back."""

    runs: int
    right: int
    left_open: int
    kinds: tuple[str, ...]
    wrong: tuple[str, ...]


def kills(runs: int, seed: int, *, tried: float = 0.0) -> Count:
    """So many runs, each with its own moment; such a share of the fixes is turned on and off as a trial does."""
    kinds = ["redis"]
    if _writable(VM / "dirty_background_ratio"):
        kinds.append("kernel")
    if os.geteuid() == 0:
        kinds += ["cpus", "nice"]
    with (
        tempfile.TemporaryDirectory() as folder, serving(Path(folder), "--save", "60 1", "--hz", "10") as client,
        sleeper() as child,
    ):  # fmt: skip
        if "cpus" in kinds:
            _make_threads_differ(child.pid)
        client.config_set("appendfsync", "always")
        state = Path(folder) / "culpa"
        with _worker(state, port_of(client), child.pid, kinds, tried) as worker:
            return _count(runs, random.Random(seed), state, client, child.pid, worker, kinds)


def _count(
    runs: int, dice: random.Random, state: Path, client: redis.Redis, pid: int, worker: subprocess.Popen[str],
    kinds: list[str],
) -> Count:  # fmt: skip
    before, wrong, left_open = _everything(client, pid), [], 0
    for number in range(runs):
        moment = _killed(worker, dice)
        left_open += bool(Journal(state).found().open)
        killed_undo = dice.random() < 0.5
        if killed_undo:
            _kill_an_undo(state, dice)
        said, _ = culpa(state, "fix", "--undo", "all")
        after = _everything(client, pid)
        if after != before or Journal(state).found().open:
            differing = [name for name in before if after.get(name) != before[name]]
            wrong.append(f"run {number}, killed after {moment:.4f} s, undo killed: {killed_undo}: {differing}: {said}")
    return Count(runs=runs, right=runs - len(wrong), left_open=left_open, kinds=tuple(kinds), wrong=tuple(wrong))


def _killed(worker: subprocess.Popen[str], dice: random.Random) -> float:
    """When, in seconds from the child's start."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{dice.randrange(1 << 30)}\n")
    worker.stdin.flush()
    child, moment = int(worker.stdout.readline()), dice.random() * 0.25
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    ended = int(worker.stdout.readline())
    assert ended == -signal.SIGKILL, f"it ended by itself: {ended}"
    return moment


def _kill_an_undo(state: Path, dice: random.Random) -> None:
    """The command line's own; most of its time is its start, so that the moments begin where that ends."""
    argv = [sys.executable, "-c", COMMAND_LINE, "fix", "--undo", "all"]
    with subprocess.Popen(
        argv, env=_environment(state, {}), stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as undo:
        time.sleep(0.15 + dice.random() * 0.5)
        undo.kill()


def _make_threads_differ(pid: int) -> None:
    first, second, *_ = (tid for tid in threads_of(pid) if tid != pid)
    os.sched_setaffinity(first, {max(os.sched_getaffinity(0))})
    os.setpriority(os.PRIO_PROCESS, second, 5)


def _everything(client: redis.Redis, pid: int) -> dict[str, Any]:
    found: dict[str, Any] = {f"CONFIG {name}": value for name, value in client.config_get("*").items()}
    found |= vm()
    for tid in threads_of(pid):
        found[f"CPUs of {tid}"] = os.sched_getaffinity(tid)
        found[f"nice of {tid}"] = os.getpriority(os.PRIO_PROCESS, tid)
        if shutil.which("ionice"):
            found[f"I/O class of {tid}"] = subprocess.check_output(["ionice", "-p", str(tid)])
    return found


@contextmanager
def _worker(state: Path, port: int, pid: int, kinds: list[str], tried: float) -> Iterator[subprocess.Popen[str]]:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent / "redis"), *sys.path])}
    argv = [sys.executable, "-c", WORKER, str(state), str(port), str(pid), ",".join(kinds), str(tried)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def main() -> None:
    """Print the counts; exit 1 unless all runs were right."""
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    right = True
    for what, tried in (("applying or undoing", 0.0), ("a trial turned it off and on", 1.0)):
        count = kills(int(sys.argv[1]), seed, tried=tried)
        print(
            f"killed while {what} ({', '.join(count.kinds)}; seed {seed}): as before after culpa fix --undo all in "
            f"{count.right} of {count.runs} runs; something was in place in {count.left_open}"
        )
        print("".join(f"{line}\n" for line in count.wrong), end="")
        right = right and count.right == count.runs
    sys.exit(not right)


if __name__ == "__main__":
    main()
