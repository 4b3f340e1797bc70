"""Each rule on a scene whose times are chosen by hand: it names the right thing, and keeps quiet beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from scene import AOF, APP, ASK_NS, JOURNAL, MS, REDIS, WORK_NS, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.judge import judge
from culpa.diagnose.rules import RULES
from culpa.diagnose.verdict import Cause, Node, Verdict

LIVE_TESTS = "".join(path.read_text() for path in (Path(__file__).parents[1] / "redis").glob("test_*.py"))
"""What holds the checks of a Redis server against real ones, sick and sound."""
BY_HAND = "".join(
    Path(__file__).with_name(f"test_{name}.py").read_text() for name in ("redis_by_hand", "reclaim", "far_memory")
)
"""The same for what no server and host of the tests can be; docs/reference says so of each."""


def redis_slow(trips: int = 50) -> Scene:
    """One GET that reads and writes `trips` times; every write syncs."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for _ in range(trips):
        scene.redis("GET")
        scene.redis("SADD", "found", sync_ns=5 * MS)
    scene.answer()
    return scene


def heads(verdict: Verdict, *, above_note: bool = False) -> list[str]:
    """Ids of the heads."""
    return [cause.id for cause in verdict.causes if not above_note or cause.level != "note"]


def cause(verdict: Verdict, name: str) -> Cause:
    """The head of that id."""
    return next(one for one in verdict.causes if one.id == name)


def leaves(node: Node) -> list[Node]:
    """Leaves of a blame tree."""
    return [node] if not node.children else [leaf for child in node.children for leaf in leaves(child)]


def test_fsync_always_and_the_write_in_the_read_path_are_heads_in_this_order() -> None:
    """A setting and a habit of the program are independent remedies; the setting is nearer to a change."""
    verdict = judge(redis_slow().capture(appendfsync="always"))

    assert ["redis.aof.fsync-always", "app.redis.write-in-read-path"] == heads(verdict, above_note=True)
    assert "slow" == verdict.state


def test_fsync_always_says_who_on_what_and_how_long() -> None:
    """50 syncs of 5 ms of Redis' main thread on its file, through the journal."""
    found = cause(judge(redis_slow().capture(appendfsync="always")), "redis.aof.fsync-always")
    facts = {evidence.fact: evidence for evidence in found.evidence}

    assert found.who is not None
    assert found.on is not None
    assert (REDIS, REDIS, AOF, "fdatasync") == (found.who.pid, found.who.tid, found.on.path, found.on.syscall)
    assert 0.250 == pytest.approx(facts["main thread of kv[600] in fdatasync: 50 calls x 5 ms"].value)
    assert "always" == facts["appendfsync"].value
    assert any("journal" in fact and f"[{JOURNAL}]" in fact for fact in facts)
    assert any("device sdz" in fact for fact in facts)


@pytest.mark.parametrize("setting", ["everysec", "no"])
def test_a_main_thread_sync_under_another_setting_is_not_fsync_always(setting: str) -> None:
    """The server says that it does not sync always: whatever syncs, it is not this cause."""
    assert "redis.aof.fsync-always" not in heads(judge(redis_slow().capture(appendfsync=setting)))


def test_an_unreadable_setting_lowers_the_confidence() -> None:
    """Without the server's own word the repeated sync stands alone."""
    told = cause(judge(redis_slow().capture(appendfsync="always")), "redis.aof.fsync-always")
    untold = cause(judge(redis_slow().capture()), "redis.aof.fsync-always")

    assert untold.confidence < told.confidence
    assert any("could not be read" in evidence.fact for evidence in untold.evidence)


def test_a_few_syncs_are_no_habit() -> None:
    """Nine syncs can be a rewrite's end."""
    assert "redis.aof.fsync-always" not in heads(judge(redis_slow(9).capture()))


def test_lost_events_lower_the_confidence() -> None:
    """Above one event in a thousand lost, every cause is less sure."""
    sure = cause(judge(redis_slow().capture(appendfsync="always")), "redis.aof.fsync-always")
    less = cause(judge(redis_slow().capture(appendfsync="always", lost=5)), "redis.aof.fsync-always")

    assert less.confidence < sure.confidence


