"""Kernel addresses -> symbol names, from /proc/kallsyms."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

KALLSYMS: Final = Path("/proc/kallsyms")
_TEXT = frozenset((b"t", b"T", b"w", b"W"))


def without_tracing(frames: list[str]) -> list[str]:
    """The stack below the tracepoint: the probe's own frames above it say nothing."""
    for at, name in enumerate(frames):
        if not name.startswith(("bpf_", "__bpf_", "__traceiter_", "__traceprobe_")):
            return frames[at:]
    return frames


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")
    except OSError:  # built without it, or masked from a container: addresses are shown as they are
        return []


class KernelSymbols:
    """The kernel's text symbols, read once."""

    def __init__(self, path: Path = KALLSYMS) -> None:
        """Read `path`; a kernel without it, or that hides its addresses (kptr_restrict), leaves the table empty."""
        names: list[bytes] = []
        addresses: list[int] = []
        for line in _lines(path):
            parts = line.split(None, 3)
            if len(parts) >= 3 and parts[1] in _TEXT:
                addresses.append(int(parts[0], 16))
                names.append(parts[2])
        values = np.array(addresses, dtype=np.uint64)
        order = np.argsort(values, kind="stable")
        self._addresses = values[order]
        self._names = [names[i] for i in order.tolist()] if len(values) and int(values.max()) else []

    @property
    def readable(self) -> bool:
        """Whether the kernel told its addresses."""
        return bool(self._names)

    def names(self, addresses: list[int]) -> list[str]:
        """The symbol that holds each address; the address itself in hexadecimal where none is known."""
        if not self._names:
            return [hex(address) for address in addresses]
        at = np.searchsorted(self._addresses, np.array(addresses, dtype=np.uint64), side="right") - 1
        return [
            self._names[i].decode("ascii", "replace") if i >= 0 else hex(address)
            for i, address in zip(at.tolist(), addresses, strict=True)
        ]
