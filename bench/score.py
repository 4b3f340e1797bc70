"""`make score`: run all labs with and without tracing, and the sound ones again and again; keep what came out.

python bench/score.py [--only PART]... [--seed S] [-o FILE]

The file is `culpa.score/1`: for each part the date, the command that repeats it, the machine, and a `culpa.bench/1`.
A part that is not run keeps what the file says of it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from culpa.errors import CulpaError
from culpa.labs.bench import Bench, Plan, run_bench, table

SCHEMA: Final = "culpa.score/1"
OUTPUT: Final = Path(__file__).resolve().parent.parent / "docs" / "reference" / "score.json"
SOUND_RUNS: Final = 100


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the score: when, how to repeat it, on what, and what came out."""

    date: str
    command: str
    machine: str
    bench: Bench


class ScoreFile(msgspec.Struct, frozen=True, kw_only=True):
    """The parts by name."""

    schema: str = SCHEMA
    parts: dict[str, Part]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, print each table, and write the file after each part; 1 if something broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=tuple(plans(1)), metavar="PART", help="instead of all")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help="the file to write")
    options = parser.parse_args(arguments)
    parts = read(options.output).parts if options.output.exists() else {}
    for name, (plan, command) in plans(options.seed).items():
        if name not in (options.only or plans(1)):
            continue
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        try:
            bench = run_bench(plan, progress=_say)
        except CulpaError as error:
            _say(f"{name}: {error}")
            return 1
        print("\n".join(table(bench)), flush=True)
        machine = f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs"
        parts = {**parts, name: Part(date=date, command=command, machine=machine, bench=bench)}
        text = msgspec.json.format(msgspec.json.encode(ScoreFile(parts=parts)), indent=1)
        options.output.write_bytes(text + b"\n")
    return 0


def plans(seed: int) -> dict[str, tuple[Plan, str]]:
    """Each part with what it runs and the command that runs the same."""
    command = f"culpa lab bench --seed {seed}"
    return {
        "traced": (Plan(seed=seed), command),
        "sampled": (Plan(seed=seed, trace=False), f"{command} --no-trace"),
        "sound": (Plan(seed=seed, sound=True, runs=SOUND_RUNS), f"{command} --sound --runs {SOUND_RUNS}"),
    }


def read(path: Path) -> ScoreFile:
    """The file as written before."""
    return msgspec.json.decode(path.read_bytes(), type=ScoreFile)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
