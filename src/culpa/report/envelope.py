"""A verdict as JSON and back: the envelope that `--json` prints, schema `culpa.verdict/1`."""

from __future__ import annotations

import msgspec

from culpa.capture.encoding import encode_json
from culpa.diagnose.verdict import Verdict
from culpa.errors import CulpaError


def to_json(verdict: Verdict) -> str:
    """The verdict, indented, every number as it is; ends with a newline."""
    return encode_json(verdict, indent=2).decode() + "\n"


def parse(text: str | bytes) -> Verdict:
    """Read what `to_json` wrote.

    Raises:
        CulpaError: it is not a verdict; says where it differs.
    """
    try:
        return msgspec.json.decode(text, type=Verdict)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CulpaError(f"not a verdict of culpa: {error}") from error


def json_schema() -> bytes:
    """The JSON Schema of the verdict, published as `docs/reference/verdict.schema.json`."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Verdict)), indent=2) + b"\n"
