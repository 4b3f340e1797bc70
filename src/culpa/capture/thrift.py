"""A bounded reader of Thrift's compact protocol: what a Parquet footer and its page headers are written in.

Only reads, into plain values; field ids get their meaning in `parquet.py`. Mirrors the Thrift compact protocol
specification (apache/thrift, doc/specs/thrift-compact-protocol.md). Input is hostile: depth, element count and length
are bounded, and every read stays inside the buffer.
"""

from __future__ import annotations

from typing import Final

Value = int | float | bytes | list["Value"] | dict[int, "Value"]
Struct = dict[int, Value]

MAX_DEPTH: Final = 12
"""Parquet's own metadata nests seven deep."""
MAX_VALUES: Final = 100_000
"""Values in one message; a footer of every table of a capture has a few thousand."""
_VARINT_BITS: Final = 70
_BOOLEAN_TRUE, _BOOLEAN_FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class ThriftError(ValueError):
    """The bytes are not a bounded compact-protocol message."""


class Reader:
    """Reads values one after another from the start of `data`; `position` is where the next one begins."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self._left = MAX_VALUES

    def struct(self, depth: int = 0) -> Struct:
        """One struct: field id to value; boolean fields become 0 or 1."""
        if depth > MAX_DEPTH:
            raise ThriftError("nested too deeply")
        fields: Struct = {}
        field_id = 0
        while header := self._byte():
            delta, kind = header >> 4, header & 0x0F
            field_id = field_id + delta if delta else self._zigzag()
            fields[field_id] = self._field(kind, depth)
        return fields

    def _field(self, kind: int, depth: int) -> Value:
        if kind in (_BOOLEAN_TRUE, _BOOLEAN_FALSE):
            return int(kind == _BOOLEAN_TRUE)
        return self._value(kind, depth)

    def _value(self, kind: int, depth: int) -> Value:
        self._left -= 1
        if self._left < 0:
            raise ThriftError("too many values")
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind in (_BYTE, _BOOLEAN_TRUE, _BOOLEAN_FALSE):
            return self._byte()
        if kind == _DOUBLE:
            self._take(8)
            return 0.0
        raise ThriftError(f"unexpected type {kind}")

    def _list(self, depth: int) -> list[Value]:
        header = self._byte()
        size, kind = header >> 4, header & 0x0F
        if size == 15:
            size = self._varint()
        if size > len(self.data) - self.position:
            raise ThriftError("a list is longer than its message")
        if depth >= MAX_DEPTH:
            raise ThriftError("nested too deeply")
        return [self._value(kind, depth + 1) for _ in range(size)]

    def _varint(self) -> int:
        value = shift = 0
        while shift < _VARINT_BITS:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ThriftError("a number is too long")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _byte(self) -> int:
        if self.position >= len(self.data):
            raise ThriftError("the message ends too early")
        byte = self.data[self.position]
        self.position += 1
        return byte

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise ThriftError("the message ends too early")
        taken = self.data[self.position : end]
        self.position = end
        return taken