def test_cheap_writes_in_a_read_path_stay_silent() -> None:
    """Two quick INCR in a request that computes for 100 ms are nobody's problem."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    scene.redis("INCR", "hits")
    scene.compute(100 * MS)
    scene.redis("INCR", "hits")
    scene.answer()

    assert [] == heads(judge(scene.capture(appendfsync="everysec")), above_note=True)


def test_filling_a_cache_after_looking_up_the_same_keys_stays_silent() -> None:
    """Cache-aside: GET, then SET of the same keys, not more often than looked up."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for _ in range(10):
        scene.redis("GET", "page:*")
        scene.redis("SET", "page:*", sync_ns=5 * MS)
    scene.answer()

    assert "app.redis.write-in-read-path" not in heads(judge(scene.capture(appendfsync="always")))


def test_writes_within_a_post_stay_silent() -> None:
    """A request that may write is no read path."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives("POST")
    for _ in range(30):
        scene.redis("SADD", "found", sync_ns=5 * MS)
    scene.answer()

    assert "app.redis.write-in-read-path" not in heads(judge(scene.capture(appendfsync="always")))


def test_many_round_trips_of_one_shape_are_named_with_their_number() -> None:
    """300 GET one after the other, and nothing else in the way."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for _ in range(300):
        scene.redis("GET", "uuid:*")
    scene.answer()
    found = cause(judge(scene.capture(appendfsync="everysec")), "app.redis.round-trips")

    assert any("GET uuid:*: 300 round trips a request" in evidence.fact for evidence in found.evidence)
    assert found.predicted is not None
    assert found.predicted.low <= found.predicted.p50 <= found.predicted.high


def test_without_many_round_trips_hardly_more_than_its_own_work_is_left() -> None:
    """300 GET, and a nap of the program in the middle, which no batch does away with: it lies in the range, and what
    was spent on the trips does not.
    """
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for number in range(300):
        scene.redis("GET", "uuid:*")
        if number == 150:
            scene.nap(5 * MS)
    scene.answer()
    found = cause(judge(scene.capture(appendfsync="everysec")), "app.redis.round-trips")
    ((start, end),) = scene.probes

    assert found.predicted is not None
    assert 0 < found.predicted.low <= found.predicted.p50 <= found.predicted.high
    assert found.predicted.high <= 0.7 * (end - start) / 1e9
    assert 0.005 <= found.predicted.high


def test_nineteen_round_trips_are_not_many() -> None:
    """The threshold is twenty of one shape in one request."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for _ in range(19):
        scene.redis("GET", "uuid:*")
    scene.answer()

    assert "app.redis.round-trips" not in heads(judge(scene.capture()))


def test_round_trips_spent_on_a_blocked_server_have_another_cause() -> None:
    """50 SADD that sync are not "many round trips": the sync is what takes the time."""
    assert "app.redis.round-trips" not in heads(judge(redis_slow().capture(appendfsync="always")))


def test_a_sleep_is_a_cause_only_of_a_slow_request() -> None:
    """Above --slower-than it is a cause, below it a note."""
    verdicts = {}
    for length in (300, 100):
        scene = Scene()
        scene.now += 2 * MS
        scene.request_arrives()
        scene.nap(length * MS)
        scene.answer()
        verdicts[length] = judge(scene.capture())

    assert "sleep.by-choice" == heads(verdicts[300], above_note=True)[0]
    assert [] == heads(verdicts[100], above_note=True)
    assert "not-slow" == verdicts[100].state


def test_computing_is_a_cause_only_of_a_slow_request() -> None:
    """As for sleeping: what a program is for is no fault."""
    levels = {}
    for length in (400, 50):
        scene = Scene()
        scene.now += 2 * MS
        scene.request_arrives()
        scene.compute(length * MS)
        scene.answer()
        levels[length] = cause(judge(scene.capture()), "cpu.busy").level

    assert {400: "critical", 50: "note"} == levels


def test_computing_beside_a_longer_wait_is_a_cause_if_it_alone_makes_the_request_slow() -> None:
    """400 ms beside 700 of sleep; not 100 ms beside 150, nor 300 in a request of seconds, of which they are little."""
    above = {}
    for computed, slept in ((400, 700), (100, 150), (300, 2000)):
        scene = Scene()
        scene.now += 2 * MS
        scene.request_arrives()
        scene.compute(computed * MS)
        scene.nap(slept * MS)
        scene.answer()
        above[computed] = heads(judge(scene.capture()), above_note=True)

    assert ["sleep.by-choice", "cpu.busy"] == above[400]
    assert ["sleep.by-choice"] == above[100] == above[300]


def test_another_host_is_named_by_its_address() -> None:
    """30 ms of a 40 ms request pass while another host works."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    scene.compute(10 * MS)
    scene.remote(30 * MS)
    scene.answer()
    verdict = judge(scene.capture())
    found = cause(verdict, "net.remote-slow")

    assert found.on is not None
    assert "192.0.2.9:443" == found.on.peer
    (fact,) = found.evidence
    assert ("s", pytest.approx(0.1 * verdict.root.seconds, abs=1e-6)) == (fact.unit, fact.threshold)
    assert 0.75 == pytest.approx(found.share, abs=0.01)


