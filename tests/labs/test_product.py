"""culpa as a lab calls it: what it cannot do becomes the lab's own sentence."""

from __future__ import annotations

import pytest

from culpa.errors import LabError
from culpa.labs import product, redis_server, site
from culpa.labs.places import Places


def test_a_capture_that_is_not_there_is_told_in_culpas_words(places: Places) -> None:
    """Status and last words of the process."""
    with (
        site.opened(print, places=places) as here,
        pytest.raises(LabError, match=r"culpa why ended with status [12]: .*missing\.culpa"),
    ):
        product.page(here, here.directory / "missing.culpa")


def test_a_refused_url_is_told_in_culpas_words(places: Places) -> None:
    """Nobody listens on the port."""
    url = f"http://127.0.0.1:{redis_server.free_port()}/"
    with (
        site.opened(print, places=places) as here,
        pytest.raises(LabError, match=r"culpa why ended with status 1: .*127\.0\.0\.1"),
    ):
        product.why(here, url, trace=False)
