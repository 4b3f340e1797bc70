"""The parsers of hostile files: ELF, call frames, mappings, perf maps, mangled names."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import compiled

from culpa.collect.native import names
from culpa.collect.native.binaries import Binaries, Binary
from culpa.collect.native.elf import Elf, NotElf, Source, open_regular
from culpa.collect.native.maps import Mappings
from culpa.collect.native.perfmap import PerfMap, read_on, script_function
from culpa.collect.native.process import ProcessCode
from culpa.collect.native.unwind import MACHINES, Snapshot


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small program with everything in it."""
    return compiled(tmp_path_factory.mktemp("program"), "-O2", "-g")


def opened(path: Path) -> Binary:
    """The file, read as culpa reads it."""
    source = open_regular(str(path))
    assert source is not None
    return Binary(Elf(source), None)


def told_by_nm(path: Path) -> dict[str, tuple[int, int]]:
    """Name to address and size of the functions, as binutils sees them."""
    said = subprocess.run(["nm", "-S", path], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in said.splitlines()]
    return {row[3]: (int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 4 and row[2] in "tT"}


def test_every_function_is_found_from_its_first_to_its_last_byte(program: Path) -> None:
    """And the byte after it is another one's, or nobody's: nm(1) is the witness."""
    binary, functions = opened(program), told_by_nm(program)
    assert {"main", "serve", "stuck", "nap", "crunch"} <= functions.keys()
    starts = {start for start, _ in functions.values()}
    for name, (start, size) in functions.items():
        for address in (start, start + size - 1):
            found = binary.symbol(address)
            assert found is not None
            assert found.name == name
        after = binary.symbol(start + size)
        assert after is None or start + size in starts


def test_a_frame_begins_where_its_function_does(program: Path) -> None:
    """At its first instruction the caller's stack pointer is one return address away, on every machine x86 is."""
    binary, functions = opened(program), told_by_nm(program)
    for name in ("main", "serve", "nap"):
        frame = binary.frames.at(functions[name][0])
        assert frame is not None
        assert frame.start == functions[name][0]
        if binary.elf.machine == 62:
            assert (frame.base, frame.offset, dict(frame.saved)) == (7, 8, {16: -8})
    assert binary.frames.at(0) is None


def test_a_stub_and_foreign_bytes_are_no_function(program: Path) -> None:
    """Addresses outside all functions name nobody."""
    binary = opened(program)
    assert binary.symbol(0) is None
    assert binary.symbol(1 << 62) is None
    assert binary.line(1 << 62) is None


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(80), b"#!/bin/sh\n" * 20])
def test_what_is_no_64_bit_elf_file_is_refused(content: bytes) -> None:
    """Scripts, pieces and 32-bit programs."""
    with pytest.raises(NotElf):
        Elf(Source(content))


