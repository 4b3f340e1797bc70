"""`--persist`: the configuration file is backed up, written, and put back byte for byte; without the word none is."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import redis
from fixing import (
    CONNECTS,
    as_json,
    cause,
    config_set,
    culpa,
    fix,
    kernel_setting,
    known,
    needs_sysctl,
    undone,
    vm,
    written,
)  # fmt: skip
from servers import executable, free_port, needs_redis, port_of

from culpa.diagnose.verdict import Who
from culpa.errors import CulpaError
from culpa.fix import run
from culpa.fix.journal import Journal
from culpa.fix.lasting import SYSCTL_D
from culpa.fix.parameters import Parameters, RedisSetting
from culpa.fix.processes import starttime_of

CONFIGURATION = """# by hand, with care
port {port}
bind 127.0.0.1
appendonly yes
appendfsync always

save ""
hz 12
"""
NAME = SYSCTL_D / "zz-culpa-vm.swappiness.conf"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "culpa")


def persisted(id: str, parameters: Parameters, journal: Journal) -> run.Applied:
    return run.apply(
        known(id), parameters, cause="some.cause", seen_unix=time.time(), journal=journal, connects=CONNECTS,
        persist=True,
    )  # fmt: skip


@contextmanager
def configured(directory: Path) -> Iterator[tuple[redis.Redis, Path]]:
    """A server that was started with a file, which it has not been given a second time."""
    port = free_port()
    file = directory / "redis.conf"
    if not file.exists():
        file.write_text(CONFIGURATION.format(port=port))
        file.chmod(0o640)
    port = int(next(line.split()[1] for line in file.read_text().splitlines() if line.startswith("port ")))
    argv = [executable() or "redis-server", str(file), "--dir", str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        client = redis.Redis(port=port, decode_responses=True)
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    client.ping()
                    break
                except redis.RedisError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            yield client, file
        finally:
            client.close()
            child.kill()


def setting(client: redis.Redis) -> RedisSetting:
    pid = int(client.info("server")["process_id"])
    return RedisSetting(
        setting="appendfsync", value="everysec", host="127.0.0.1", port=port_of(client), pid=pid,
        starttime=starttime_of(pid),
    )  # fmt: skip


@pytest.mark.redis
@needs_redis
def test_a_configuration_file_is_rewritten_and_put_back(tmp_path: Path, journal: Journal) -> None:
    """Bytes, mode and owner; and nothing of the backup is left."""
    with configured(tmp_path) as (client, file):
        before, status = file.read_bytes(), file.stat()
        done = persisted("redis-appendfsync-everysec", setting(client), journal)
        assert done.record is not None
        assert done.record.file is not None
        assert b"\nappendfsync everysec\n" in file.read_bytes()
        backup = journal.directory / f"{done.record.id}.backup"
        assert before == backup.read_bytes()
        assert 0o600 == stat.S_IMODE(backup.stat().st_mode)
        assert ["undone"] == [one.ended for one in undone(journal)]
        assert before == file.read_bytes()
        assert (status.st_mode, status.st_uid) == (file.stat().st_mode, file.stat().st_uid)
        assert {"appendfsync": "always"} == client.config_get("appendfsync")
        assert not backup.exists()


@pytest.mark.redis
@needs_redis
def test_it_lasts_over_a_restart_and_is_taken_back_after_it(tmp_path: Path, journal: Journal) -> None:
    """What a plain fix is not: the new process has it from the file, and both are put back."""
    with configured(tmp_path) as (client, file):
        before = file.read_bytes()
        persisted("redis-appendfsync-everysec", setting(client), journal)
    time.sleep(1.1)  # the server counts its age in whole seconds
    with configured(tmp_path) as (client, file):
        assert {"appendfsync": "everysec"} == client.config_get("appendfsync")
        assert ["undone"] == [one.ended for one in undone(journal)]
        assert {"appendfsync": "always"} == client.config_get("appendfsync")
        assert before == file.read_bytes()


@pytest.mark.redis
@needs_redis
def test_a_file_that_others_changed_since_is_left_alone(tmp_path: Path, journal: Journal) -> None:
    """With the live setting, unless asked to put it back anyway."""
    with configured(tmp_path) as (client, file):
        before = file.read_bytes()
        persisted("redis-appendfsync-everysec", setting(client), journal)
        with file.open("a") as more:
            more.write("# somebody\n")
        changed = file.read_bytes()
        assert ["changed"] == [one.ended for one in undone(journal)]
        assert changed == file.read_bytes()
        assert {"appendfsync": "everysec"} == client.config_get("appendfsync")
        assert ["undone"] == [one.ended for one in undone(journal, anyway=True)]
        assert before == file.read_bytes()


@pytest.mark.redis
@needs_redis
def test_a_file_that_cannot_be_written_leaves_all_as_it_was(tmp_path: Path, journal: Journal) -> None:
    """A link is not followed; a server without a file, or on another host, has none."""
    with configured(tmp_path) as (client, file):
        wanted = setting(client)
        file.rename(tmp_path / "real.conf")
        file.symlink_to(tmp_path / "real.conf")
        with pytest.raises(CulpaError, match="it is a link"):
            persisted("redis-appendfsync-everysec", wanted, journal)
        with pytest.raises(CulpaError, match="not known to run on this host"):
            persisted("redis-appendfsync-everysec", msgspec.structs.replace(wanted, pid=None, starttime=None), journal)
        assert {"appendfsync": "always"} == client.config_get("appendfsync")
        assert not journal.found().open


@pytest.mark.redis
@needs_redis
def test_through_the_command_line_only_with_the_word(tmp_path: Path) -> None:
    """`--apply` alone leaves the file; `--apply --persist` says which one it wrote; `--undo` puts it back."""
    state = tmp_path / "culpa"
    with configured(tmp_path) as (client, file):
        before, one = file.read_bytes(), setting(client)
        who = Who(pid=one.pid, starttime=one.starttime, comm="redis-server")
        proposed = cause(config_set("redis-appendfsync-everysec", one.port, "appendfsync", "everysec"), who=who)
        verdict = written(tmp_path / "v.json", proposed)
        words = ("redis-appendfsync-everysec", "--from", verdict, "--apply")
        assert as_json(state, *words)["record"]["file"] is None
        assert before == file.read_bytes()
        as_json(state, "--undo")
        shown = as_json(state, *words, "--persist")
        assert str(file) == shown["record"]["file"]
        assert b"appendfsync everysec" in file.read_bytes()
        assert "is as it was before" in as_json(state, "--undo")["records"][0]["sentence"]
        assert before == file.read_bytes()
        culpa(state, "fix", *words, "--persist", "--verify", expected=2)


@pytest.fixture
def no_file() -> Iterator[None]:
    if os.geteuid() != 0 or not SYSCTL_D.is_dir():
        pytest.skip(f"{SYSCTL_D} cannot be written here: NOT TESTED")
    before = vm()
    assert not NAME.exists()
    try:
        yield
    finally:
        NAME.unlink(missing_ok=True)
        (Path("/proc/sys/vm") / "swappiness").write_bytes(before["swappiness"])


@needs_sysctl
@pytest.mark.usefixtures("no_file")
def test_a_sysctl_gets_a_file_of_its_own_which_is_removed(journal: Journal) -> None:
    """sysctl reads it as it reads its own; nobody else's file there is touched."""
    others, before = {path.name for path in SYSCTL_D.iterdir()}, vm()
    done = persisted("swappiness-low", kernel_setting("vm.swappiness", "1"), journal)
    assert done.record is not None
    assert ["vm.swappiness = 1"] == [line for line in NAME.read_text().splitlines() if not line.startswith("#")]
    assert b"1\n" == vm()["swappiness"]
    assert ["undone"] == [one.ended for one in undone(journal)]
    assert others == {path.name for path in SYSCTL_D.iterdir()}
    assert before == vm()


@needs_sysctl
@pytest.mark.usefixtures("no_file")
def test_a_file_of_that_name_by_somebody_else_is_not_written_over(journal: Journal) -> None:
    """Nothing is set either."""
    NAME.write_text("vm.swappiness = 77\n")
    before = vm()
    with pytest.raises(CulpaError, match="is there already"):
        persisted("swappiness-low", kernel_setting("vm.swappiness", "1"), journal)
    assert "vm.swappiness = 77\n" == NAME.read_text()
    assert before == vm()


@needs_sysctl
@pytest.mark.usefixtures("no_file")
def test_what_has_no_file_is_refused(journal: Journal, tmp_path: Path) -> None:
    """Huge pages are no sysctl."""
    with pytest.raises(CulpaError, match="no file"):
        persisted("redis-no-thp", kernel_setting("transparent_hugepage/enabled", "never"), journal)
    assert not journal.found().open
    words = ("--from", written(tmp_path / "v.json", cause(fix("redis-no-thp", change="x"))), "--persist")
    culpa(tmp_path / "state", "fix", "redis-no-thp", *words, expected=2)
