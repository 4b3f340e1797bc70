"""Whole runs of `culpa why` on programs that are no Python: the function of the cause is named."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from whole_runs import needs_tracing, why

CODE = """\
#include <fcntl.h>
#include <time.h>
#include <unistd.h>
static volatile double sink;
#define FUNCTION __attribute__((noinline))
FUNCTION void tally(long n) { for (long i = 0; i < n; i++) sink += i % 7; }
FUNCTION void doze(void) {
    struct timespec span = {0, 300000000};
    nanosleep(&span, 0);
    sink++;
}
FUNCTION void book(int file) {
    for (int i = 0; i < 400; i++) {
        sink += write(file, "entry", 5);
        sink += fsync(file);
    }
}
int main(int count, char **words) {
    int file = count > 2 ? open(words[2], O_CREAT | O_WRONLY, 0600) : -1;
    for (int i = 0; i < 4; i++) {
        if (words[1][0] == 'c') tally(150000000);
        else if (words[1][0] == 'n') doze();
        else book(file);
        sink++;
    }
    return 0;
}
"""
AHEAD = ("chrt", "--rr", "1")
"""Whatever else this machine does, the program gets its CPU."""
WANTED = {"c": ("cpu.busy", "tally"), "n": ("sleep.by-choice", "doze"), "f": ("disk.fsync-heavy", "book")}
SCRIPT = """\
function reckon(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i) % 7; return s; }
const fs = require('fs');
function book(file) { for (let i = 0; i < 20; i++) { fs.writeSync(file, 'entry'); fs.fsyncSync(file); } }
const file = fs.openSync(process.argv[3], 'w');
const end = Date.now() + 2000;
while (Date.now() < end) process.argv[2] === 'c' ? reckon(1e7) : book(file);
"""


def compiled(folder: Path, *flags: str) -> Path:
    """The program; skipped, and said so, where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    source, program = folder / "shop.c", folder / "shop"
    source.write_text(CODE)
    subprocess.run([compiler, *flags, "-o", program, source], check=True)
    return program


def cause(verdict: dict[str, Any], name: str) -> dict[str, Any]:
    """The cause of that name."""
    return next(cause for cause in verdict["causes"] if cause["id"] == name)


@pytest.mark.trace
@needs_tracing
@pytest.mark.parametrize("kind", WANTED)
def test_a_compiled_program_is_named_by_its_function(tmp_path: Path, kind: str) -> None:
    """Optimised, without frame pointers and without debug information, as distributions ship programs."""
    program = compiled(tmp_path, "-O2", "-fomit-frame-pointer")
    rule, function = WANTED[kind]
    found = cause(why("--", *AHEAD, str(program), kind, str(tmp_path / "ledger")), rule)

    assert f"function {function} in {program}" == found["on"]["code"]
    told = next(evidence for evidence in found["evidence"] if evidence["fact"] == "function")
    assert f"{function} in {program} < main" == told["value"]


@pytest.mark.trace
@needs_tracing
def test_debug_information_names_the_line(tmp_path: Path) -> None:
    """The line of the call that waits."""
    program = compiled(tmp_path, "-O2", "-g")
    found = cause(why("--", str(program), "n"), "sleep.by-choice")
    line = CODE.split("\n").index("    nanosleep(&span, 0);") + 1

    assert f"{tmp_path / 'shop.c'}:{line} in doze" == found["on"]["code"]


@pytest.mark.trace
@needs_tracing
def test_a_stripped_program_is_found_out_and_no_function_is_made_up(tmp_path: Path) -> None:
    """The cause is there, its place is not."""
    program = compiled(tmp_path, "-O2", "-s")
    found = cause(why("--", str(program), "n"), "sleep.by-choice")

    assert found["on"].get("code") is None


@pytest.mark.trace
@needs_tracing
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on the PATH: NOT TESTED with Node.js")
@pytest.mark.parametrize(("kind", "rule", "function"), [("c", "cpu.busy", "reckon"), ("f", "disk.fsync-heavy", "book")])
def test_a_script_of_node_is_named_by_its_function(tmp_path: Path, kind: str, rule: str, function: str) -> None:
    """With the line where the function begins."""
    script = tmp_path / "shop.js"
    script.write_text(SCRIPT)
    maps = set(Path("/tmp").glob("perf-*.map"))
    mapped = ("--perf-basic-prof", f"--logfile={tmp_path}/v8.log")
    try:
        verdict = why("--", *AHEAD, "node", *mapped, str(script), kind, str(tmp_path / "ledger"))
    finally:
        for path in set(Path("/tmp").glob("perf-*.map")) - maps:
            if str(script).encode() in path.read_bytes():
                path.unlink()
    line = next(at for at, text in enumerate(SCRIPT.split("\n"), 1) if f"function {function}(" in text)

    assert f"{script}:{line} in {function}" == cause(verdict, rule)["on"]["code"]
