"""How often `culpa fix --try` is right, on the waits of a real server: gains of a quarter found, none invented.

    PYTHONPATH=tests/redis python tests/fix/trials.py 300

For so many seconds a real redis-server with clients that write is asked by PING. Of these answers a hundred stretches
of a minute are taken at random, each with a drawn order of blocks: as they are, and with a quarter less in those blocks
that have the fix. What is said of each is counted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fixing import CONNECTS, redis_setting
from servers import port_of, serving

from culpa.cli.fixtrial import PING_INTERVAL_NS
from culpa.collect.pings import PingProbe
from culpa.fix.alternation import Times, order, paired
from culpa.fix.trial import BASELINE_SHARE, PAIRS, SETTLE_SHARE, judged
from culpa.units import NS_PER_SECOND

SECONDS = 60
TRIALS = 100
WRITER = """
import random, sys, time, redis
client = redis.Redis(port=int(sys.argv[1]))
while True:
    for _ in range(random.randrange(1, 400)):
        client.set(f"key:{random.randrange(100000)}", b"x" * random.randrange(4000))
    client.lrange("list", 0, -1)
    time.sleep(random.expovariate(5))
"""


def recorded(seconds: float) -> tuple[Times, Times]:
    """When each question was sent, and how long it took: seconds."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), "--appendonly", "yes") as client:
        client.rpush("list", *range(20_000))
        with _writers(port_of(client)):
            probe = PingProbe(CONNECTS.link_to(redis_setting(port_of(client), "hz", "10")), PING_INTERVAL_NS)
            probe.start()
            time.sleep(seconds)
            probe.stop()
    sent = [one for one in probe.sent() if one.end_ns is not None]
    began = np.array([one.start_ns for one in sent], np.float64) / NS_PER_SECOND
    took = np.array([(one.end_ns or 0) - one.start_ns for one in sent], np.float64) / NS_PER_SECOND
    return began, took


def said_of(began: Times, took: Times, effect: float, dice: np.random.Generator) -> str:
    """What one trial says whose fix makes every answer so many times as long."""
    start = dice.uniform(began[0], began[-1] - SECONDS)
    block = SECONDS * (1 - BASELINE_SHARE) / (2 * PAIRS)
    off, on = [], []
    for number, is_on in enumerate(order(PAIRS, dice)):
        edges = start + (number + SETTLE_SHARE) * block, start + (number + 1) * block
        first, last = np.searchsorted(began, edges)
        (on if is_on else off).append(took[first:last] * (effect if is_on else 1))
    return judged(paired(off, on, 0.5, dice), paired(off, on, 0.99, dice))


@contextmanager
def _writers(port: int) -> Iterator[None]:
    children = [subprocess.Popen([sys.executable, "-c", WRITER, str(port)]) for _ in range(3)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def main() -> None:
    """Print the counts; exit 1 where fewer than 95 of 100 are right."""
    began, took = recorded(float(sys.argv[1]))
    p50, p99 = np.quantile(took, [0.5, 0.99]) * 1e3
    print(f"{len(took)} PINGs in {began[-1] - began[0]:.0f} s: p50 {p50:.3f} ms, p99 {p99:.3f} ms")
    dice, right = np.random.default_rng(1), True
    for effect, wanted in ((1.0, False), (0.75, True)):
        said = [said_of(began, took, effect, dice) for _ in range(TRIALS)]
        gains = said.count("gain")
        print(f"times {effect}: a gain in {gains} of {TRIALS} trials, worse in {said.count('worse')}")
        right = right and ((gains >= 0.95 * TRIALS) if wanted else (gains <= 0.05 * TRIALS))
    sys.exit(not right)


if __name__ == "__main__":
    main()
