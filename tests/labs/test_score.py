"""A verdict against a truth, on verdicts made by hand."""

from __future__ import annotations

import msgspec
import pytest

from culpa.diagnose.verdict import Cause, Evidence, Level, Node, Observed, On, Predicted, State, Verdict, Who
from culpa.labs.lab import Measured, Truth, TruthOn, TruthStep, TruthWho
from culpa.labs.score import score

AOF = "/data/appendonly.aof"
TRUTH = Truth(
    causes=("a.first", "b.second"),
    may=("c.true-too",),
    who=(TruthWho(cause="a.first", pid=10, comm="server"), TruthWho(cause="b.second", pid=20, comm="app")),
    on=(
        TruthOn(cause="a.first", path=AOF),
        TruthOn(cause="b.second", code="/srv/app.py", first_line=40, last_line=42),
    ),
    path=(TruthStep(pid=20), TruthStep(kind="fsync", pid=10, path=AOF)),
)
MEASURED = Measured(before=10.0, after_fix=1.0)


def cause(
    name: str,
    *,
    level: Level = "critical",
    pid: int | None = None,
    on: On | None = None,
    because: tuple[Cause, ...] = (),
    p50: float | None = None,
) -> Cause:
    """A cause with the parts that matter here."""
    return Cause(
        id=name,
        title=name,
        kind="slowness",
        level=level,
        share=0.9,
        saves_seconds=9.0,
        predicted=None if p50 is None else Predicted(p50=p50, low=p50, high=p50),
        confidence=0.9,
        who=None if pid is None else Who(pid=pid),
        on=on,
        evidence=(Evidence(fact="seen", value=1, unit="", threshold=None, source="test"),),
        because=because,
        docs="",
    )


def node(pid: int, *children: Node, kind: str = "peer", path: str | None = None, device: str | None = None) -> Node:
    """A node of a blame tree."""
    parts = {"label": "", "kind": kind, "who": {"pid": pid}, "on": {"path": path, "device": device}}
    plain = msgspec.convert({**parts, "seconds": 1.0, "share": 1.0, "count": 1}, Node)
    return msgspec.structs.replace(plain, children=children)


TREE = node(1, node(20, node(10, node(10, kind="running"), node(10, kind="fsync", path=AOF))), kind="request")
FIRST = cause("a.first", pid=10, on=On(path=AOF), p50=1.9)
SECOND = cause("b.second", pid=20, on=On(code="/srv/app.py:41"))


def verdict(*causes: Cause, state: State = "slow", tree: Node = TREE) -> Verdict:
    """A verdict with these causes on requests of 10 s."""
    observed = Observed(completed=1, in_flight=0, in_flight_age=None, p50=10.0, p99=None, max=10.0, per_second=0.1)
    return msgspec.structs.replace(
        msgspec.convert(EMPTY, Verdict), causes=causes, state=state, blame=tree, observed=observed
    )


EMPTY = {
    "culpa": {"version": "0"},
    "host": {"kernel": "", "machine": "", "cpus": 1, "memory_bytes": 1},
    "headline": "",
    "state": "unknown",
    "target": {"kind": "url", "name": "", "pids": []},
    "window": {"start": "", "seconds": 1.0, "ended_by": "limit"},
    "root": {"basis": "requests", "seconds": 1.0, "threads": 1, "idle_seconds": 0.0},
    "observed": None,
    "blame": msgspec.to_builtins(TREE),
    "causes": [],
    "ruled_out": [],
    "blind_spots": [],
    "cost": {"events": 0, "lost_events": 0, "probe_cpu_seconds": 0, "culpa_cpu_seconds": 0, "peak_rss_bytes": 0},
}


def test_the_whole_truth() -> None:
    """Everything right: predicted to save 8.1 s, saved 9 s."""
    found = score(verdict(FIRST, SECOND), TRUTH, MEASURED)
    assert found.found
    assert found.false_alarms == ()
    assert found.prediction_error == pytest.approx(0.1)


def test_the_wrong_order_is_not_top1() -> None:
    """Both named, the second first."""
    found = score(verdict(SECOND, FIRST), TRUTH, MEASURED)
    assert (found.top1, found.all_named, found.found) == (False, True, False)


def test_what_was_measured_lies_within_the_predicted_range_or_not() -> None:
    """1.0 s after the fix; where the longest of many was measured nothing is predicted."""
    ranges = {(0.5, 1.9): True, (1.1, 1.9): False}
    for (low, high), within in ranges.items():
        first = msgspec.structs.replace(FIRST, predicted=Predicted(p50=1.5, low=low, high=high))
        found = score(verdict(first, SECOND), TRUTH, MEASURED)
        assert (Predicted(p50=1.5, low=low, high=high), within) == (found.predicted, found.within)
    longest = score(verdict(FIRST), TRUTH, msgspec.structs.replace(MEASURED, longest=True))
    assert (None, None, None) == (longest.predicted, longest.within, longest.prediction_error)


