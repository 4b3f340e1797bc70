"""Requests against the simulator: what was asked, when it was read and answered, and by whom."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from culpa.model import requests
from culpa.sim import emit, engine
from culpa.sim.log import Log, Request
from culpa.sim.program import Program
from culpa.sim.random_programs import Nature, random_program

SEEDS = st.integers(0, 2**32)
often = settings(max_examples=60, deadline=None, derandomize=True)
NATURES = {"plain": Nature(bystanders=True), "inside": Nature(inside=True), "two writes": Nature(split=True)}
natures = pytest.mark.parametrize("nature", list(NATURES.values()), ids=list(NATURES))


def _simulate(seed: int, nature: Nature) -> tuple[Program, Log, requests.Requests]:
    program = random_program(seed, size=3, nature=nature)
    log = engine.run(program)
    return program, log, requests.find(emit.capture(program, log))


def _whole(program: Program, request: Request) -> bool:
    """Read and answered well inside the window."""
    return request.read_ns is not None and request.reply_ns is not None and request.reply_ns < program.window[1]


def _found(found: requests.Requests) -> set[tuple[int, int, int | None, int | None]]:
    return set(found.spans.select("tid", "ino", "read_ns", "reply_ns").iter_rows())


@natures
@often
@given(seed=SEEDS)
def test_every_answered_request_is_found_with_its_thread_and_its_times(nature: Nature, seed: int):
    """From the end of the read of its last byte to the end of the last write of its answer."""
    program, log, found = _simulate(seed, nature)
    expected = {(r.server_tid, r.server_ino, r.read_ns, r.reply_ns) for r in log.requests if _whole(program, r)}
    assert expected <= _found(found)


@pytest.mark.parametrize("nature", [Nature(), Nature(inside=True)], ids=["plain", "inside"])
@often
@given(seed=SEEDS)
def test_nothing_else_is_found(nature: Nature, seed: int):
    """Each span is a request of the simulator; those that are open at the end of the window have no answer."""
    program, log, found = _simulate(seed, nature)
    end_ns = program.window[1]
    expected = {
        (r.server_tid, r.server_ino, r.read_ns, r.reply_ns if _whole(program, r) else None)
        for r in log.requests
        if r.read_ns is not None and r.read_ns < end_ns
    }
    assert expected == _found(found)


@natures
@often
@given(seed=SEEDS)
def test_both_ends_of_a_request_are_matched(nature: Nature, seed: int):
    """A client's exchange leads to the exchange of the thread that read that very request."""
    program, log, found = _simulate(seed, nature)
    asked = {(r.client_tid, r.sent_ns): (r.server_tid, r.read_ns) for r in log.requests if _whole(program, r)}
    rows = found.exchanges.select("role", "tid", "ask_end_ns").rows()
    matched = {
        (tid, end): rows[server][1:]
        for (role, tid, end), server in zip(rows, found.server_of.tolist(), strict=True)
        if role == "client" and server >= 0
    }
    local = {key: value for key, value in asked.items() if key[0] is not None and value[0] is not None}
    assert local == {key: value for key, value in matched.items() if key in local}


@often
@given(seed=SEEDS)
def test_what_was_asked_is_kept(seed: int):
    """Verb and detail of recognised protocols; none for a protocol that is not known."""
    program, log, found = _simulate(seed, Nature())
    protocol = {service.name: service.protocol for service in program.services}
    expected = {
        (r.server_tid, r.read_ns): (r.verb, r.detail) if protocol[r.service] != "unknown" else (None, None)
        for r in log.requests
        if r.read_ns is not None and r.read_ns < program.window[1]
    }
    told = {
        (tid, read): (verb, detail)
        for tid, read, verb, detail in found.spans.select("tid", "read_ns", "verb", "detail").iter_rows()
    }
    assert expected == told
