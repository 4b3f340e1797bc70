"""What this kernel and this process allow: the checks before a load, and the kernel's own BTF.

Read at start from /proc, /sys and BTF; the only user-side place that knows differences between kernel releases.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from ctypes import c_void_p
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final

from culpa.collect.trace import calls, libbpf
from culpa.errors import TraceError

BTF_PATH: Final = Path("/sys/kernel/btf/vmlinux")
HOST_PIDNS_INODE: Final = 0xEFFFFFFC
"""PROC_PID_INIT_INO, include/linux/proc_ns.h."""
OBJECT_NAME: Final = "culpa.bpf.o"
THROTTLE_WITH_CONTROL, THROTTLE_WITH_FIGURES = 8, 12
SUBMIT_WITH_RING: Final = 7
COMPLETE_WITHOUT_REQUEST, COMPLETE_WITH_CQE = 4, 3
SHAPES: Final[Mapping[str, tuple[int, ...]]] = {
    "balance_dirty_pages": (THROTTLE_WITH_CONTROL, THROTTLE_WITH_FIGURES),
    "io_uring_submit_req": (1,),
    "io_uring_submit_sqe": (2, SUBMIT_WITH_RING),
    "io_uring_complete": (COMPLETE_WITH_CQE, COMPLETE_WITHOUT_REQUEST, 5, 7),
    "io_uring_cqring_wait": (2,),
}
"""How many arguments a tracepoint may have where the probe tells its shape by that."""
IN_MODULES: Final[Mapping[str, str]] = {
    "ext4_evict_inode": "ext4",
    "ext4_truncate_enter": "ext4",
    "ext4_unlink_enter": "ext4",
    "btrfs_inode_evict": "btrfs",
    "f2fs_evict_inode": "f2fs",
}
"""Tracepoints of file systems, each with inodes as its first arguments. Where one is a module, which then has BTF of
its own beside the kernel's, whether they are there shows when they are attached."""
SYS_FS: Final = Path("/sys/fs")
PLAIN_OBJECT_NAME: Final = "culpa-plain.bpf.o"
"""The probes without atomic operations that return a value, for kernels before 5.12; see compat.bpf.h."""
ORDERED_STORES: Final = frozenset({"x86_64"})
"""Machines on which these are safe."""
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39
_WITHOUT: Final = "or run with --no-trace"


def object_path(name: str = OBJECT_NAME) -> Path:
    """The compiled probes inside the installed package.

    Raises:
        TraceError: the package was installed without them.
    """
    path = Path(str(resources.files("culpa.collect.trace") / "bpf" / name))
    if not path.is_file():
        raise TraceError(
            f"cannot trace: the compiled probes are missing at {path}", way_out=f"reinstall culpa, {_WITHOUT}"
        )
    return path


def check_host() -> None:
    """Raise what keeps this process from tracing this kernel, cheapest check first.

    Raises:
        TraceError: one sentence with the way out.
    """
    machine = platform.machine()
    if machine not in calls.MACHINES:
        raise TraceError(f"cannot trace: no probes for {machine}", way_out="run with --no-trace")
    if not _may_load():
        raise TraceError(
            "cannot trace: CAP_BPF and CAP_PERFMON are missing", way_out=f"run as root (sudo culpa …), {_WITHOUT}"
        )
    if Path("/proc/self/ns/pid").stat().st_ino != HOST_PIDNS_INODE:
        raise TraceError(
            "cannot trace: this is not the host's pid namespace, and the kernel reports the host's pids",
            way_out=f"run culpa on the host (or with --pid=host), {_WITHOUT}",
        )
    if not BTF_PATH.is_file():
        raise TraceError(f"cannot trace: no BTF at {BTF_PATH}", way_out=f"boot a kernel with BTF, {_WITHOUT}")