def test_a_cause_in_a_because_counts_as_named() -> None:
    """Wherever in the tree of causes it stands, with its who and on."""
    found = score(verdict(cause("a.first", pid=10, on=On(path=AOF), because=(SECOND,))), TRUTH, MEASURED)
    assert found.found


def test_either_of_two_paths_is_right_and_no_path_is_not() -> None:
    """A cause that names neither, or nothing, is not on the right file."""
    either = msgspec.structs.replace(TRUTH, on=(TruthOn(cause="a.first", path=AOF, or_path="/data/dump.rdb"),))

    def on_right(path: str | None, truth: Truth = either) -> bool:
        return score(verdict(cause("a.first", pid=10, on=On(path=path)), SECOND), truth, MEASURED).on

    assert on_right(AOF)
    assert on_right("/data/dump.rdb")
    assert not on_right("/data/other")
    assert not on_right(None)
    assert not on_right(None, msgspec.structs.replace(TRUTH, on=(TruthOn(cause="a.first", path=AOF),)))


def test_a_missing_cause_is_missed_with_its_who_and_on() -> None:
    """Only the first is named."""
    found = score(verdict(FIRST), TRUTH, MEASURED)
    assert (found.top1, found.all_named, found.who, found.on) == (True, False, False, False)


@pytest.mark.parametrize(
    ("pid", "code"), [(21, "/srv/app.py:41"), (20, "/srv/app.py:43"), (20, "/srv/other.py:41"), (20, "/srv/app.py")]
)
def test_the_wrong_process_or_line_is_wrong(pid: int, code: str) -> None:
    """A neighbour's pid, the line after, another file, no line."""
    found = score(verdict(FIRST, cause("b.second", pid=pid, on=On(code=code))), TRUTH, MEASURED)
    assert found.all_named
    assert not (found.who and found.on)


def test_a_line_may_be_followed_by_the_function() -> None:
    """`file:line (function)` names the line as well."""
    found = score(verdict(FIRST, cause("b.second", pid=20, on=On(code="/srv/app.py:42 (look_up)"))), TRUTH, MEASURED)
    assert found.on


def test_false_alarms_are_heads_above_a_note_that_are_not_true() -> None:
    """What may be named, notes, and causes below a head are none."""
    others = (cause("c.true-too"), cause("d.note", level="note"), cause("e.wrong", level="warning"))
    found = score(verdict(cause("a.first", because=(cause("f.below"),)), *others), TRUTH, MEASURED)
    assert found.false_alarms == ("e.wrong",)


def test_a_note_before_the_first_cause_does_not_take_its_place() -> None:
    """Heads are those above a note."""
    assert score(verdict(cause("d.note", level="note"), FIRST, SECOND), TRUTH, MEASURED).top1


def test_the_chain_must_go_down_in_order() -> None:
    """The same nodes beside each other or upside down are no chain."""
    fsync = node(10, kind="fsync", path=AOF)
    beside = node(1, node(20), fsync)
    upside_down = node(1, node(10, node(20), kind="fsync", path=AOF))
    other_file = node(1, node(20, node(10, kind="fsync", path="/data/dump.rdb")))
    paths = [
        score(verdict(FIRST, SECOND, tree=tree), TRUTH, MEASURED).path for tree in (beside, upside_down, other_file)
    ]
    assert paths == [False, False, False]


@pytest.mark.parametrize(("device", "right"), [("loop3", True), ("sda", False), (None, False)])
def test_a_chain_may_end_at_a_device(device: str | None, right: bool) -> None:
    """The device that the syncs wait for, by its kernel name."""
    truth = msgspec.structs.replace(TRUTH, path=(*TRUTH.path, TruthStep(kind="device", device="loop3")))
    fsync = node(10, node(11, kind="device", device=device), kind="fsync", path=AOF)
    found = score(verdict(FIRST, SECOND, tree=node(1, node(20, fsync))), truth, MEASURED)
    assert found.path is right
    assert found.missed == (() if right else ("path",))


@pytest.mark.parametrize(("state", "right"), [("not-slow", True), ("unknown", False), ("slow", False)])
def test_where_nothing_is_wrong_enough_must_have_been_seen(state: State, right: bool) -> None:
    """A verdict that saw too little does not acquit."""
    assert score(verdict(state=state), Truth(causes=()), Measured(before=0.1)).found is right


