"""The few functions of libbpf.so.1 that the tracer calls, declared for ctypes, and one error function.

Nothing else lives here. Mirrors libbpf.h and bpf.h of libbpf 1.1 (Debian 12); the structs are the kernel's user ABI
(include/uapi/linux/bpf.h, btf.h).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

from culpa.errors import TraceError
from culpa.units import printable

SONAME = "libbpf.so.1"
BTF_KIND_PTR = 2
BTF_KIND_TYPEDEF = 8
BTF_KIND_FUNC = 12
BTF_STRUCTS = frozenset({4, 5, 7})
"""Struct, union, and the forward declaration of either."""
BTF_REFERENCES = frozenset({BTF_KIND_PTR, BTF_KIND_TYPEDEF, 9, 10, 11, 18})
"""Pointer, typedef, volatile, const, restrict, type tag: what is made of one other type."""
STATS_RUN_TIME = 0
WARNING = 0
KEPT_LOG_LINES = 20
LOG_LINE_BYTES = 512

LogFunction = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class BtfType(Structure):
    """struct btf_type; `info` holds the kind and the number of members."""

    _fields_ = (("name_off", c_uint32), ("info", c_uint32), ("type", c_uint32))

    @property
    def kind(self) -> int:
        """BTF_KIND_*."""
        return int(self.info) >> 24 & 0x1F

    @property
    def members(self) -> int:
        """How many parameters, fields or enumerators follow."""
        return int(self.info) & 0xFFFF


class BtfParameter(Structure):
    """struct btf_param."""

    _fields_ = (("name_off", c_uint32), ("type", c_uint32))


class OpenOptions(Structure):
    """struct bpf_object_open_opts; `btf_path` replaces the running kernel's BTF for relocation."""

    _fields_ = (
        ("bytes", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root", c_char_p),
        ("removed", c_uint32),
        ("kconfig", c_char_p),
        ("btf_path", c_char_p),
        ("log", c_void_p),
        ("log_bytes", c_size_t),
        ("log_level", c_uint32),
    )


class ProgramInfo(Structure):
    """The head of struct bpf_prog_info, up to what the verifier did; the kernel fills as much as it is given room for.

    `verified_instructions` is 0 before 5.16.
    """

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("other", ctypes.c_uint8 * 184),
        ("run_time_ns", c_uint64),
        ("run_count", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_instructions", c_uint32),
    )


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "libbpf_set_print": (c_void_p, (c_void_p,)),
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__find_program_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__section_name": (c_char_p, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__attach": (c_void_p, (c_void_p,)),
    "bpf_program__attach_iter": (c_void_p, (c_void_p, c_void_p)),
    "bpf_link__fd": (c_int, (c_void_p,)),
    "bpf_program__attach_perf_event": (c_void_p, (c_void_p, c_int)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_iter_create": (c_int, (c_int,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "bpf_enable_stats": (c_int, (c_int,)),
    "bpf_prog_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, POINTER(c_uint32))),
    "btf__parse": (c_void_p, (c_char_p, c_void_p)),
    "btf__free": (None, (c_void_p,)),
    "btf__find_by_name_kind": (c_int32, (c_void_p, c_char_p, c_uint32)),
    "btf__type_by_id": (POINTER(BtfType), (c_void_p, c_uint32)),
    "btf__name_by_offset": (c_char_p, (c_void_p, c_uint32)),
}


def open_library() -> ctypes.CDLL:
    """libbpf with every signature declared.

    Raises:
        TraceError: libbpf.so.1 is not installed, or lacks a function.
    """
    way_out = "install it (Debian: apt install libbpf1) or run with --no-trace"
    try:
        library = ctypes.CDLL(SONAME, use_errno=True)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise TraceError(f"cannot trace: {SONAME} is not usable ({error})", way_out=way_out) from error
    return library


def log_function(lines: list[str], verbose: bool) -> ctypes._FuncPointer:
    """A printer for libbpf: its last warnings are kept in `lines` for an error's sentence; shown only if `verbose`.

    The message arrives as a C format and a va_list, which only C can put together.
    """
    library = ctypes.CDLL(None)

    def show(level: int, text: bytes, arguments: int) -> int:
        if level > WARNING and not verbose:
            return 0
        buffer = ctypes.create_string_buffer(LOG_LINE_BYTES)
        library.vsnprintf(buffer, ctypes.c_size_t(LOG_LINE_BYTES), text, c_void_p(arguments))
        line = buffer.value.decode(errors="replace").rstrip()
        lines[:] = [*lines[-KEPT_LOG_LINES:], line]
        if verbose:
            print(line, file=sys.stderr)
        return 0

    return LogFunction(show)


def checked(result: int | None, doing: str, log: Sequence[str] = ()) -> int:
    """`result` unless it is an error: a null pointer, or a negative errno.

    Raises:
        TraceError: names what was being done, the errno, and the last line of libbpf's log.
    """
    if result is not None and result >= 0:
        return result
    code = ctypes.get_errno() if result is None else -result
    detail = os.strerror(code) if code else "unknown error"
    said = f"; libbpf: {printable(log[-1])}" if log else ""
    raise TraceError(f"cannot trace: {doing} failed ({detail}{said})", way_out="run with --no-trace")
