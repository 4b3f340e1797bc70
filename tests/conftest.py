"""How hypothesis draws in all tests: the same examples in every run, and as long as the host takes for them.

A host that was away for a moment is no flaw of what is tested, and an example that only one run in a thousand draws
tells nobody which change broke it. New ones are looked for by `make nightly`, which chooses the profile `search`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("search", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")