def test_a_broken_program_neither_raises_nor_hangs(program: Path) -> None:
    """A thousand times some bytes of the headers, the tables and the frames are other ones."""
    whole, functions = program.read_bytes(), told_by_nm(program)
    generator = random.Random(7)
    begin = time.monotonic()
    for _ in range(1000):
        content = bytearray(whole)
        for _ in range(generator.choice((1, 3, 40))):
            place = generator.choice((generator.randrange(64), len(content) - 1 - generator.randrange(2500)))
            place = generator.choice((place, generator.randrange(len(content))))
            content[place] = generator.choice((0, 0xFF, generator.randrange(256)))
        try:
            binary = Binary(Elf(Source(bytes(content))), None)
        except NotElf:
            continue
        for start, size in functions.values():
            binary.symbol(start + size // 2)
            binary.frames.at(start + size // 2)
            binary.line(start)
    assert time.monotonic() - begin < 60


def test_broken_debug_information_neither_raises_nor_hangs(program: Path, tmp_path: Path) -> None:
    """Two hundred times some bytes of what pyelftools reads are other ones."""
    whole, functions = program.read_bytes(), told_by_nm(program)
    sections = [section for name, section in opened(program).elf.sections.items() if name.startswith(".debug_")]
    generator = random.Random(11)
    begin = time.monotonic()
    found = 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(generator.choice((1, 2, 20))):
            section = generator.choice(sections)
            content[section.offset + generator.randrange(section.size)] = generator.randrange(256)
        broken = tmp_path / "broken"
        broken.write_bytes(content)
        binary = opened(broken)
        found += any(binary.line(start) is not None for start, _ in functions.values())
        binary.elf.source.close()
    assert 0 < found < 200
    assert time.monotonic() - begin < 60


def test_pipes_devices_and_folders_are_not_opened(tmp_path: Path) -> None:
    """Opening some of them would wait, or do something."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/null"), tmp_path, tmp_path / "missing", Path("a\0b")):
        assert open_regular(str(path)) is None


def test_mappings_hold_what_the_kernel_writes_of_this_process() -> None:
    """Each executable stretch of /proc/self/maps, its file and its offset, and nothing between."""
    text = Path("/proc/self/maps").read_bytes()
    mappings = Mappings(text)
    lines = [line.split(None, 5) for line in text.decode().splitlines() if "x" in line.split()[1]]
    assert len(lines) == len(mappings)
    for fields in lines:
        start, end = (int(part, 16) for part in fields[0].split("-"))
        found = mappings.at(end - 1)
        assert found is not None
        assert (found.start, found.end, found.offset) == (start, end, int(fields[2], 16))
        assert found.path == (fields[5] if len(fields) > 5 else "")
    assert mappings.at(0) is None


@given(st.binary(max_size=300))
def test_any_text_may_stand_in_mappings_and_maps(text: bytes) -> None:
    """Nothing raises; names in them are the process's own."""
    Mappings(text).at(4096)
    known = PerfMap()
    known.extend(text)
    known.at(4096)


def test_a_perf_map_grows_and_its_newest_entry_counts() -> None:
    """Code is moved and freed; a line that is not whole yet waits for its rest."""
    known = PerfMap()
    known.extend(b"1000 100 JS:~old /a.js:1:1\nnonsense\n1000 80 JS:*new /a.js:2:1\n10c0 40 JS:^far")
    found = known.at(0x1040)
    assert found is not None
    assert found.name == "JS:*new /a.js:2:1"
    assert known.at(0x1080) is None
    assert known.at(0x10D0) is None
    known.extend(b"10c0 40 JS:^far away.js:1:1\n")
    assert known.at(0x10D0) is not None
    assert known.at(0xFFF) is None


def test_an_interpreted_function_is_found_by_the_bytecode_its_frame_points_to() -> None:
    """The object begins a little before the entry; two that fit are none."""
    known = PerfMap()
    known.extend(b"20036 40 JS:~slow /a.js:7:3\n30036 40 JS:~other /a.js:9:3\n40036 40 JS:*compiled /a.js:1:1\n")
    found = known.interpreted([0x7FFE0000, 0x20001, 12])
    assert found is not None
    assert found.name == "JS:~slow /a.js:7:3"
    assert known.interpreted([0x20001, 0x30001]) is None
    assert known.interpreted([0x20000]) is None
    assert known.interpreted([0x40001]) is None


def test_a_map_of_somebody_else_a_link_and_a_huge_one_are_refused(tmp_path: Path) -> None:
    """Anybody may write to /tmp."""
    path = tmp_path / "perf-1.map"
    path.write_bytes(b"1000 100 JS:*mine /a.js:1:1\n")
    link = tmp_path / "perf-2.map"
    link.symlink_to(path)
    assert read_on(str(path), os.geteuid(), PerfMap()) is not None
    assert read_on(str(link), os.geteuid(), PerfMap()) is None
    assert read_on(str(tmp_path / "missing"), os.geteuid(), PerfMap()) is None
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        assert read_on(str(path), 0, PerfMap()) is None
        assert read_on(str(path), 65534, PerfMap()) is not None
        os.chown(path, 0, 0)
    os.truncate(path, 65 << 20)
    assert read_on(str(path), os.geteuid(), PerfMap()) is None


def test_a_map_that_became_shorter_is_another_one(tmp_path: Path) -> None:
    """What the old one said does not count any more."""
    path = tmp_path / "perf-1.map"
    path.write_bytes(b"1000 100 JS:*old /a.js:1:1\n" * 3)
    first = read_on(str(path), os.geteuid(), PerfMap())
    assert first is not None
    path.write_bytes(b"2000 100 JS:*new /a.js:1:1\n")
    second = read_on(str(path), os.geteuid(), first)
    assert second is not None
    assert second.at(0x1000) is None
    assert second.at(0x2000) is not None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("LazyCompile:~handler /app/server.js:12:5", ("handler", "/app/server.js", 12)),
        ("JS:*handler file:///app/server.mjs:3:1", ("handler", "/app/server.mjs", 3)),
        ("JS:^get value /app/a b.js:9:2", ("get value", "/app/a b.js", 9)),
        ("JS:~ /app/server.js:1:1", ("(anonymous)", "/app/server.js", 1)),
        ("Function:+work /app/server.js:4", ("work", "/app/server.js", 4)),
        ("Builtin:InterpreterEntryTrampoline", None),
        ("BytecodeHandler:Add", None),
        ("RegExp:a:1:2", None),
        ("JS:*native", None),
        ("", None),
    ],
)
def test_names_of_scripts(entry: str, expected: tuple[str, str, int] | None) -> None:
    """Function, file and line; stubs and built-in code have none."""
    found = script_function(entry)
    assert expected == (found and (found.function, found.path, found.line))


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("fsync", "fsync"),
        ("work.part.0", "work"),
        ("work.constprop.0.isra.0", "work"),
        ("work.cold", "work"),
        ("_ZN4shop6Basket5priceEi", "shop::Basket::price"),
        ("_ZNK4shop6Basket5priceEi", "shop::Basket::price"),
        ("_ZN4shop6BasketC2Ev", "shop::Basket::Basket"),
        ("_ZN12_GLOBAL__N_14workEv", "(anonymous namespace)::work"),
        ("_ZNSt6vectorIdSaIdEE9push_backERKd", "std::vector::push_back"),
        ("_ZZ4mainENKUlvE_clEv", "main::(lambda)"),
        ("_ZN4core3ops8function6FnOnce9call_once17h8f6d9e9d0a7b6c5dE", "core::ops::function::FnOnce::call_once"),
        ("_ZSt3sinIiEN9__gnu_cxx11__enable_ifIXsrSt12__is_integerIT_E7__valueEdE6__typeES3_", "std::sin"),
        ("_RNvC4main4work", "_RNvC4main4work"),
        ("_Z", "_Z"),
        ("_ZN999x", "_ZN999x"),
    ],
)
def test_names_are_as_they_were_written(symbol: str, name: str) -> None:
    """Without what compilers add; what cannot be read stays as it is."""
    assert name == names.plain(symbol)


@given(st.text(alphabet="_ZNSIEKLTtaC0123456789.x", max_size=80))
def test_any_symbol_has_some_name(text: str) -> None:
    """A program may call its symbols what it likes."""
    names.plain("_Z" + text)


def test_code_that_is_unmapped_while_its_stack_is_followed_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search for the caller reads the mappings anew, and the innermost frame's are not among them any more."""
    monkeypatch.setattr("culpa.collect.native.process.REFRESH_SECONDS", -1.0)
    maps = tmp_path / "7" / "maps"
    maps.parent.mkdir()
    maps.write_text("10000-20000 r-xp 00000000 00:00 0 \n")
    code = ProcessCode(7, Binaries(), tmp_path)
    maps.write_text("50000-60000 r-xp 00000000 00:00 0 \n")
    machine = MACHINES[62]
    registers = [{machine.pc: 0x10800, machine.sp: 0x7000}.get(column or 0) for column in machine.columns]
    (place,) = code.frames(machine, Snapshot(registers=registers, stack=bytes(64)), in_call=False)
    assert (None, "[memory]") == (place.function, place.path)