@pytest.mark.parametrize(("causes", "right"), [((), True), ((FIRST,), False)])
def test_of_samples_only_silence_is_demanded(causes: tuple[Cause, ...], right: bool) -> None:
    """They see too little of a fast request to acquit, but may not accuse."""
    state: State = "slow" if causes else "unknown"
    assert score(verdict(*causes, state=state), Truth(causes=()), MEASURED, acquit=False).found is right


@pytest.mark.parametrize(("peer", "right"), [("198.51.100.7:80", True), ("198.51.100.7:81", False), (None, False)])
def test_a_peer_is_named_by_address_and_port(peer: str | None, right: bool) -> None:
    """The same host at another port is another peer."""
    truth = Truth(causes=("a.first",), on=(TruthOn(cause="a.first", peer="198.51.100.7:80"),))
    assert score(verdict(cause("a.first", on=On(peer=peer))), truth, MEASURED).on is right


def test_an_alarm_where_nothing_is_wrong_is_false() -> None:
    """A healthy lab tolerates notes only."""
    assert score(verdict(cause("d.note", level="note"), state="not-slow"), Truth(causes=()), MEASURED).found
    alarmed = score(verdict(FIRST, state="not-slow"), Truth(causes=()), MEASURED)
    assert (alarmed.found, alarmed.false_alarms) == (False, ("a.first",))


@pytest.mark.parametrize("measured", [Measured(before=10.0), Measured(before=10.0, after_fix=11.0)])
def test_without_a_saving_there_is_no_prediction_error(measured: Measured) -> None:
    """Not measured, or the fix did not help."""
    assert score(verdict(FIRST, SECOND), TRUTH, measured).prediction_error is None


def test_a_bystander_must_be_named_in_the_evidence_of_its_cause() -> None:
    """By name and pid, in a head or a because; elsewhere does not count."""
    truth = Truth(causes=("a.first",), bystanders=(TruthWho(cause="a.first", pid=31, comm="diary"),))
    fact = Evidence(fact="diary[31] waits for the same disk", value=1.0, unit="s", threshold=None, source="blocks")
    named = msgspec.structs.replace(cause("a.first"), evidence=(fact,))
    elsewhere = msgspec.structs.replace(cause("b.second"), evidence=(fact,))
    assert score(verdict(named), truth, MEASURED).who
    assert score(verdict(cause("b.second", because=(named,))), truth, MEASURED).who
    assert not score(verdict(cause("a.first"), elsewhere), truth, MEASURED).who


def test_a_device_must_be_the_one() -> None:
    """As a path must."""
    truth = Truth(causes=("a.first",), on=(TruthOn(cause="a.first", device="sdb"),))
    assert score(verdict(cause("a.first", on=On(device="sdb"))), truth, MEASURED).on
    assert not score(verdict(cause("a.first", on=On(device="sda"))), truth, MEASURED).on


def test_bystanders_of_one_cause_are_named_together() -> None:
    """One cause that names both is right; one cause for each of them is not."""
    wanted = tuple(TruthWho(cause="a.first", pid=pid, comm="crew") for pid in (31, 32))
    truth = Truth(causes=("a.first",), bystanders=wanted)
    facts = [
        Evidence(fact=f"crew[{pid}] sleeps", value=1.0, unit="s", threshold=None, source="offcpu") for pid in (31, 32)
    ]
    together = msgspec.structs.replace(cause("a.first"), evidence=tuple(facts))
    one, other = (msgspec.structs.replace(cause("a.first"), evidence=(fact,)) for fact in facts)
    assert score(verdict(together), truth, MEASURED).who
    assert not score(verdict(one, other), truth, MEASURED).who


def test_a_process_that_ended_is_known_by_its_name() -> None:
    """Without a number any process of that name is right, in a cause and on the way down; another name is not."""
    short = Who(pid=77, comm="dd")
    tree = node(1, msgspec.structs.replace(node(77, kind="fsync"), who=short), kind="request")
    given = verdict(msgspec.structs.replace(cause("a.first"), who=short), tree=tree)
    for comm, right in (("dd", True), ("cp", False)):
        truth = Truth(
            causes=("a.first",),
            who=(TruthWho(cause="a.first", comm=comm),),
            path=(TruthStep(kind="fsync", comm=comm),),
        )
        found = score(given, truth, MEASURED)
        assert (found.who, found.path) == (right, right)


@pytest.mark.parametrize(("said", "right"), [("KEYS user:*", True), ("KEYS", True), ("KEYSIZE", False), (None, False)])
def test_a_redis_command_is_named_by_its_verb(said: str | None, right: bool) -> None:
    """The pattern of its key may follow."""
    truth = Truth(causes=("a.first",), on=(TruthOn(cause="a.first", command="KEYS"),))
    assert right == score(verdict(cause("a.first", on=On(command=said))), truth, MEASURED).on
