"""events.h and events.py describe the same memory; the compiled object's own type information is the witness."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest

from culpa.collect.trace import calls, events, kernel, libbpf

STRUCTS = {
    "offcpu_event": events.OFFCPU_EVENT,
    "syscall_event": events.SYSCALL_EVENT,
    "message_event": events.MESSAGE_EVENT,
    "block_event": events.BLOCK_EVENT,
    "part_event": events.PART_EVENT,
    "dirtied_event": events.DIRTIED_EVENT,
    "dirt": events.DIRT,
    "throttle_event": events.THROTTLE_EVENT,
    "socket_event": events.SOCKET_EVENT,
    "task_event": events.TASK_EVENT,
    "file_event": events.FILE_EVENT,
    "user_stack_event": events.USER_STACK_EVENT,
    "thread_state": events.THREAD_STATE,
    "watch_state": events.WATCH_STATE,
    "trace_settings": events.SETTINGS,
    "trace_counters": events.COUNTERS,
    "lane": events.LANE,
    "thread_sum": events.THREAD_SUM,
    "call_sum": events.CALL_SUM,
    "state_event": events.STATE_EVENT,
    "async_event": events.ASYNC_EVENT,
    "retransmit_event": events.RETRANSMIT_EVENT,
}
BTF_KIND_STRUCT = 4


class Member(ctypes.Structure):
    """struct btf_member."""

    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset_bits", ctypes.c_uint32))


def c_layout(name: str) -> tuple[dict[str, int], int]:
    """Field name to byte offset, and the size, of a struct in the compiled object."""
    library = libbpf.open_library()
    btf = library.btf__parse(os.fsencode(kernel.object_path()), None)
    try:
        number = library.btf__find_by_name_kind(btf, name.encode(), BTF_KIND_STRUCT)
        assert number > 0, f"{name} is not in the object"
        found = library.btf__type_by_id(btf, number)
        count = found.contents.info & 0xFFFF
        start = ctypes.addressof(found.contents) + ctypes.sizeof(libbpf.BtfType)
        members = (Member * count).from_address(start)
        offsets = {library.btf__name_by_offset(btf, m.name_off).decode(): m.offset_bits // 8 for m in members}
        return offsets, int(found.contents.type)
    finally:
        library.btf__free(btf)


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_lie_where_c_puts_them(name: str) -> None:
    """Every field of the dtype has the name and offset of the C struct's, and the sizes agree."""
    dtype = STRUCTS[name]
    assert dtype.fields is not None
    assert c_layout(name) == ({field: place[1] for field, place in dtype.fields.items()}, dtype.itemsize)


def test_call_numbers_are_this_machines() -> None:
    """Known numbers of both machines stand in the table; real calls are checked by the tracer's tests."""
    kinds = calls.kinds("x86_64")
    assert kinds[0] == calls.FD | calls.IN | calls.BUFFER
    assert kinds[75] == calls.FD
    assert kinds[202] == calls.WAKES
    assert calls.kinds("aarch64")[63] == kinds[0]
    assert np.count_nonzero(kinds) > np.count_nonzero(calls.kinds("aarch64")) > 50