def _may_load() -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    effective = int(line.split()[1], 16)
    return bool(effective >> CAP_SYS_ADMIN & 1 or (effective >> CAP_BPF & 1 and effective >> CAP_PERFMON & 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTypes:
    """What the probes must know of a kernel's BTF."""

    parameters: Mapping[str, tuple[str, ...]]
    """The parameters of each tracepoint: names of the structs they point to, empty for anything else. Tracepoints that
    the kernel does not have are left out."""
    direct: bool
    """The probes that read kernel objects through typed pointers can be loaded."""
    iterates: bool
    """Tasks can be gone through by a program (5.8, eaaacd23910f)."""

    def readable(self) -> KernelTypes:
        """Without the tracepoints whose arguments are none of the shapes that the probes know."""
        known = {n: types for n, types in self.parameters.items() if len(types) in SHAPES.get(n, (len(types),))}
        return replace(self, parameters=known)

    def in_use(self) -> KernelTypes:
        """Without the tracepoints of file systems of which none is mounted: each takes its part of the time to load."""
        return replace(self, parameters={n: types for n, types in self.parameters.items() if _is_in_use(n)})

    @property
    def switch_has_state(self) -> bool:
        """`sched_switch` says the state of who leaves, since 5.18 (fa2c3254d7cf)."""
        return len(self.parameters.get("sched_switch", ())) >= 4

    @property
    def throttle_has_control(self) -> bool:
        """`balance_dirty_pages` hands over a dirty_throttle_control in place of five figures."""
        return len(self.parameters.get("balance_dirty_pages", ())) == THROTTLE_WITH_CONTROL

    @property
    def submit_has_ring(self) -> bool:
        """`io_uring_submit_sqe` has the ring before the request."""
        return len(self.parameters.get("io_uring_submit_sqe", ())) == SUBMIT_WITH_RING

    @property
    def complete_has_request(self) -> bool:
        """`io_uring_complete` names the request."""
        return len(self.parameters.get("io_uring_complete", ())) != COMPLETE_WITHOUT_REQUEST

    @property
    def complete_has_cqe(self) -> bool:
        """`io_uring_complete` hands over what was posted, in place of numbers."""
        return len(self.parameters.get("io_uring_complete", ())) == COMPLETE_WITH_CQE

    @property
    def follows_rings(self) -> bool:
        """The begin and the end of requests to io_uring, and waits for them, are told."""
        submit = self.parameters.keys() & {"io_uring_submit_req", "io_uring_submit_sqe"}
        return bool(submit) and {"io_uring_complete", "io_uring_cqring_wait"} <= self.parameters.keys()

    @property
    def issue_has_queue(self) -> bool:
        """The queue comes before the request, until 5.11 and 5.10.137 (a54895fa057c)."""
        return self.parameters.get("block_rq_issue", ())[:1] == ("request_queue",)


def kernel_types(library: ctypes.CDLL, names: frozenset[str], btf_path: Path = BTF_PATH) -> KernelTypes:
    """Look up tracepoints by name, and the kernel function that types a pointer.

    BTF describes a tracepoint as a typedef `btf_trace_NAME` of a pointer to a function with one private parameter more.

    Raises:
        TraceError: there is no BTF at `btf_path`.
    """
    btf = libbpf.checked(library.btf__parse(os.fsencode(btf_path), None), "reading the kernel's BTF")
    try:
        found = {name: _parameters(library, btf, name) for name in names}
        loaded = {name for name, module in IN_MODULES.items() if btf_path.with_name(module).is_file()}
        found |= {name: () for name in loaded & names if found[name] is None}
        cast = library.btf__find_by_name_kind(btf, b"bpf_rdonly_cast", libbpf.BTF_KIND_FUNC)
        iterator = library.btf__find_by_name_kind(btf, b"bpf_iter_task", libbpf.BTF_KIND_FUNC)
    finally:
        library.btf__free(btf)
    return KernelTypes(
        parameters={name: one for name, one in found.items() if one is not None},
        direct=cast > 0,
        iterates=iterator > 0,
    )


def _is_in_use(tracepoint: str) -> bool:
    """The kernel has a folder for each mounted file system of these kinds, in whatever namespace."""
    if tracepoint not in IN_MODULES:
        return True
    folder = SYS_FS / IN_MODULES[tracepoint]
    return folder.is_dir() and any(entry.name != "features" for entry in folder.iterdir())


def _parameters(library: ctypes.CDLL, btf: int, name: str) -> tuple[str, ...] | None:
    typedef = library.btf__find_by_name_kind(btf, f"btf_trace_{name}".encode(), libbpf.BTF_KIND_TYPEDEF)
    if typedef < 0:
        return None
    pointer = library.btf__type_by_id(btf, typedef).contents.type
    address = ctypes.cast(library.btf__type_by_id(btf, library.btf__type_by_id(btf, pointer).contents.type), c_void_p)
    function = libbpf.BtfType.from_address(address.value or 0)
    types = (libbpf.BtfParameter * function.members).from_address((address.value or 0) + ctypes.sizeof(function))
    return tuple(_pointed_to(library, btf, parameter.type) for parameter in types[1:])


def _pointed_to(library: ctypes.CDLL, btf: int, number: int) -> str:
    """The name of the struct behind a pointer; empty where it is none."""
    one = library.btf__type_by_id(btf, number).contents
    if one.kind != libbpf.BTF_KIND_PTR:
        return ""
    while one.kind in libbpf.BTF_REFERENCES:
        one = library.btf__type_by_id(btf, one.type).contents
    named = one.kind in libbpf.BTF_STRUCTS
    return str(library.btf__name_by_offset(btf, one.name_off).decode()) if named else ""
