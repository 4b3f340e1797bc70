"""What a check-up costs the server it examines: CPU per request and p99 of a Redis with a million keys under load.

Each round measures an untouched stretch twice and one beside each kind of check-up, in an order that rotates; the
untouched pair tells how far the machine wanders by itself. The load keeps a steady rate, as clients do.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import redis
from measure import Effort, Row, at_most, median_row
from stand import BenchError, Load, Server, Stretch, redis_server
from startup import command
from target_cost import bounds, cpu_losses, rounds

from culpa.collect.trace.tracer import usable

KEYS: Final = 1_000_000
CLIENTS: Final = 50
PER_SECOND: Final = 10_000.0
WINDOW_SECONDS: Final = 2.0
STRETCH_SECONDS: Final = 6.0
VERDICT_SECONDS: Final = WINDOW_SECONDS + 2.0
"""From the command to the verdict. culpa gives way to the load, so that a stretch may end a little earlier."""
PATIENCE_SECONDS: Final = 20.0
MOST_PERCENT: Final = 1.0
MOST_P99_US: Final = 1000.0
CHECKUP: Final = "check-up"
KINDS: Final = {f"{CHECKUP} without tracing": ("--no-trace",), f"{CHECKUP} with tracing": ()}


def measure(effort: Effort) -> Iterator[Row]:
    """All arms on one server; without eBPF only those without tracing."""
    kinds = {name: flags for name, flags in KINDS.items() if "--no-trace" in flags or usable() is None}
    with redis_server() as server, server.loader("GET", CLIENTS) as load:
        with redis.Redis(host="127.0.0.1", port=server.port) as client:
            client.execute_command("DEBUG", "POPULATE", effort.times(KEYS, KEYS // 10))
        arms: dict[str, Callable[[], Stretch]] = {"untouched": lambda: _stretch(load)}
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        arms |= {
            name: lambda name=name, flags=flags: _beside(server, load, flags, seconds[name])
            for name, flags in kinds.items()
        }
        found = rounds(load, arms | {"untouched again": arms["untouched"]}, effort.times(8, 1))
    base = found.pop("untouched")
    yield median_row("redis, a million keys, untouched: CPU per request", [s.cpu_us_per_request for s in base], "us")
    yield median_row("redis, a million keys, untouched: p99", [s.p99_us for s in base], "us")
    for name, arm in found.items():
        goal = at_most(MOST_PERCENT) if name.startswith(CHECKUP) else None
        yield from bounds(name, cpu_losses(arm, base), goal)
        later = [one.p99_us - other.p99_us for one, other in zip(arm, base, strict=True)]
        yield median_row(f"{name}: p99", later, "us more", None if goal is None else at_most(MOST_P99_US))
        if name in seconds:
            yield median_row(f"{name}: from command to verdict", seconds[name], "s", at_most(VERDICT_SECONDS))


def _stretch(load: Load) -> Stretch:
    return load.stretch(STRETCH_SECONDS, PER_SECOND)


def _beside(server: Server, load: Load, flags: tuple[str, ...], seconds: list[float]) -> Stretch:
    """A stretch in which culpa looks at the server; how long that took is added to `seconds`.

    Raises:
        BenchError: it gave no verdict.
    """
    argv = [*command(), "redis", f"redis://127.0.0.1:{server.port}", "--for", f"{WINDOW_SECONDS:g}s", "--json", *flags]
    began = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as culpa:
        ended = threading.Thread(target=lambda: seconds.append(_ended(culpa) - began))
        ended.start()
        found = _stretch(load)
        ended.join()
        if culpa.returncode != 0:
            assert culpa.stderr is not None
            raise BenchError(f"culpa redis ended with {culpa.returncode}: {culpa.stderr.read().decode()}")
    return found


def _ended(culpa: subprocess.Popen[bytes]) -> float:
    """When it ended; one that does not is ended."""
    try:
        culpa.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        culpa.kill()
        culpa.wait()
    return time.monotonic()