def test_a_program_that_syncs_by_itself_is_named_with_its_file() -> None:
    """The same syncs by something that does not speak RESP are fsync-heavy."""
    scene = redis_slow()
    scene.rows["messages"]["protocol"] = ["unknown" if p == "resp" else p for p in scene.rows["messages"]["protocol"]]
    verdict = judge(scene.capture())
    found = cause(verdict, "disk.fsync-heavy")

    assert found.on is not None
    assert found.who is not None
    assert (REDIS, AOF) == (found.who.pid, found.on.path)
    assert "redis.aof.fsync-always" not in heads(verdict)


def test_the_slow_device_stands_under_what_made_it_work() -> None:
    """At least 80 % of the device's time lies on the chain of the setting: it is a because, not a head."""
    verdict = judge(redis_slow().capture(appendfsync="always"))

    assert ["disk.slow-device"] == [because.id for because in cause(verdict, "redis.aof.fsync-always").because]


def with_neighbours(scene: Scene, neighbours: int, *, pid: int = 900) -> Scene:
    """So many requests of another process beside each that there is, of the same time and device."""
    blocks = scene.rows["blocks"]
    own = list(zip(*(blocks[name] for name in ("queued_ns", "issue_ns", "complete_ns")), strict=True))
    for queued, issue, complete in own * neighbours:
        scene.add(
            schema.BLOCKS, queued_ns=queued, issue_ns=issue, complete_ns=complete, dev=5, sector=800, bytes=4096,
            op="write", sync=True, tid=pid, pid=pid, ino_dev=5, ino=77,
        )  # fmt: skip
    scene.add(schema.TASKS, tid=pid, pid=pid, comm="importer", kernel=False)
    scene.add(schema.FILES, dev=5, ino=77, path="/data/table")
    return scene


def test_a_device_busy_with_others_requests_is_saturated() -> None:
    """Three of four requests in flight are a neighbour's: three quarters of the wait are queueing, and it is named."""
    verdict = judge(with_neighbours(redis_slow(), 3).capture(appendfsync="always"))
    (found,) = cause(verdict, "redis.aof.fsync-always").because
    facts = {evidence.fact: evidence.value for evidence in found.evidence}

    assert ("disk.saturated", 900) == (found.id, found.who.pid if found.who else None)
    assert "/data/table" == (found.on.path if found.on else None)
    queued, own = (facts[f"waited for sdz: {what}"] for what in ("behind others' requests", "for its own requests"))
    assert isinstance(queued, int | float)
    assert isinstance(own, int | float)
    assert 3 * own == pytest.approx(queued, rel=0.02)
    assert 4.0 == pytest.approx(facts["requests in flight meanwhile, in the mean"], rel=0.02)
    assert any("importer[900] on /data/table" in fact for fact in facts)


def test_a_device_that_has_little_else_to_do_is_slow_itself() -> None:
    """One of two requests in flight is the waiter's own: half of the wait, and no more, is queueing."""
    verdict = judge(with_neighbours(redis_slow(), 1).capture(appendfsync="always"))

    assert ["disk.slow-device"] == [because.id for because in cause(verdict, "redis.aof.fsync-always").because]


def test_a_healthy_service_yields_nothing_above_a_note() -> None:
    """A request of 20 ms that computes, asks Redis twice and answers."""
    scene = Scene()
    for _ in range(5):
        scene.now += 2 * MS
        scene.request_arrives()
        scene.compute(20 * MS)
        scene.redis("SMEMBERS", "found")
        scene.redis("GET", "one")
        scene.answer()
    verdict = judge(scene.capture(appendfsync="everysec"))

    assert [] == heads(verdict, above_note=True)
    assert "not-slow" == verdict.state


