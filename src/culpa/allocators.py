"""How little memory culpa keeps: set before numpy and polars are loaded, since a host that is looked at may be short.

The one use of ctypes outside `collect/trace`: what it asks of the C library is nothing of the kernel's, and it must be
said before any room of culpa is loaded.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

MOST_THREADS: Final = 4
"""Threads for tables, on a host with however many CPUs: it has work of its own."""
LARGE_BYTES: Final = 256 << 10
"""Arrays above it go back to the system as soon as they are freed."""
_POLARS: Final = "dirty_decay_ms:0,muzzy_decay_ms:0,narenas:1"
_M_MMAP_THRESHOLD: Final = -3
"""malloc.h of glibc."""


def keep_little() -> None:
    """Have the allocators of polars and of the C library give back what was freed."""
    _bound_polars()
    _return_large_blocks()


def _bound_polars() -> None:
    """Its allocator otherwise keeps what it freed for a while, and gives each thread a part of the memory of its own,
    in which tables that come and go leave gaps. What stands in the environment already may come from polars in a
    parent; the last word counts.
    """
    inherited = os.environ.get("_RJEM_MALLOC_CONF")
    os.environ["_RJEM_MALLOC_CONF"] = f"{inherited},{_POLARS}" if inherited else _POLARS
    os.environ.setdefault("POLARS_MAX_THREADS", str(min(MOST_THREADS, os.cpu_count() or 1)))


def _return_large_blocks() -> None:
    """glibc otherwise raises that bound with each large block that is freed, up to 32 MiB, and then keeps arrays in
    heaps of which only the end can be given back.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # another libc has no such function, and no such habit
        library.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
