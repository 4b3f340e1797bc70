"""User stacks of real programs: through the probes, and through /proc for threads that wait."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from programs import compiled, line, running, wait_until

from culpa.collect.native.binaries import Binaries
from culpa.collect.native.blocked import blocked
from culpa.collect.native.process import ProcessCode
from culpa.collect.native.stacks import NativeStacks
from culpa.collect.native.unwind import MACHINES, unwind
from culpa.collect.procfs import PROC
from culpa.collect.trace.tracer import Tracer, usable

MACHINE = MACHINES[{"x86_64": 62, "aarch64": 183}[platform.machine()]]
needs_tracing = pytest.mark.skipif(usable() is not None, reason=f"tracing is impossible here: {usable()}")
KINDS = {
    "optimised": ("-O2",),
    "optimised without frame pointers": ("-O2", "-fomit-frame-pointer"),
    "frame pointers alone": ("-O2", "-fno-omit-frame-pointer", "-fno-asynchronous-unwind-tables"),
    "plain": ("-O0",),
    "static": ("-O2", "-static"),
}


@contextmanager
def traced(pid: int) -> Iterator[NativeStacks]:
    """The stacks of a process while the probes run."""
    stacks = NativeStacks(budget_share=0.5)
    stacks.watch((pid,))
    stacks.start()
    with Tracer(pids=(pid,), exclude_pids=(os.getpid(),), take_stacks=stacks.take):
        yield stacks
    stacks.stop()


def own_functions(rows: pl.DataFrame) -> list[tuple[str, ...]]:
    """The functions of each stack outside libraries, innermost first."""
    own = rows.filter(~pl.col("library"))
    return [tuple(stack["function"]) for _, stack in own.group_by("tid", "ts_ns", maintain_order=True)]


@pytest.mark.trace
@needs_tracing
@pytest.mark.parametrize("flags", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("argument", "function"), [("c", "crunch"), ("n", "nap")])
def test_the_function_that_computes_or_waits_is_named_with_its_callers(
    tmp_path: Path, flags: tuple[str, ...], argument: str, function: str
) -> None:
    """However it was compiled. A sample can fall into the few instructions between two calls, and no further."""
    with running(compiled(tmp_path, *flags), argument) as child, traced(child.pid) as stacks:
        wait_until(lambda: len(own_functions(stacks.rows())) >= 8)
    found = own_functions(stacks.rows())
    assert set(found) <= {(function, "serve", "main"), ("serve", "main")}
    assert found.count((function, "serve", "main")) >= 0.8 * len(found)
    assert stacks.cpu_ns > 0


@pytest.mark.trace
@needs_tracing
@pytest.mark.parametrize("optimisation", ["-O0", "-O2"])
@pytest.mark.parametrize(("argument", "comment"), [("c", "computes"), ("n", "sleeps")])
def test_debug_information_gives_the_line(tmp_path: Path, optimisation: str, argument: str, comment: str) -> None:
    """The innermost frame of the program's own stands in the line that was written for it."""
    with running(compiled(tmp_path, optimisation, "-g"), argument) as child, traced(child.pid) as stacks:
        wait_until(lambda: len(own_functions(stacks.rows())) >= 8)
    own = stacks.rows().filter(~pl.col("library")).group_by("ts_ns", maintain_order=True).first()
    assert own["path"].unique().to_list() == [str(tmp_path / "program.c")]
    assert own["line"].to_list().count(line(comment)) >= 0.8 * own.height
    assert own["source"].unique().to_list() == ["lines"]


@pytest.mark.trace
@needs_tracing
@pytest.mark.parametrize(("argument", "method"), [("c", "shop::Basket::price"), ("n", "shop::Basket::wait")])
def test_a_method_of_a_class_has_the_name_it_was_given(tmp_path: Path, argument: str, method: str) -> None:
    """Demangled, without parameters; the standard library's templates in the program are library."""
    program = compiled(tmp_path, "-O0", plus=True)
    with running(program, argument) as child, traced(child.pid) as stacks:
        wait_until(lambda: len(own_functions(stacks.rows())) >= 8)
    found = own_functions(stacks.rows())
    assert found.count((method, "main")) >= 0.8 * len(found)
    assert not [name for stack in found for name in stack if name.startswith("std::")]
    own = stacks.rows().filter(~pl.col("library"))
    assert (own["path"].unique().to_list(), own["line"].unique().to_list()) == ([str(program)], [None])


@pytest.mark.trace
@needs_tracing
def test_a_stripped_program_names_nothing(tmp_path: Path) -> None:
    """Its own frames are there, without a name; no exported or library symbol is put in their place."""
    with running(compiled(tmp_path, "-O2", "-s"), "n") as child, traced(child.pid) as stacks:
        wait_until(lambda: len(own_functions(stacks.rows())) >= 4)
    assert {name for stack in own_functions(stacks.rows()) for name in stack} == {None}


def test_the_chain_is_the_one_that_the_program_itself_sees(tmp_path: Path) -> None:
    """Return addresses as glibc's backtrace(3) found them within the program, but for the innermost call."""
    with running(compiled(tmp_path, "-O2"), "w") as child:
        assert child.stdout is not None
        told = [int(word, 16) for word in child.stdout.readline().split()]
        wait_until(lambda: b"running" not in Path(f"/proc/{child.pid}/syscall").read_bytes())
        code = ProcessCode(child.pid, Binaries(), PROC)
        found = blocked(MACHINE, child.pid, child.pid)
        assert found is not None
        snapshot, in_call = found
        steps = unwind(MACHINE, snapshot, code.around, in_call=in_call)
    # read(2), stuck at another instruction, then what both see: serve, main and the C library's start.
    assert [step.address for step in steps][2:] == told[1:]
    assert len(told) >= 4


