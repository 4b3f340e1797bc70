"""Settings of real Redis servers: set, put back, refused, lost with a restart, set by somebody else meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from fixing import (
    CONNECTS,
    applied,
    as_json,
    cause,
    config_set,
    culpa,
    redis_setting,
    refused,
    undone,
    verdict,
    written,
)
from servers import EACH_SERVER, needs_installed, needs_redis, port_of, serving

from culpa.capture import bundle
from culpa.cli.fixsource import Ways
from culpa.collect import undo as monitors
from culpa.collect.redis_link import Tls
from culpa.diagnose.verdict import Who
from culpa.fix import run
from culpa.fix.catalogue import REMEDIES
from culpa.fix.journal import Journal
from culpa.fix.parameters import RedisSetting
from culpa.fix.processes import starttime_of
from culpa.talk import Talk

pytestmark = [pytest.mark.redis, needs_redis]

VALUES = {
    "redis-appendfsync-everysec": "everysec", "redis-save-rarely": "3600 1", "redis-hz": "100",
    "redis-monitor-on": "5", "redis-slowlog-on": "9999", "redis-defrag-gently": "5",
    "redis-aof-rewrite-later": "67108864", "redis-aof-rewrite-rarely": "100", "redis-repl-backlog": "67108864",
}  # fmt: skip
OFF = {
    "appendfsync": "always", "hz": "10", "save": "", "latency-monitor-threshold": "0", "active-defrag-cycle-max": "25",
}  # fmt: skip
SETTINGS = [(one.id, name) for one in REMEDIES if one.kind == "redis" for name in one.settings]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "culpa")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[redis.Redis]:
    with data(tmp_path) as directory, serving(directory, "--save", "", "--hz", "10") as client:
        yield client


@contextmanager
def data(tmp_path: Path, name: str = "data") -> Iterator[Path]:
    directory = tmp_path / name
    directory.mkdir(exist_ok=True)
    yield directory


def config(client: redis.Redis) -> dict[str, Any]:
    """All of it."""
    return dict(client.config_get("*"))


@pytest.mark.parametrize("program", EACH_SERVER)
def test_every_setting_of_the_catalogue_is_set_and_put_back(program: str, tmp_path: Path, journal: Journal) -> None:
    """On each version here: the whole of CONFIG is as before, and only the one setting differs meanwhile."""
    with data(tmp_path) as directory, serving(directory, program=program) as client:
        for fix_id, name in SETTINGS:
            client.config_set(name, OFF.get(name, "no" if fix_id not in VALUES else "10000"))
            before, wanted = config(client), VALUES.get(fix_id, "yes")
            done = applied(fix_id, redis_setting(port_of(client), name, wanted), journal)
            assert done.record is not None
            meanwhile = config(client)
            differing = {key: value for key, value in meanwhile.items() if value != before[key]}
            older = {name.replace("replica", "slave"): wanted}  # its former name, which CONFIG GET * has as well
            assert {name: wanted} == differing or {name: wanted} | older == differing
            (ended,) = undone(journal)
            assert "undone" == ended.ended, ended
            assert before == config(client)
    assert len(SETTINGS) == len(journal.found().closed)


def test_save_points_of_any_form_come_back(server: redis.Redis, journal: Journal) -> None:
    """None, or several."""
    for before in ("", "3600 1 300 100 60 10000"):
        server.config_set("save", before)
        applied("redis-save-rarely", redis_setting(port_of(server), "save", "3600 5"), journal)
        assert ["undone"] == [one.ended for one in undone(journal)]
        assert {"save": before} == server.config_get("save")


def test_the_configuration_file_is_never_written(tmp_path: Path, journal: Journal) -> None:
    """Neither by apply nor by undo; and a restart gives what it says."""
    file = tmp_path / "redis.conf"
    file.write_text("hz 12\n")
    with data(tmp_path) as directory, serving(str(directory) and directory, "--hz", "12") as client:
        client.config_get("hz")
        applied("redis-hz", redis_setting(port_of(client), "hz", "100"), journal)
        assert not client.info("server")["config_file"]
        undone(journal)
    assert "hz 12\n" == file.read_text()


def test_a_restart_ends_what_was_set_and_its_record(tmp_path: Path, journal: Journal) -> None:
    """The setting is gone with the process; the record says so, and what the new one has."""
    with data(tmp_path) as directory:
        with serving(directory, "--hz", "10") as client:
            port = port_of(client)
            applied("redis-hz", redis_setting(port, "hz", "100"), journal)
        (ended,) = undone(journal)
        assert "failed" == ended.ended
        assert "nobody listens there" in ended.sentence
        assert f"redis-cli -h 127.0.0.1 -p {port} CONFIG SET hz 10" in ended.by_hand
        with serving(directory, "--hz", "11", port=port) as client:
            (ended,) = undone(journal)
            assert "gone" == ended.ended
            assert (
                "was started anew since, and what was set is gone with its process; hz is '11' there" in ended.sentence
            )
            assert {"hz": "11"} == client.config_get("hz")
    assert () == journal.found().open


def test_another_server_that_answers_there_is_left_alone(tmp_path: Path, journal: Journal) -> None:
    """As after a failover: it was running before the change, so it is not the one that was changed."""
    with (
        data(tmp_path) as one, data(tmp_path, "other") as two, serving(two, "--hz", "13") as other,
        serving(one, "--hz", "10") as client,
    ):  # fmt: skip
        deadline = time.monotonic() + 30
        while other.info("server")["uptime_in_seconds"] < 4:  # older than clocks of whole seconds may be apart
            assert time.monotonic() < deadline
            time.sleep(0.1)
        done = applied("redis-hz", redis_setting(port_of(client), "hz", "100"), journal)
        assert done.record is not None

        def elsewhere(_: RedisSetting) -> Any:
            return CONNECTS(redis_setting(port_of(other), "hz", "100"))

        ended = run.undo(done.record, journal=journal, connects=elsewhere)
        assert "failed" == ended.ended
        assert "another server answers at" in ended.sentence
        assert {"hz": "13"} == other.config_get("hz")
        assert ["undone"] == [one.ended for one in undone(journal)]
        assert {"hz": "10"} == client.config_get("hz")


def test_what_somebody_else_has_set_since_is_asked_about(server: redis.Redis, tmp_path: Path) -> None:
    """On the command line: exit code 1, the state it is in, the ways out; each of them works."""
    state = tmp_path / "culpa"
    file = written(tmp_path / "v.json", cause(config_set("redis-hz", port_of(server), "hz", "100")))
    for way, expected in (("--anyway", "10"), ("--keep", "50")):
        culpa(state, "fix", "redis-hz", "--from", file, "--apply")
        server.config_set("hz", "50")
        page = culpa(state, "fix", "--undo", "all", expected=1)[0]
        told = " ".join(page.split())
        assert f"somebody else has set hz of Redis at 127.0.0.1:{port_of(server)} since: hz is '50'" in told
        assert "--anyway" in told
        assert f"redis-cli -h 127.0.0.1 -p {port_of(server)} CONFIG SET hz 10" in told
        assert {"hz": "50"} == server.config_get("hz")
        culpa(state, "fix", "--undo", way)
        assert {"hz": expected} == server.config_get("hz")
    assert ["undone", "kept"] == [one["outcome"] for one in as_json(state, "--log")["records"]]


def test_one_setting_is_in_the_hands_of_one_fix(server: redis.Redis, journal: Journal) -> None:
    """A second one would note the first one's value as the former."""
    applied("redis-hz", redis_setting(port_of(server), "hz", "100"), journal)
    told = refused("redis-hz", redis_setting(port_of(server), "hz", "200"), journal)
    assert "the fix f1 (redis-hz)" in told
    assert {"hz": "100"} == server.config_get("hz")


