"""The kernel's symbols where it tells none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from culpa.collect.trace.symbols import KernelSymbols


@pytest.mark.parametrize("content", [None, "", "0000000000000000 T schedule\n0000000000000000 t io_schedule\n"])
def test_without_symbols_addresses_are_shown_as_they_are(tmp_path: Path, content: str | None) -> None:
    """A kernel built without them has no such file, one that hides them writes zeros."""
    path = tmp_path / "kallsyms"
    if content is not None:
        path.write_text(content)
    symbols = KernelSymbols(path)
    assert not symbols.readable
    assert ["0xffffffff81000000"] == symbols.names([0xFFFFFFFF81000000])
