"""The probes on other kernels: every relocation against their recorded types, every argument at its place.

libbpf relocates, and the running kernel's verifier proves what is guarded: libbpf replaces an instruction whose field a
kernel does not have by one that no verifier accepts, unless it can never be reached. Nothing is attached.
"""

from __future__ import annotations

import gzip
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from culpa.collect.trace import events, kernel, libbpf
from culpa.collect.trace.probes import Probes

FIXTURES = Path(__file__).parents[2] / "fixtures" / "btf"
sys.path.insert(0, str(FIXTURES))
import btf  # noqa: E402 - the reader that also made the fixtures

KERNELS = sorted(FIXTURES.glob("*.btf.gz"))
TASK, REQUEST = "task_struct *", "request *"
READ = {
    "sched_switch": {1: TASK, 2: TASK},
    "sched_waking": {0: TASK},
    "sched_wakeup_new": {0: TASK},
    "sched_process_fork": {0: TASK, 1: TASK},
    "sched_process_exec": {0: TASK, 1: "int"},
    "sched_process_exit": {0: TASK},
    "sys_enter": {0: "pt_regs *", 1: "long int"},
    "sys_exit": {0: "pt_regs *", 1: "long int"},
    "block_io_start": {0: REQUEST},
    "block_rq_complete": {0: REQUEST, 2: "unsigned int"},
    "writeback_dirty_folio": {0: "folio *", 1: "address_space *"},
    "balance_dirty_pages": {0: "bdi_writeback *"},
    "mm_filemap_delete_from_page_cache": {0: "folio *"},
}
"""What the probes take for granted: position and type of each argument they read. Positions that differ between
kernels have tests of their own."""
_RELOCATION = re.compile(r"prog '(\w+)': relo #(\d+): <(\w+)> \[\d+\] (.+?)(?: \(| = |$)")
_UNRESOLVED = re.compile(r"prog '(\w+)': relo #(\d+): no matching targets found")


@pytest.fixture(params=KERNELS, ids=lambda path: path.name.removesuffix(".btf.gz"))
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The types of one kernel as a file."""
    path = tmp_path / "vmlinux.btf"
    path.write_bytes(gzip.decompress(request.param.read_bytes()))
    return path


def types_at(path: Path) -> btf.Description:
    """A description read by other code than the product's."""
    return btf.Description(path.read_bytes())


def relocations(log: str) -> tuple[dict[tuple[str, str], str], set[tuple[str, str]]]:
    """What libbpf said: each relocation by program and number, and those that it found no field for."""
    found = {(program, number): f"{kind} {what}" for program, number, kind, what in _RELOCATION.findall(log)}
    return found, set(_UNRESOLVED.findall(log))


def subject_of(relocation: str) -> str:
    """The field; of a struct with a flavour the struct alone: it is reached only where the kernel has that flavour."""
    what = relocation.partition(" ")[2]
    return what.partition(".")[0] if "___" in what else what


NAMES = frozenset(READ) | {"block_rq_issue", "block_rq_insert", "no_such_tracepoint"}


def test_there_are_enough_kernels() -> None:
    """At least four releases from 5.10 on, and both architectures."""
    releases = {tuple(path.name.split(".")[:2]) for path in KERNELS}
    assert 4 <= len(releases)
    assert ("5", "10") in releases
    assert {"amd64", "arm64"} == {path.name.removesuffix(".btf.gz").rpartition("-")[2] for path in KERNELS}