def test_a_setting_that_a_check_up_has_lent_is_left_alone(server: redis.Redis, journal: Journal) -> None:
    """The monitor's threshold during `culpa redis --latency-monitor` is not the one to go back to."""
    run_id = server.info("server")["run_id"]
    change = monitors.Change(
        run_id=run_id, setting="latency-monitor-threshold", before="0", during="1", at_unix=1.0, port=port_of(server)
    )
    record = monitors.write(change, journal.directory.parent)
    one = redis_setting(port_of(server), "latency-monitor-threshold", "5")
    assert "culpa redis --latency-monitor has changed" in refused("redis-monitor-on", one, journal)
    record.discard()
    assert applied("redis-monitor-on", one, journal).record is not None


def look(one: RedisSetting, *, seen_unix: float | None = None) -> run.Look:
    return run.look(one, time.time() if seen_unix is None else seen_unix, CONNECTS)


@needs_installed
def test_what_cannot_work_is_told_beforehand(tmp_path: Path, journal: Journal) -> None:
    """CONFIG renamed, CONFIG GET or SET forbidden to this user, nobody there."""
    from servers import INSTALLED

    with data(tmp_path) as directory, serving(directory, "--rename-command", "CONFIG", "", program=INSTALLED) as client:
        found = look(redis_setting(port_of(client), "hz", "100"))
        assert "CONFIG is renamed or switched off there: set it in the provider's console" in found.obstacle
        assert "cannot be applied here: CONFIG is renamed" in refused(
            "redis-hz", redis_setting(port_of(client), "hz", "100"), journal
        )
    assert "nobody listens there" in look(redis_setting(1, "hz", "100")).obstacle
    with data(tmp_path, "acl") as directory, serving(directory, program=INSTALLED) as client:
        for rights, why in (("-config", "refuses CONFIG GET"), ("-config|set", "may not run CONFIG SET")):
            client.execute_command("ACL", "SETUSER", "default", "+@all", rights)
            assert why in look(redis_setting(port_of(client), "hz", "100")).obstacle
        client.execute_command("ACL", "SETUSER", "default", "+@all", "-config|set", "-acl|dryrun")
        told = refused("redis-hz", redis_setting(port_of(client), "hz", "100"), journal)
        assert "refuses CONFIG SET hz '100'" in told
        assert told.endswith("it is as it was before")
        assert {"hz": "10"} == client.config_get("hz")
    assert ["refused"] == [one.outcome for one in journal.found().closed]


