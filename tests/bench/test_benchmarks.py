"""`make bench`: its file has the promised shape, its figures are of this run, and goals are compared, not claimed."""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import culpa
from culpa.collect.trace.tracer import usable

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
KEYS = {"name", "value", "unit", "goal", "met", "runs"}
COMPARE = {"<=": operator.le, ">=": operator.ge}


@pytest.fixture
def bench_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The benchmark's own modules, importable as its program sees them."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(BENCH)):
            del sys.modules[name]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The benchmark with the culpa that is tested."""
    source = str(Path(culpa.__file__).parents[1])
    return subprocess.run(
        [sys.executable, str(BENCH / "run.py"), *arguments],
        capture_output=True, text=True, timeout=90, env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip


def test_a_cheap_measurement_writes_what_the_contract_promises(tmp_path: Path) -> None:
    """Decoding is measured for real: schema, keys, positive figures from several runs, and `met` as the goal says."""
    output = tmp_path / "deep" / "bench.json"
    done = run("--only", "decode", "--quick", "-o", str(output))
    assert (0, "") == (done.returncode, done.stderr)
    document = json.loads(output.read_bytes())
    assert {"schema", "machine", "date", "rows"} == document.keys()
    assert "culpa.benchmark/1" == document["schema"]
    assert document["rows"]
    for row in document["rows"]:
        assert KEYS == row.keys()
        assert min(row["runs"]) <= row["value"] <= max(row["runs"])
        assert min(row["runs"]) > 0
        assert len(set(row["runs"])) > 1  # measured each time
        assert row["name"] in done.stdout
    with_goal = [row for row in document["rows"] if row["goal"] is not None]
    assert len(with_goal) >= 2
    for row in with_goal:
        sign, bound = row["goal"].split()
        assert COMPARE[sign](row["value"], float(bound)) is row["met"]
    assert [output] == list(output.parent.iterdir())


def test_an_unknown_measurement_is_refused(tmp_path: Path) -> None:
    """A wrong name is wrong usage, and nothing is written."""
    done = run("--only", "nonsense", "-o", str(tmp_path / "bench.json"))
    assert 2 == done.returncode
    assert [] == list(tmp_path.iterdir())


@pytest.mark.usefixtures("bench_modules")
def test_the_interval_holds_the_mean_and_narrows_with_more_pairs() -> None:
    """Bootstrap: around the mean, narrower for four times the pairs, shifted with the values, none for one pair."""
    from measure import interval

    few, many = [1.0, 3.0, 2.0, 6.0], [1.0, 3.0, 2.0, 6.0] * 4
    low, high = interval(few)
    assert 1.0 <= low < 3.0 < high <= 6.0
    narrow_low, narrow_high = interval(many)
    assert (narrow_high - narrow_low) < 0.75 * (high - low)
    assert (pytest.approx(low + 10), pytest.approx(high + 10)) == interval([one + 10 for one in few])
    assert interval([1.0]) is None


@pytest.mark.usefixtures("bench_modules")
def test_a_goal_that_was_not_measured_is_not_met() -> None:
    """No value, no success; without a goal there is nothing to meet."""
    from measure import Row, at_most

    assert Row(name="n", value=None, unit="s", goal=at_most(1)).met is False
    assert Row(name="n", value=2.0, unit="s", goal=at_most(1)).met is False
    assert Row(name="n", value=1.0, unit="s", goal=at_most(1)).met is True
    assert Row(name="n", value=1.0, unit="s").met is None


@pytest.mark.usefixtures("bench_modules")
def test_a_repeated_session_is_as_long_and_as_busy_as_so_many() -> None:
    """Of a simulated session three times over, every row is there three times, what is open at its end once, and the
    threads run three times as long.
    """
    from large import repeated

    from culpa.capture import schema
    from culpa.model import timeline
    from culpa.model.timeline import Activity
    from culpa.sim import emit, engine
    from culpa.sim.random_programs import random_program

    program = random_program(5, size=3)
    once = emit.capture(program, engine.run(program))
    thrice = repeated(once, 3)
    window, longer = once.manifest.window, thrice.manifest.window
    assert 3 * (window.end_ns - window.start_ns) == longer.end_ns - longer.start_ns
    calls, more = once.frame(schema.SYSCALLS), thrice.frame(schema.SYSCALLS)
    assert len(calls) > 10
    assert 3 * len(calls) == len(more)
    assert calls["exit_ns"].null_count() == more["exit_ns"].null_count()

    def running(lines: timeline.Timeline) -> int:
        ran = lines.activity == Activity.RUNNING
        return int((lines.end - lines.start)[ran].sum())

    assert pytest.approx(3 * running(timeline.build(once)), rel=1e-3) == running(timeline.build(thrice))


@pytest.mark.redis
@pytest.mark.usefixtures("bench_modules")
def test_the_loader_and_the_server_agree_on_how_much_was_asked() -> None:
    """Redis counts as many commands as the loader says it sent, at a rate and without one, and its CPU time grows."""
    import redis
    from stand import redis_server

    with redis_server() as server, redis.Redis(port=server.port) as client, server.loader("GET", 3) as load:
        client.config_resetstat()
        stretches = [load.stretch(0.2), load.stretch(0.5, 400.0)]
        while stretches[-1].requests < 150 and len(stretches) < 6:  # what a busy host held up is not made up for
            stretches.append(load.stretch(0.5, 400.0))
        counted = client.info("commandstats")["cmdstat_get"]["calls"]
    assert counted == sum(stretch.requests for stretch in stretches)
    assert 150 <= stretches[-1].requests
    assert max(stretch.requests for stretch in stretches[1:]) <= 203
    assert min(stretch.server_cpu_ns for stretch in stretches) > 0


@pytest.mark.root
@pytest.mark.trace
def test_what_is_flushed_goes_to_who_wrote_it(tmp_path: Path) -> None:
    """Eight writers on a real disk: 95 % of what kernel threads write out goes to the right process and file."""
    if os.geteuid() != 0 or usable() is not None:
        pytest.skip("a disk of one's own and tracing need root and eBPF")
    output = tmp_path / "bench.json"
    done = run("--only", "writeback", "--quick", "-o", str(output))
    assert (0, "") == (done.returncode, done.stderr)
    row = json.loads(output.read_bytes())["rows"][0]
    assert 0.95 <= row["value"] <= 1.0
    assert row["met"]
