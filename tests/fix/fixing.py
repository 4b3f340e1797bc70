"""Verdicts that propose fixes, ways to servers, and the command line with a state directory of a test's own."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from culpa.cli.fixsource import Ways
from culpa.collect.redis_link import Tls
from culpa.diagnose.verdict import (
    Cause,
    CostView,
    Culpa,
    Evidence,
    Fix,
    HostView,
    Node,
    On,
    Root,
    TargetView,
    Verdict,
    Who,
    WindowView,
)  # fmt: skip
from culpa.errors import CulpaError
from culpa.fix import run
from culpa.fix.catalogue import Remedy, remedy
from culpa.fix.journal import Journal
from culpa.fix.parameters import KernelSetting, Parameters, ProcessSetting, RedisSetting
from culpa.fix.processes import starttime_of
from culpa.report.envelope import to_json
from culpa.talk import Talk

CONNECTS = Ways(None, Tls(), Talk(quiet=True), trusted=True)
COMMAND_LINE = """
import os, pathlib
from culpa.cli import lastverdict
from culpa.collect import undo
undo.ROOTS_STATE = pathlib.Path(os.environ["CULPA_TEST_STATE"])
lastverdict.ROOTS_CACHE = pathlib.Path(os.environ["CULPA_TEST_STATE"]) / "cache"
from culpa.cli import main
main()
"""
VM = Path("/proc/sys/vm")
DIRTY = ("dirty_bytes", "dirty_ratio", "dirty_background_bytes", "dirty_background_ratio")


def _writable(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return False
    return True


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: NOT TESTED for processes of others")
needs_sysctl = pytest.mark.skipif(
    not _writable(VM / "dirty_background_ratio"), reason="/proc/sys cannot be written here: NOT TESTED with sysctl"
)
needs_ionice = pytest.mark.skipif(shutil.which("ionice") is None, reason="no ionice here: NOT TESTED with it")


def cause(*fixes: Fix, id: str = "redis.aof.fsync-always", who: Who | None = None) -> Cause:
    """One that proposes these."""
    return Cause(
        id=id, title="Something is slow", kind="slowness", level="critical", share=0.9, saves_seconds=1.0,
        predicted=None, confidence=0.9, who=who, on=On(peer="127.0.0.1:1"), fixes=fixes, docs="",
        evidence=(Evidence(fact="f", value=1, unit="", threshold=None, source="s"),),
    )  # fmt: skip


def verdict(*causes: Cause, seen_unix: float | None = None, name: str = "this host") -> Verdict:
    """One of this host, of now."""
    start = datetime.fromtimestamp(time.time() if seen_unix is None else seen_unix, UTC)
    return Verdict(
        culpa=Culpa(version="0"),
        host=HostView(kernel=platform.release(), machine=platform.machine(), cpus=2, memory_bytes=1),
        headline="it is slow", state="slow", target=TargetView(kind="host", name=name, pids=()),
        window=WindowView(start=start.strftime("%Y-%m-%dT%H:%M:%SZ"), seconds=1.0, ended_by="limit"),
        root=Root(basis="threads", seconds=1.0, threads=1, idle_seconds=0.0), observed=None,
        blame=Node(label="all", kind="idle", who=None, on=None, seconds=1.0, share=1.0, count=1), causes=causes,
        ruled_out=(), blind_spots=(),
        cost=CostView(events=0, lost_events=0, probe_cpu_seconds=0, culpa_cpu_seconds=0, peak_rss_bytes=0),
    )  # fmt: skip


def fix(id: str, *argv: str, change: str | None = None) -> Fix:
    return Fix(id=id, argv=argv or None, change=change, reversible=True, risk="some")


def config_set(id: str, port: int, name: str, value: str) -> Fix:
    """As rules write it."""
    return fix(id, "redis-cli", "-h", "127.0.0.1", "-p", str(port), "CONFIG", "SET", name, value)


def known(id: str) -> Remedy:
    found = remedy(id)
    assert found is not None
    return found


def redis_setting(port: int, name: str, value: str) -> RedisSetting:
    return RedisSetting(setting=name, value=value, host="127.0.0.1", port=port)


def kernel_setting(name: str, value: str) -> KernelSetting:
    return KernelSetting(setting=name, value=value)


def process_setting(name: str, value: str, pid: int) -> ProcessSetting:
    starttime = starttime_of(pid)
    assert starttime is not None
    return ProcessSetting(setting=name, value=value, pid=pid, starttime=starttime, comm="some")


def applied(id: str, parameters: Parameters, journal: Journal) -> run.Applied:
    """Put in place."""
    return run.apply(
        known(id), parameters, cause="some.cause", seen_unix=time.time(), journal=journal, connects=CONNECTS
    )


def undone(journal: Journal, *, anyway: bool = False, keep: bool = False) -> list[run.Undone]:
    """All of them, newest first."""
    return [
        run.undo(one, journal=journal, connects=CONNECTS, anyway=anyway, keep=keep)
        for one in reversed(journal.found().open)
    ]


def refused(id: str, parameters: Parameters, journal: Journal) -> str:
    """Why it was not put in place."""
    with pytest.raises(CulpaError) as error:
        applied(id, parameters, journal)
    return str(error.value)


def culpa(state: Path, *words: str, expected: int = 0, **environment: str) -> tuple[str, str]:
    """The command line in a process of its own: stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND_LINE, *words], capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL, env=_environment(state, environment),
    )  # fmt: skip
    assert expected == done.returncode, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def _environment(state: Path, more: dict[str, str]) -> dict[str, str]:
    own = {"CULPA_TEST_STATE": str(state), "XDG_STATE_HOME": str(state.parent), "XDG_CACHE_HOME": str(state.parent)}
    return {**os.environ, **own, **more}


def as_json(state: Path, *words: str, expected: int = 0, **environment: str) -> dict[str, Any]:
    """The same with --json."""
    return json.loads(culpa(state, "fix", *words, "--json", expected=expected, **environment)[0])


def written(path: Path, *causes: Cause, seen_unix: float | None = None) -> str:
    """A verdict in a file; its path."""
    path.write_text(to_json(verdict(*causes, seen_unix=seen_unix)), encoding="utf-8")
    return str(path)


@contextmanager
def sleeper(threads: int = 3) -> Iterator[subprocess.Popen[bytes]]:
    """A process with so many threads besides its first, all asleep; at each line it reads it begins one more."""
    script = (
        "import sys, threading\n"
        "def more(): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        f"[more() for _ in range({threads})]\n"
        "print(flush=True)\n"
        "for _ in sys.stdin: more(); print(flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


def one_more(child: subprocess.Popen[bytes]) -> None:
    """Let it begin another thread."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"\n")
    child.stdin.flush()
    child.stdout.readline()


def vm() -> dict[str, bytes]:
    """The limits on unwritten data and the like, as the kernel spells them."""
    return {name: (VM / name).read_bytes() for name in (*DIRTY, "swappiness", "overcommit_memory")}