def test_leaves_add_up_to_the_root_and_children_never_exceed_their_node() -> None:
    """The verdict's tree conserves time."""
    verdict = judge(redis_slow().capture(appendfsync="always"))

    def check(node: Node) -> None:
        if node.children:
            assert sum(child.seconds for child in node.children) <= node.seconds * (1 + 1e-9)
        for child in node.children:
            check(child)

    check(verdict.blame)
    assert verdict.root.seconds == pytest.approx(sum(leaf.seconds for leaf in leaves(verdict.blame)), rel=0.01)


def test_small_parts_are_not_unexplained_for_being_small() -> None:
    """Two seconds of computing, and besides a little of Redis and a wait of 50 us that nothing explains."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    scene.compute(2000 * MS)
    scene.redis("GET")
    scene.sleep(APP, scene.now, scene.now + 50_000, scene.now + 50_000)
    scene.now += 50_000
    scene.answer()
    small = {leaf.kind: leaf for leaf in leaves(judge(scene.capture()).blame) if "smaller part" in leaf.label}

    assert {"request", "unexplained"} == set(small)
    assert pytest.approx(50e-6, abs=10e-6) == small["unexplained"].seconds
    assert (WORK_NS + ASK_NS) / 1e9 <= small["request"].seconds


def test_a_rule_without_its_table_is_skipped_and_a_broken_one_is_shown() -> None:
    """Four answers: the others go on whatever one rule does."""
    capture = redis_slow().capture(appendfsync="always")
    tables = {name: frame for name, frame in capture.tables.items() if name != schema.MESSAGES.name}
    without = judge(Capture(manifest=capture.manifest, tables=tables))
    broken = tuple(
        type(rule)(
            id=rule.id,
            title=rule.title,
            needs=rule.needs,
            fixes=rule.fixes,
            fires=rule.fires,
            silent=rule.silent,
            doc=rule.doc,
            check=(lambda _picture: 1 / 0) if rule.id == "cpu.busy" else rule.check,
        )  # type: ignore[arg-type,return-value]
        for rule in RULES
    )
    verdict = judge(capture, broken)

    assert "app.redis.write-in-read-path" not in heads(without)
    assert ["cpu.busy"] == [spot.what for spot in verdict.blind_spots]
    assert "redis.aof.fsync-always" in heads(verdict)


def test_a_cause_links_to_its_section_of_the_rules_page() -> None:
    """Each section of docs/reference/rules.md has the rule's id as its anchor."""
    page = (Path(__file__).parents[2] / "docs/reference/rules.md").read_text(encoding="utf-8")
    for found in judge(redis_slow().capture(appendfsync="always")).causes:
        assert f'<a id="{found.docs.partition("#")[2]}"></a>' in page


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_has_its_page_and_its_cases(rule: object) -> None:
    """Four headings; a lab that fires it and one that does not, or a test of both kinds, with servers or by hand."""
    doc = getattr(rule, "doc", "")

    assert all(heading in doc for heading in ("What it detects:", "Why it slows you:", "How sure:", "What to do:"))
    name = f'"{getattr(rule, "id", "")}"'
    tested = name in LIVE_TESTS + BY_HAND
    assert getattr(rule, "fires", ()) or tested
    assert not getattr(rule, "unmade", "") or name in BY_HAND
    assert getattr(rule, "silent", ()) or tested


def test_the_code_line_is_the_innermost_frame_outside_libraries() -> None:
    """The sample whose library call is named after the command counts, whatever its moment."""
    scene = redis_slow()
    for moment in (scene.start, scene.start + MS):
        for depth, (function, path, line, library) in enumerate(
            [
                ("recv", "/lib/socket.py", 1, True),
                ("sadd", "/lib/redis.py", 2, True),
                ("list_it", "/srv/shop.py", 42, False),
                ("handle", "/srv/web.py", 7, False),
            ]
        ):
            scene.add(
                schema.CODE,
                ts_ns=moment,
                tid=APP,
                pid=APP,
                depth=depth,
                function=function,
                path=path,
                line=line,
                library=library,
            )
    found = cause(judge(scene.capture(appendfsync="always")), "app.redis.write-in-read-path")

    assert found.on is not None
    assert "/srv/shop.py:42 in list_it" == found.on.code
