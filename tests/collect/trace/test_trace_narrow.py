"""Calls by the 32-bit door: other numbers, which must not be taken for the 64-bit ones."""

from __future__ import annotations

import os
import platform

import polars as pl
import pytest
from watched_children import Spawn, go, line_of, sleeps_in, wait_until

from culpa.collect.trace.tracer import Tracer
from culpa.syscalls import NARROW, Numbers

pytestmark = [
    pytest.mark.root,
    pytest.mark.trace,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is of x86"),
]

WRITEV, SYNC, GETPID_32, NANOSLEEP_32 = 20, 162, 20, 162
"""The same numbers through both doors: writev and sync of 64 bits are getpid and nanosleep of 32."""
INT_80 = """
import ctypes, mmap, os
# mov eax, edi; mov ebx, esi; xor ecx, ecx; int 0x80; ret, with rbx kept
code = bytes.fromhex('53 89f8 89f3 31c9 cd80 5b c3')
page = mmap.mmap(-1, 4096, prot=7, flags=0x62)  # private, to run code in
page.write(code)
call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_uint32)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
low = ctypes.CDLL(None).mmap
low.restype, low.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
spec = low(None, 4096, 3, 0x62, -1, 0)  # MAP_32BIT: the kernel reads no address above 4 GB here
"""
CALLS = (
    INT_80
    + """
print(sum(call(20, 0) == os.getpid() for _ in range(41)), flush=True)
"""
)
SLEEPS = (
    INT_80
    + """
ctypes.c_uint32.from_address(spec).value = 3600
print('sleeps', flush=True)
call(162, spec)
"""
)


def test_narrow_calls_are_counted_and_not_misread(spawn: Spawn) -> None:
    """41 getpid by int 0x80 are 41 calls of a 32-bit program, and no writev."""
    child = spawn(CALLS)
    with Tracer(pids=[child.pid], exclude_pids=[os.getpid()]) as running:
        go(child)
        assert "41" == line_of(child)
        assert "done" == line_of(child)
        result = running.stop()
    calls = result.tables["syscalls"].filter(pid=child.pid)
    narrow = calls.filter(pl.col("nr") >= NARROW)
    assert [(NARROW | GETPID_32, 41)] == narrow.group_by("nr").len().rows()
    assert [child.pid] * 41 == narrow["ret"].to_list()
    assert 0 == narrow["dev"].count() + narrow["ino"].count()
    assert WRITEV not in calls["nr"]
    (spot,) = [spot for spot in result.blind_spots if "32-bit" in spot.what]
    assert "41" in spot.what
    assert "32-bit syscall 20" == Numbers("x86_64").name(NARROW | GETPID_32)


def test_a_thread_asleep_in_a_narrow_call_is_not_misread(spawn: Spawn) -> None:
    """nanosleep by int 0x80 is no sync(2), neither among the states nor among the sums."""
    child = spawn(SLEEPS)
    go(child)
    assert "sleeps" == line_of(child)
    wait_until(lambda: sleeps_in(child.pid, "nanosleep"))
    with Tracer(pids=[child.pid], exclude_pids=[os.getpid()]) as running:
        found = running.thread_states().filter(tid=child.pid)
    assert [NARROW | NANOSLEEP_32] == found["nr"].to_list()
    assert SYNC not in found["nr"]