@pytest.mark.parametrize("flags", [("-O2",), ("-O0",)], ids=["O2", "O0"])
def test_a_call_that_does_not_end_is_seen_without_probes(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A thread that waits all the time, through /proc; no caller is made up where registers are missing."""
    with running(compiled(tmp_path, *flags), "w") as child:
        stacks = NativeStacks(budget_share=0.5)
        stacks.watch((child.pid,))
        stacks.start()
        wait_until(lambda: len(own_functions(stacks.rows())) >= 2)
        stacks.stop()
    whole = ("stuck", "serve", "main")
    assert all(found == whole[: len(found)] and found for found in own_functions(stacks.rows()))


@pytest.mark.trace
@needs_tracing
@pytest.mark.root
def test_a_program_in_a_container_of_its_own_that_was_deleted_is_still_read(tmp_path: Path) -> None:
    """Another mount namespace, and the file is gone: /proc/PID/map_files leads to it."""
    program = compiled(tmp_path, "-O2")
    launch = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", 'exec "$0" "$@"')
    with running(program, "n", prefix=launch) as outer:
        (pid,) = map(int, Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split())
        program.unlink()
        with traced(pid) as stacks:
            wait_until(lambda: len(own_functions(stacks.rows())) >= 2)
    assert ("nap", "serve", "main") in own_functions(stacks.rows())


@pytest.mark.trace
@needs_tracing
def test_a_child_and_what_it_executes_are_found_at_once(tmp_path: Path) -> None:
    """A shell that starts the program is watched: nobody has to point at its child."""
    program = compiled(tmp_path, "-O2")
    with subprocess.Popen(
        ["sh", "-c", 'read _; "$0" n; true', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdin is not None
        with traced(shell.pid) as stacks:
            shell.stdin.write(b"\n")
            shell.stdin.flush()
            wait_until(lambda: ("nap", "serve", "main") in own_functions(stacks.rows()))
        subprocess.run(["pkill", "-P", str(shell.pid)], check=False)
        shell.kill()


@pytest.mark.trace
@needs_tracing
def test_python_is_left_to_pyspy_and_a_shell_says_nothing() -> None:
    """The functions of an interpreter are not those of the program it runs."""
    for command in ([sys.executable, "-c", "while True: pass"], ["sh", "-c", "while :; do :; done"]):
        with subprocess.Popen(command) as child:
            stacks = NativeStacks(budget_share=0.5)
            stacks.watch((child.pid,))
            stacks.start()
            seen: list[int] = []
            with Tracer(
                pids=(child.pid,),
                exclude_pids=(os.getpid(),),
                take_stacks=lambda records: (seen.append(len(records)), stacks.take(records)),  # noqa: B023
            ):
                wait_until(lambda: sum(seen) >= 4)  # noqa: B023
            stacks.stop()
            child.kill()
        assert stacks.rows().is_empty()
        assert stacks.blind_spots() == ()


SCRIPT = """\
const fs = require('fs');
function crunch(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i) % 7; return s; }
function nap(ms) { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms); }
function handler() { process.argv[2] === 'c' ? crunch(5e6) : nap(70); }
console.log('ready');
setInterval(handler, 1);
"""
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on the PATH: NOT TESTED with Node.js")


@pytest.mark.trace
@needs_tracing
@needs_node
@pytest.mark.parametrize(("argument", "function"), [("c", "crunch"), ("n", "nap")])
def test_functions_of_node_are_named_by_its_perf_map(tmp_path: Path, argument: str, function: str) -> None:
    """Compiled or interpreted, with file and line; Node's own scripts and its C++ are library."""
    script = tmp_path / "shop.js"
    script.write_text(SCRIPT)
    node = Path(shutil.which("node") or "")
    with running(node, "--perf-basic-prof", f"--logfile={tmp_path}/v8.log", str(script), argument) as child:
        try:
            with traced(child.pid) as stacks:
                wait_until(lambda: own_functions(stacks.rows()).count((function, "handler")) >= 6)
            assert stacks.blind_spots() == ()
        finally:
            Path(f"/tmp/perf-{child.pid}.map").unlink(missing_ok=True)
    own = stacks.rows().filter(~pl.col("library"), pl.col("function") == function)
    expected = next(at for at, text in enumerate(SCRIPT.split("\n"), 1) if text.startswith(f"function {function}("))
    assert own.select("path", "line", "source").unique().rows() == [(str(script), expected, "jit")]
    named = {stack for stack in own_functions(stacks.rows()) if stack[0] is not None}
    assert named <= {(function, "handler"), ("handler",)}


@pytest.mark.trace
@needs_tracing
@needs_node
def test_node_without_a_perf_map_is_a_blind_spot(tmp_path: Path) -> None:
    """Nothing is named, and what would help is said."""
    script = tmp_path / "shop.js"
    script.write_text(SCRIPT)
    with running(Path(shutil.which("node") or ""), str(script), "c") as child, traced(child.pid) as stacks:
        wait_until(stacks.blind_spots)
    assert {name for stack in own_functions(stacks.rows()) for name in stack} <= {None}
    assert "--perf-basic-prof" in stacks.blind_spots()[0].way_out
