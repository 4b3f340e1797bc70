"""What all tests stand on: how hypothesis draws, and signals that are not ignored.

The same examples in every run, and as long as the host takes for them: a host that was away for a moment is no flaw of
what is tested, and an example that only one run in a thousand draws tells nobody which change broke it. New ones are
looked for by `make nightly`, which chooses the profile `search`.
"""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("search", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell lets what it starts in the background ignore Ctrl-C, and every child of the tests would inherit that."""
