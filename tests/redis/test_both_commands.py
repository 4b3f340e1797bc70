"""`culpa why` and `culpa redis` on one server at a time: they name the same cause, or both none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from servers import EACH_SERVER, needs_redis, port_of, serving
from test_states import SOUND, keeps_asking

pytestmark = [pytest.mark.redis, pytest.mark.root, pytest.mark.trace, needs_redis]

OF_THE_HOST = {"cpu.runqueue", "redis.cpu.starved", "redis.stall.unattributed"}
"""What the host's two CPUs let wait at one moment and not at another; the last is judged by culpa's own PINGs, which
`culpa why` does not send.
"""
ELEMENTS = 400_000
LOOP = "local n = 0 for i = 1, 3000000 do n = n + i end return n"
KEYS, SCRIPT = "redis.command.slow", "redis.script.long"
Ask = Callable[[redis.Redis], object]


def _keys(client: redis.Redis) -> object:
    return client.keys("nosuch*")


def _script(client: redis.Redis) -> object:
    return client.eval(LOOP, 0)


def _small(client: redis.Redis) -> object:
    return client.get("1")


@pytest.mark.parametrize("program", EACH_SERVER)
@pytest.mark.parametrize(("ask", "expected"), [(_keys, KEYS), (_script, SCRIPT), (_small, None)])
def test_both_commands_name_the_same_cause_first(tmp_path: Path, program: str, ask: Ask, expected: str | None) -> None:
    """What keeps the one thread from others, whether culpa asks PING itself or watches what others ask."""
    with serving(tmp_path, *SOUND, program=program) as client, ExitStack() as stack:
        client.mset(dict.fromkeys(map(str, range(ELEMENTS)), "v"))
        for one, pause in ((ask, 0.1), (_small, 0.002)):
            asker = stack.enter_context(redis.Redis(port=port_of(client)))
            keeps_asking(stack, lambda one=one, asker=asker: one(asker), pause=pause)
        url = f"redis://127.0.0.1:{port_of(client)}"
        why, checkup = _heads("why", url, "--for", "5s"), _heads("redis", url, "--for", "5s")
    assert ([expected] if expected else []) == why
    assert why == checkup


def _heads(*words: str) -> list[str]:
    """The causes above a note, as a script reads them."""
    run = subprocess.run(
        [sys.executable, "-m", "culpa", *words, "--json"], capture_output=True, check=True, timeout=120
    )  # fmt: skip
    causes = json.loads(run.stdout)["causes"]
    return [one["id"] for one in causes if one["level"] != "note" and one["id"] not in OF_THE_HOST]