@pytest.mark.root
@pytest.mark.trace
def test_every_relocation_resolves_or_is_guarded(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All probes load, so nothing unresolved can be reached; the direct ones miss no more than the others do."""
    types = types_at(recorded)
    with Probes(follow=True, verbose=True, stack_period_ns=50_000_000, btf_path=recorded) as probes:
        loaded = {name.decode() for name in probes.loaded()}
        programs = {probes.object.program_name(program).decode(): name for program, name in probes.object.programs()}
        there = {name for name in programs.values() if types.parameters(name) is not None}
    found, unresolved = relocations(capsys.readouterr().err)
    assert there == {programs[name] for name in loaded}
    assert len(found) > 100  # the log was understood
    direct = {key for key in found if key[0].endswith("_direct")}
    assert bool(direct) == (types.find(btf.FUNC, "bpf_rdonly_cast") is not None)
    guarded = {subject_of(found[key]) for key in unresolved - direct}
    assert set() == {subject_of(found[key]) for key in unresolved & direct} - guarded
    assert guarded


@pytest.mark.root
@pytest.mark.trace
def test_a_missing_field_is_refused(recorded: Path, tmp_path: Path) -> None:
    """The proof holds: without a field that is read unguarded the probes do not load."""
    types = types_at(recorded)
    types.types = [
        replace(one, members=tuple(m for m in one.members if m.name != "i_ino")) if one.name == "inode" else one
        for one in types.types
    ]
    path = tmp_path / "without"
    path.write_bytes(btf.Reduction(types, lambda one: bool(one.name)).encoded())
    with pytest.raises(kernel.TraceError):
        Probes(follow=True, verbose=False, btf_path=path)


def test_the_shape_of_a_pause_is_told_by_its_arguments(recorded: Path) -> None:
    """Five figures and later the pause, or a struct and earlier the pause: the pause is the one signed number."""
    found = types_at(recorded).parameters("balance_dirty_pages")
    assert found is not None
    with_control = len(found) == kernel.THROTTLE_WITH_CONTROL
    assert with_control or len(found) == kernel.THROTTLE_WITH_FIGURES
    assert [6 if with_control else 10] == [place for place, kind in enumerate(found) if kind == "long int"]
    assert with_control == (found[1] == "dirty_throttle_control *")


def test_arguments_lie_where_the_probes_read_them(recorded: Path) -> None:
    """Position by position, as the kernel itself describes its tracepoints."""
    types = types_at(recorded)
    for name, wanted in READ.items():
        parameters = types.parameters(name)
        if parameters == ["page *"]:
            parameters = ["folio *"]  # until 5.17 the page that is now the head of one
        if parameters is None:
            assert name in ("block_io_start", "writeback_dirty_folio")  # added in 6.3; writeback_dirty_page before
            continue
        assert wanted == {place: parameters[place] for place in wanted}


def test_tracepoints_of_a_file_system_that_is_a_module_are_tried(recorded: Path) -> None:
    """Of the one that is loaded; the kernel's own types do not have them."""
    (recorded.parent / "ext4").touch()
    names = frozenset(kernel.IN_MODULES) | NAMES
    known = kernel.kernel_types(libbpf.open_library(), names, recorded).parameters
    assert {"ext4"} == {module for name, module in kernel.IN_MODULES.items() if name in known}
    assert "no_such_tracepoint" not in known


def test_positions_that_differ_are_found(recorded: Path) -> None:
    """The state of who leaves, and the request behind or in place of its queue."""
    known = kernel.kernel_types(libbpf.open_library(), NAMES, recorded)
    types = types_at(recorded)
    assert "no_such_tracepoint" not in known.parameters
    switch, issue = types.parameters("sched_switch") or [], types.parameters("block_rq_issue") or []
    assert ("unsigned int" in switch[3:4]) == known.switch_has_state
    assert REQUEST == issue[known.issue_has_queue]
    assert REQUEST == (types.parameters("block_rq_insert") or [])[known.issue_has_queue]


def is_queue(types: btf.Description, one: btf.Type) -> bool:
    pointed_to = types.types[one.ref] if one.kind == btf.PTR else one
    return pointed_to is not one and (btf.STRUCT, "request_queue") == (pointed_to.kind, pointed_to.name)


def older(recorded: Path) -> Iterator[btf.Type]:
    """The types as before 5.11, where the queue was the first argument of a request's tracepoints."""
    types = types_at(recorded)
    queue = next(number for number, one in enumerate(types.types) if is_queue(types, one))
    moved = {"btf_trace_block_rq_issue", "btf_trace_block_rq_insert"}
    changed = {types.types[one.ref].ref for one in types.types if one.name in moved}
    for number, one in enumerate(types.types):
        if number in changed:
            one = replace(one, members=(one.members[0], btf.Member(name="", type=queue), *one.members[1:]))
        yield one


def test_the_queue_before_the_request(recorded: Path, tmp_path: Path) -> None:
    """No Debian kernel to be had still has the queue: its description is made of one that has not."""
    types = types_at(recorded)
    types.types = list(older(recorded))
    path = tmp_path / "older"
    path.write_bytes(btf.Reduction(types, lambda one: bool(one.name)).encoded())
    known = kernel.kernel_types(libbpf.open_library(), NAMES, path)
    assert ("request_queue", "request") == known.parameters["block_rq_issue"]
    assert known.issue_has_queue


FETCH, ATOMIC_32, ATOMIC_64 = 0x01, 0xC3, 0xDB
"""BPF_FETCH in the immediate of BPF_ATOMIC stores, include/uapi/linux/bpf.h."""


def fetching_atomics(path: Path) -> int:
    """How many instructions of an object a kernel before 5.12 refuses, counted by the code sections of the file."""
    raw = path.read_bytes()
    (offset,) = struct.unpack_from("<Q", raw, 40)
    size, count = struct.unpack_from("<HH", raw, 58)
    found = 0
    for section in range(count):
        kind, flags, _, at, length = struct.unpack_from("<IQQQQ", raw, offset + section * size + 4)
        if kind == 1 and flags & 4:  # SHT_PROGBITS with SHF_EXECINSTR
            code = struct.iter_unpack("<BBhi", raw[at : at + length])
            found += sum(op in (ATOMIC_32, ATOMIC_64) and bool(number & FETCH) for op, _, _, number in code)
    return found


def test_the_plain_object_has_nothing_newer_than_5_10() -> None:
    """No atomic operation in it returns a value; those of the other object prove that such would be found."""
    assert 0 == fetching_atomics(kernel.object_path(kernel.PLAIN_OBJECT_NAME))
    assert fetching_atomics(kernel.object_path()) > 0


@pytest.mark.root
@pytest.mark.trace
def test_the_running_kernel() -> None:
    """The one kernel whose verifier can be asked: all its probes load, without a blind spot."""
    with Probes(follow=True, verbose=False) as probes:
        assert not probes.blind_spots
        assert set(events.RINGS) == set(probes.rings)
