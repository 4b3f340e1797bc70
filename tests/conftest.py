"""What all tests stand on: how hypothesis draws, signals that are not ignored, and which sound labs are run.

The same examples in every run, and as long as the host takes for them: a host that was away for a moment is no flaw of
what is tested, and an example that only one run in a thousand draws tells nobody which change broke it. New ones are
looked for by `make nightly`, which chooses the profile `search`.
"""

from __future__ import annotations

import random
import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("search", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell lets what it starts in the background ignore Ctrl-C, and every child of the tests would inherit that."""

SOUND_LABS = 24
"""So many labs in which nothing is wrong are run each time, others each time; `make nightly` runs all."""
DRAWN_AT_RANDOM = random.SystemRandom().randrange(1_000_000)
DRAWN = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What chooses the sound labs."""
    parser.addoption("--all-labs", action="store_true", help="run every sound lab, not a sample of them")
    parser.addoption("--labs-seed", type=int, default=DRAWN_AT_RANDOM, help="draws the sample")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out all but a sample of the sound labs, unless fewer than that were asked for."""
    sound = [item for item in items if item.get_closest_marker("sound")]
    if config.getoption("all_labs") or len(sound) <= SOUND_LABS:
        return
    seed = config.getoption("labs_seed")
    kept = {item.nodeid for item in random.Random(seed).sample(sound, SOUND_LABS)}
    left_out = [item for item in sound if item.nodeid not in kept]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    config.stash[DRAWN] = f"{SOUND_LABS} of {len(sound)} sound labs were run: --labs-seed {seed} runs the same"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which sample it was, so that it can be run again."""
    if DRAWN in config.stash:
        terminalreporter.write_line(config.stash[DRAWN])
