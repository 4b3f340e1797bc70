"""Typed structs as indented JSON: the manifest of a capture and the envelope of a verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec


def encode_json(value: msgspec.Struct | Sequence[msgspec.Struct], *, indent: int) -> bytes:
    """The struct, or structs, as JSON in UTF-8, without a newline at its end.

    A name from the command line or from /proc may hold bytes that are no text (lone surrogates in Python); each becomes
    a question mark, because JSON cannot hold it.
    """
    try:
        compact = msgspec.json.encode(value)
    except UnicodeEncodeError:
        compact = json.dumps(msgspec.to_builtins(value), ensure_ascii=False).encode("utf-8", "replace")
    return msgspec.json.format(compact, indent=indent)