def test_an_undo_that_the_server_refuses_stays_open(tmp_path: Path, journal: Journal) -> None:
    """With the line for somebody who may; once it may again, the undo is done."""
    with data(tmp_path) as directory, serving(directory, "--hz", "10") as client:
        applied("redis-hz", redis_setting(port_of(client), "hz", "100"), journal)
        client.execute_command("ACL", "SETUSER", "default", "-config")
        client.execute_command("ACL", "SETUSER", "default", "+config|get")
        (ended,) = undone(journal)
        assert "failed" == ended.ended
        assert "could not be put back" in ended.sentence
        assert "f1 stays open" in ended.sentence
        assert (f"redis-cli -h 127.0.0.1 -p {port_of(client)} CONFIG SET hz 10",) == ended.by_hand
        client.execute_command("ACL", "SETUSER", "default", "+@all")
        assert ["undone"] == [one.ended for one in undone(journal)]
        assert {"hz": "10"} == client.config_get("hz")


def test_a_verdict_on_another_process_is_not_about_this_server(server: redis.Redis) -> None:
    """Older than the server, of a process that has ended, or of one that does not answer at that address."""
    one, pid = redis_setting(port_of(server), "hz", "100"), server.info("server")["process_id"]
    assert "" == look(one).obstacle
    assert "started anew since it was examined" in look(one, seen_unix=time.time() - 3600).obstacle
    from msgspec import structs

    right = structs.replace(one, pid=pid, starttime=starttime_of(pid))
    assert "" == look(right).obstacle
    ended = structs.replace(one, pid=pid, starttime=1)
    assert f"process {pid}, which was examined, has ended" == look(ended).obstacle
    init = structs.replace(one, pid=1, starttime=starttime_of(1))
    assert "is not process 1, which was examined" in look(init).obstacle


