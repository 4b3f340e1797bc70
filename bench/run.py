"""`make bench`: measure how fast culpa is and what it costs, print a table, and write build/bench.json.

python bench/run.py [--only NAME]... [--quick] [-o FILE]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import budget
import checkup_cost
import decode
import floor
import large
import memory
import peers
import startup
import storm
import target_cost
import verdict_time
import writeback
from measure import Effort, Measurement, Row
from stand import BenchError

from culpa.errors import CulpaError

SCHEMA: Final = "culpa.benchmark/1"
OUTPUT: Final = Path(__file__).resolve().parent.parent / "build" / "bench.json"
MEASUREMENTS: Final[dict[str, Measurement]] = {
    "startup": startup.measure,
    "decode": decode.measure,
    "storm": storm.measure,
    "verdict_time": verdict_time.measure,
    "memory": memory.measure,
    "large": large.measure,
    "target_cost": target_cost.measure,
    "checkup_cost": checkup_cost.measure,
    "budget": budget.measure,
    "floor": floor.measure,
    "peers": peers.measure,
    "writeback": writeback.measure,
}
FAILED: Final = "not measured:"
NAME_WIDTH: Final = 66


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 whether or not the goals were kept, which the table says; 1 if something broke."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    effort = Effort(quick=options.quick)
    rows: list[Row] = []
    for name in options.only or MEASUREMENTS:
        began = time.monotonic()
        for row in _rows(name, effort):
            rows.append(row)
            _show(row)
        print(f"-- {name} took {time.monotonic() - began:.1f} s", flush=True)
    _write(rows, options.output)
    _sum_up(rows, options.output)
    return int(any(row.name.startswith(FAILED) for row in rows))


def _rows(name: str, effort: Effort) -> Iterator[Row]:
    """The rows of one measurement; one that breaks leaves a row that says so, and the others go on."""
    try:
        yield from MEASUREMENTS[name](effort)
    except (BenchError, CulpaError, OSError) as error:
        yield Row(name=f"{FAILED} {name}: {error}", value=None, unit="")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=sorted(MEASUREMENTS), metavar="NAME",
                        help=f"one of {', '.join(MEASUREMENTS)}; may be given again")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="does it work? too short to tell how fast it is")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, metavar="FILE")
    return parser.parse_args(arguments)


def _figure(value: float | None) -> str:
    """Three or four digits that say something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _show(row: Row) -> None:
    verdict = {None: "", True: "met", False: "NOT MET"}[row.met]
    goal = f"goal {row.goal}" if row.goal is not None else ""
    print(f"{row.name:{NAME_WIDTH}} {_figure(row.value):>11} {row.unit:9} {goal:16} {verdict}".rstrip(), flush=True)
    if len(row.runs) > 1:
        print(f"    runs: {' '.join(_figure(run) for run in row.runs)}", flush=True)


def _machine() -> str:
    """One line on what it was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{(models or [platform.machine()])[0]}, {os.cpu_count()} CPUs, {system}, load {os.getloadavg()[0]:.2f}"


def _write(rows: Sequence[Row], output: Path) -> None:
    """Write beside the final name and rename, so that the file is whole."""
    document = {
        "schema": SCHEMA,
        "machine": _machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rows": [_as_json(row) for row in rows],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    beside.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    beside.rename(output)


def _as_json(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "value": row.value,
        "unit": row.unit,
        "goal": str(row.goal) if row.goal is not None else None,
        "met": row.met,
        "runs": list(row.runs),
    }


def _sum_up(rows: Sequence[Row], output: Path) -> None:
    with_goal = [row for row in rows if row.goal is not None]
    print(f"\n{sum(bool(row.met) for row in with_goal)} of {len(with_goal)} goals met; all figures are in {output}")
    for row in with_goal:
        if not row.met:
            print(f"  not met: {row.name}: {_figure(row.value)} {row.unit}, goal {row.goal}")


if __name__ == "__main__":
    sys.exit(main())
