"""The JSON of a verdict: complete, stable, and read back as it was."""

from __future__ import annotations

import json

import pytest
import verdicts

from culpa.errors import CulpaError
from culpa.report.envelope import json_schema, parse, to_json

MAKERS = [verdicts.verdict, verdicts.healthy, verdicts.unknown, verdicts.hostile]


@pytest.mark.parametrize("make", MAKERS)
def test_round_trip(make) -> None:
    """What was written is read back equal, and written again byte for byte."""
    text = to_json(make())
    assert make() == parse(text)
    assert text == to_json(parse(text))


def test_fields_are_those_of_the_contract() -> None:
    """The top level has exactly the promised fields, numbers stay numbers, absent parts are null or absent."""
    envelope = json.loads(to_json(verdicts.verdict()))
    assert {
        "schema", "culpa", "host", "headline", "state", "target", "window", "root", "observed", "blame", "causes",
        "ruled_out", "blind_spots", "checks", "commands", "stalls", "cost",
    } == set(envelope)  # fmt: skip
    assert envelope["schema"] == "culpa.verdict/1"
    assert envelope["causes"][0]["share"] == 0.86
    assert envelope["causes"][1]["predicted"] is None
    assert set(envelope["causes"][1]["on"]) == {"code"}


def test_control_characters_are_escaped() -> None:
    """JSON on a terminal holds no raw control character either."""
    assert not any(ord(letter) < 32 and letter != "\n" for letter in to_json(verdicts.hostile()))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "culpa.verdict/1"}', "\udcff", b"\xff\xfe"])
def test_other_text_is_refused_in_a_sentence(text: str | bytes) -> None:
    """What is not a verdict ends in an error that says so."""
    with pytest.raises(CulpaError, match="not a verdict"):
        parse(text)


def test_schema_names_every_type() -> None:
    """The published schema describes the verdict, its causes and its tree."""
    schema = json.loads(json_schema())
    assert {"Verdict", "Cause", "Node", "Evidence", "BlindSpot"} <= set(schema["$defs"])


def test_name_that_is_no_text_does_not_break_the_envelope() -> None:
    """A lone surrogate, as Python makes of a command line that is not UTF-8, becomes a question mark."""
    text = to_json(verdicts.verdict(headline="caf\udce9"))
    assert parse(text).headline == "caf?"