def test_passwords_are_in_no_record_and_no_output(tmp_path: Path) -> None:
    """From the environment or the URL; and they are not sent to a server that only a file names."""
    state, secret = tmp_path / "culpa", "s3cret-word"
    with data(tmp_path) as directory, serving(directory, "--requirepass", secret, "--hz", "10") as open_client:
        port = port_of(open_client)
        file = written(tmp_path / "v.json", cause(config_set("redis-hz", port, "hz", "100")))
        said = []
        (listed,) = as_json(state, "--from", file, REDISCLI_AUTH=secret)["fixes"]
        assert "cannot" == listed["state"]
        assert "wants a password" in listed["why_not"]
        assert "--server" in listed["why_not"]
        way = ("--server", f"redis://127.0.0.1:{port}")
        said.append(culpa(state, "fix", "redis-hz", "--from", file, *way, "--apply", REDISCLI_AUTH=secret))
        said.append(culpa(state, "fix", "--log"))
        said.append(culpa(state, "fix", "--undo", expected=1))
        said.append(culpa(state, "fix", "--undo", REDISCLI_AUTH=secret))
        said.append(culpa(state, "fix", "redis-hz", "--from", file, "--server", f"redis://:{secret}@127.0.0.1:{port}"))
        client = redis.Redis(port=port, password=secret, decode_responses=True)
        assert {"hz": "10"} == client.config_get("hz")
        client.close()
    records = [path.read_text() for path in state.rglob("*") if path.is_file()]
    assert records
    assert not [text for text in (*records, *(part for both in said for part in both)) if secret in text]


def test_the_last_verdict_is_where_a_fix_comes_from(server: redis.Redis, tmp_path: Path) -> None:
    """Of a real check-up, as it was kept; without one the way to one is said."""
    state = tmp_path / "culpa"
    told = culpa(state, "fix", expected=1)[1]
    assert "there is no verdict to take a fix from; run culpa why or culpa redis first" in told
    culpa(state, "redis", f"redis://127.0.0.1:{port_of(server)}", "--for", "1.2s", "--no-trace", "--json")
    found = {one["id"]: one for one in as_json(state)["fixes"]}
    assert "can" == found["redis-monitor-on"]["state"], found
    culpa(state, "fix", "redis-monitor-on", "--apply")
    assert {"latency-monitor-threshold": "5"} == server.config_get("latency-monitor-threshold")
    again = {one["id"]: one["state"] for one in as_json(state)["fixes"]}
    assert "done" == again["redis-monitor-on"]
    culpa(state, "fix", "--undo", "all")
    assert {"latency-monitor-threshold": "0"} == server.config_get("latency-monitor-threshold")
    (kept,) = tmp_path.rglob("last-verdict.json")
    assert 0o600 == kept.stat().st_mode & 0o777


def test_a_capture_is_a_source_as_well(server: redis.Redis, tmp_path: Path) -> None:
    """It is judged, and the fixes of its verdict are tried against the live server."""
    from servers import recorded

    file = tmp_path / "some.culpa"
    bundle.save(recorded(port_of(server)), file)
    found = {one["id"]: one["state"] for one in as_json(tmp_path / "culpa", "--from", str(file))["fixes"]}
    assert "can" == found["redis-monitor-on"]


def test_the_process_of_a_verdict_and_its_tls_are_taken_from_it() -> None:
    """A verdict on rediss:// is about a server that speaks TLS; --server says so for others, with a user."""
    from culpa.fix.proposals import proposals

    one = verdict(
        cause(config_set("redis-hz", 6380, "hz", "100"), who=Who(pid=7, starttime=9)), name="rediss://127.0.0.1:6380/0"
    )
    (proposal,) = proposals(one)
    by_name = Ways(None, Tls(), Talk(quiet=True), trusted=True).known(proposal, one).parameters
    assert isinstance(by_name, RedisSetting)
    assert by_name.tls
    ways = Ways("redis://me:pw@127.0.0.1:6380", Tls(), Talk(quiet=True), trusted=False)
    named = ways.known(proposal, one).parameters
    assert isinstance(named, RedisSetting)
    assert ("me", False, 7) == (named.user, named.tls, named.pid)
