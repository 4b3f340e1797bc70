"""A lab's redis-server: started with its settings, found to be ready, stopped, and honest about failing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import lab_host
import pytest

from culpa.errors import LabError
from culpa.labs import redis_server, site
from culpa.labs.places import Places

pytestmark = pytest.mark.redis


def test_it_answers_with_the_settings_asked_for(places: Places) -> None:
    """The server itself says what it was told; its pid is the one that INFO gives."""
    with site.opened(print, places=places) as here:
        server = redis_server.start(here, here.directory, appendonly="yes", appendfsync="no", maxmemory="100mb")
        assert server.setting("appendfsync") == "no"
        assert str(100 << 20) == server.setting("maxmemory")
        assert server.setting("no-such-setting") is None
        server.set("appendfsync", "always")
        assert server.setting("appendfsync") == "always"
        info = server.client.info("server")
        assert server.pid == info["process_id"]
        assert server.port == info["tcp_port"]
    assert lab_host.processes_in(places.temp) == []


def test_it_listens_on_loopback_alone(places: Places) -> None:
    """No other host can reach a lab's server."""
    with site.opened(print, places=places) as here:
        server = redis_server.start(here, here.directory)
        port = f":{server.port:04X}"
        lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
        listening = [line[1] for line in lines if line[1].endswith(port) and line[3] == "0A"]
        assert listening == [f"0100007F{port}"]


def test_the_append_only_file_is_the_one_it_has_open(places: Places) -> None:
    """The path named is among the links of /proc/PID/fd."""
    with site.opened(print, places=places) as here:
        server = redis_server.start(here, here.directory, appendonly="yes")
        assert str(server.append_only_file()) in _open_files(server.pid)


def _open_files(pid: int) -> set[str]:
    """Those that it has open for more than a moment: ten times a second a Redis reads of its own memory in /proc."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(link.readlink()))
    return found


def test_the_append_only_file_of_redis_7_is_the_newest_increment(places: Places) -> None:
    """Since 7.0 the file lies in a folder of its own, one increment after each rewrite."""
    with site.opened(print, places=places) as here:
        folder = here.directory / "appendonlydir"
        folder.mkdir()
        names = ("appendonly.aof.1.base.rdb", "appendonly.aof.1.incr.aof", "appendonly.aof.2.incr.aof")
        for name in names:
            (folder / name).touch()
        assert folder / names[2] == redis_server.newest_increment(folder, "appendonly.aof")


def test_a_setting_it_refuses_is_told(places: Places) -> None:
    """Both at the start, with the server's last words, and at CONFIG SET."""
    with site.opened(print, places=places) as here:
        server = redis_server.start(here, here.directory)
        with pytest.raises(LabError, match="refused CONFIG SET appendfsync sometimes"):
            server.set("appendfsync", "sometimes")
        with pytest.raises(LabError, match="appendfsync"):
            redis_server.start(here, here.directory, appendfsync="sometimes")
