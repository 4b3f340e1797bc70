"""Captures that are damaged or made to do harm: each ends in one sentence, in bounded time and memory."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import captures
import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from culpa.capture import schema
from culpa.capture.bundle import Capture, open_capture, save
from culpa.diagnose.judge import judge
from culpa.errors import CaptureError

MAX_RSS_MIB = 300
MAX_SECONDS = 5.0
OPEN_IN_CHILD = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from culpa.capture.bundle import open_capture
from culpa.errors import CaptureError
try:
    open_capture(Path(sys.argv[2]))
    print("opened")
except CaptureError as error:
    print(error)
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""
# VmHWM, because ru_maxrss of a new process begins at what its parent had


def refusal(path: Path) -> str:
    """The sentence that opening ends in, checked for form and time."""
    began = time.monotonic()
    with pytest.raises(CaptureError) as caught:
        open_capture(path)
    assert time.monotonic() - began < MAX_SECONDS
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "\x1b" not in sentence
    return sentence


def opened_in_child(path: Path) -> tuple[str, int, float]:
    """What a fresh process says, its peak memory in MiB, and the seconds it took."""
    began = time.monotonic()
    source = str(Path(__file__).parents[2] / "src")
    command = [sys.executable, "-c", OPEN_IN_CHILD, source, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    said, peak = done.stdout.splitlines()
    return said, int(peak), time.monotonic() - began


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return captures.parts(captures.sample(), tmp_path_factory.mktemp("parts"))


# --- damage


def test_truncated_at_any_byte(tmp_path: Path) -> None:
    """A capture cut off anywhere is refused: every offset near its ends, and every 37th between."""
    whole = tmp_path / "a.culpa"
    save(captures.sample(), whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut.culpa"
    near_ends = {*range(200), *range(len(content) - 1200, len(content))}
    for size in sorted(near_ends | set(range(0, len(content), 37))):
        cut.write_bytes(content[:size])
        refusal(cut)


def test_any_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    """One flipped bit gives a refusal or the very same tables (bits that nobody reads); never anything else."""
    whole = tmp_path / "a.culpa"
    capture = captures.sample(60)
    save(capture, whole)
    content = bytearray(whole.read_bytes())
    for position in range(0, len(content), 11):
        content[position] ^= 1 << position % 8
        whole.write_bytes(content)
        content[position] ^= 1 << position % 8
        try:
            opened = open_capture(whole)
        except CaptureError:
            continue
        assert capture.manifest == opened.manifest
        assert all(frame.equals(capture.tables[name]) for name, frame in opened.tables.items())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_forged_bytes_in_a_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], members: dict[str, bytes], data: st.DataObject
) -> None:
    """Bytes changed on purpose, checksums set right again: refused, or read with bounded rows; stderr stays empty."""
    name = data.draw(st.sampled_from([name for name in members if name.endswith(".parquet")]))
    content = bytearray(members[name])
    footer = int.from_bytes(content[-8:-4], "little")
    in_footer = st.integers(len(content) - 8 - footer, len(content) - 1)
    for position in data.draw(st.lists(in_footer | st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    began = time.monotonic()
    with contextlib.suppress(CaptureError):
        opened = open_capture(captures.forge(tmp_path / "a.culpa", members | {name: bytes(content)}))
        assert all(frame.height <= 500 for frame in opened.tables.values())
    assert time.monotonic() - began < MAX_SECONDS
    assert capfd.readouterr().err == ""


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_a_table(tmp_path: Path, members: dict[str, bytes], content: bytes) -> None:
    """Arbitrary bytes between Parquet's magic words are refused."""
    size = struct.pack("<I", len(content))
    table = b"PAR1" + content + size + b"PAR1"
    refusal(captures.forge(tmp_path / "a.culpa", members | {"offcpu.parquet": table}))


# --- not a capture


def test_not_a_capture(tmp_path: Path) -> None:
    """Empty, text, another ZIP, a missing file: a sentence each that names the file, control characters escaped."""
    for name, content in {"empty": b"", "text": b"hello\n" * 100, "zip": b"PK\x03\x04" + b"\0" * 100}.items():
        (tmp_path / name).write_bytes(content)
        assert "is not a culpa capture" in refusal(tmp_path / name)
    captures.forge(tmp_path / "other", {"a.txt": b"x"})
    assert "is not a culpa capture" in refusal(tmp_path / "other")
    assert "No such file" in refusal(tmp_path / "missing\x1b[31m")


def test_not_an_ordinary_file(tmp_path: Path) -> None:
    """A folder, a pipe without a writer and an endless device are refused at once."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        assert "not an ordinary file" in refusal(path)


def test_unreadable(tmp_path: Path) -> None:
    """A file of somebody else, mode 0600, gives an ordinary user a sentence with the system's reason."""
    path = tmp_path / "a.culpa"
    save(captures.sample(), path)
    path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        code = 9
        try:
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            open_capture(path)
        except CaptureError as error:
            code = 0 if "Permission denied" in str(error) else 8
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- the outside


def test_newer_schema(tmp_path: Path, members: dict[str, bytes]) -> None:
    """A capture of a later schema is refused by name, whatever else its manifest holds."""
    for manifest in (captures.manifest_bytes(schema="culpa.capture/2"), b'{"schema": "culpa.capture/77"}'):
        path = captures.forge(tmp_path / "a.culpa", members | {"manifest.json": manifest})
        assert "made by a newer culpa" in refusal(path)


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"{}", b"[" * 100_000, b'{"schema": 1}', b'{"schema": "other/1"}', b'{"schema": "culpa.capture/1"}',
        b"\xff" * 50, b" " * (2 << 20), b'{"schema": "culpa.capture/99999999999999999999"}',
    ],
)  # fmt: skip
def test_manifest_that_is_none(tmp_path: Path, members: dict[str, bytes], manifest: bytes) -> None:
    """A manifest that is empty, nested without end, too long or of other types is refused."""
    refusal(captures.forge(tmp_path / "a.culpa", members | {"manifest.json": manifest}))


WINDOW = msgspec.to_builtins(captures.MANIFEST.window)
HOST = msgspec.to_builtins(captures.MANIFEST.host)
TARGET = msgspec.to_builtins(captures.MANIFEST.target)


@pytest.mark.parametrize(
    "changes",
    [
        {"window": WINDOW | {"end_ns": 0}},
        {"window": WINDOW | {"start_ns": -5}},
        {"window": WINDOW | {"end_ns": 1 << 70}},
        {"window": WINDOW | {"start_ns": 0, "end_ns": 1 << 62}},
        {"window": WINDOW | {"start_realtime_ns": -1}},
        {"window": WINDOW | {"ended_by": "magic"}},
        {"host": HOST | {"ticks_per_second": 0}},
        {"host": HOST | {"cpus": 0}},
        {"host": HOST | {"page_bytes": -4096}},
        {"target": TARGET | {"pids": [-1]}},
        {"target": TARGET | {"pids": [1] * 70_000}},
        {"target": TARGET | {"name": "x" * 50_000}},
        {"cost": {"events": -1}},
    ],
)
def test_manifest_that_makes_no_sense(tmp_path: Path, members: dict[str, bytes], changes: dict[str, object]) -> None:
    """Numbers a judge could not compute with are refused before it sees them."""
    manifest = captures.manifest_bytes(**changes)
    assert "damaged" in refusal(captures.forge(tmp_path / "a.culpa", members | {"manifest.json": manifest}))


def test_compressed_duplicate_and_strange_members(tmp_path: Path, members: dict[str, bytes]) -> None:
    """Deflated members, the same name twice, paths, too many members and a missing manifest are refused."""
    path = tmp_path / "a.culpa"
    assert "compressed" in refusal(captures.forge(path, members, method=zipfile.ZIP_DEFLATED))
    with pytest.warns(UserWarning, match="Duplicate"):
        captures.forge(path, members, repeat="offcpu.parquet")
    assert "twice" in refusal(path)
    for name in ("../evil.parquet", "/etc/evil.parquet", "evil.txt", "a/b.parquet", "OFFCPU.parquet"):
        assert "does not belong" in refusal(captures.forge(path, members | {name: b"x"}))
    many = {f"t{number}.parquet": b"x" for number in range(70)}
    assert "more parts" in refusal(captures.forge(path, members | many))
    without = {name: content for name, content in members.items() if name != "manifest.json"}
    refusal(captures.forge(path, without))


@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
@pytest.mark.parametrize("field", [20, 24])
def test_wrong_sizes_in_the_directory(tmp_path: Path, members: dict[str, bytes], field: int, value: int) -> None:
    """Sizes in the ZIP directory that the file cannot hold, or that differ from each other, are refused."""
    path = captures.forge(tmp_path / "a.culpa", members)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + field, value)
    path.write_bytes(content)
    refusal(path)


def test_overlapping_members(tmp_path: Path, members: dict[str, bytes]) -> None:
    """Many directory entries on the same bytes: their sizes add up to more than the file, and are refused."""
    big = captures.parquet(pl.DataFrame({"off_ns": range(100_000)}))
    path = captures.forge(tmp_path / "a.culpa", {"manifest.json": members["manifest.json"], "offcpu.parquet": big})
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    entries = [content[start : content.index(b"PK\x01\x02", start + 4)]]
    entry = content[content.index(b"PK\x01\x02", start + 4) : end]
    entries += [entry.replace(b"offcpu", name) for name in (b"offcpu", b"blocks", b"stacks", b"redis2")]
    directory = b"".join(entries)
    record = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), start, 0)
    path.write_bytes(content[:start] + directory + record)
    assert "contradict" in refusal(path)


# --- bombs


def bomb(path: Path, members: dict[str, bytes], name: str, frame: pl.DataFrame, **options: object) -> Path:
    return captures.forge(path, members | {f"{name}.parquet": captures.parquet(frame, **options)})


def test_row_bomb(tmp_path: Path, members: dict[str, bytes]) -> None:
    """Millions of equal rows pack into a few kilobytes; they are refused from the footer alone."""
    rows = pl.repeat(captures.START, 6_000_000, dtype=pl.Int64, eager=True)
    frame = pl.DataFrame({column.name: rows.cast(column.dtype) for column in schema.OFFCPU.columns if column.unit})
    path = bomb(tmp_path / "a.culpa", members, "offcpu", frame)
    del rows, frame
    assert path.stat().st_size < 468_000
    said, peak, seconds = opened_in_child(path)
    assert "far more memory" in said
    assert peak < MAX_RSS_MIB
    assert seconds < MAX_SECONDS


def test_largest_allowed_row_bomb_stays_in_bounds(tmp_path: Path, members: dict[str, bytes]) -> None:
    """A small file that stays just within the bounds is read, and still takes less than 300 MiB."""
    height = (48 << 20) // (14 * 9)
    columns = {column.name: pl.repeat(1, height, dtype=column.dtype, eager=True) for column in schema.OFFCPU.columns}
    path = bomb(tmp_path / "a.culpa", members, "offcpu", pl.DataFrame(columns))
    said, peak, _ = opened_in_child(path)
    assert said == "opened"
    assert peak < MAX_RSS_MIB


def test_text_bombs(tmp_path: Path, members: dict[str, bytes]) -> None:
    """One long text that many rows point to, and one endless text: refused, however small the file."""
    for length, height in ((60_000, 4_000), (5_000_000, 10)):
        texts = pl.repeat("x" * length, height, dtype=pl.String, eager=True)
        frame = pl.DataFrame({"pid": pl.repeat(1, height, dtype=pl.Int32, eager=True), "cmdline": texts})
        path = bomb(tmp_path / "a.culpa", members, "processes", frame)
        said, peak, seconds = opened_in_child(path)
        assert "damaged" in said
        assert peak < MAX_RSS_MIB
        assert seconds < MAX_SECONDS


def test_list_bomb(tmp_path: Path, members: dict[str, bytes]) -> None:
    """A kernel stack of a million frames is refused."""
    frame = pl.DataFrame({"stack_id": [1], "frames": [["f"] * 1_000_000]}, schema=schema.STACKS.schema)
    path = bomb(tmp_path / "a.culpa", members, "stacks", frame)
    assert "stacks" in refusal(path)


def test_other_compression_and_types(tmp_path: Path, members: dict[str, bytes]) -> None:
    """Codecs culpa does not write and columns of another type than declared are refused."""
    frame = captures.sample().tables["offcpu"]
    for codec in ("snappy", "gzip", "lz4", "brotli"):
        assert "compressed" in refusal(bomb(tmp_path / "a.culpa", members, "offcpu", frame, compression=codec))
    for other in (pl.Float64, pl.String, pl.Int16, pl.Datetime("ns"), pl.Decimal(30, 2)):
        retyped = frame.with_columns(pl.col("off_ns").cast(pl.Int8, strict=False).cast(other))
        refusal(bomb(tmp_path / "a.culpa", members, "offcpu", retyped))
    nested = pl.DataFrame({"off_ns": [{"a": {"b": [[1]]}}]})
    refusal(bomb(tmp_path / "a.culpa", members, "offcpu", nested))


# --- values


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("offcpu", "off_ns", -1), ("offcpu", "on_ns", (1 << 63) - 1), ("offcpu", "tid", -7),
        ("offcpu", "waker_pid", 1 << 30), ("syscalls", "enter_ns", -(1 << 63)), ("blocks", "bytes", -512),
        ("sockets", "local_port", 70_000), ("code", "depth", -1), ("counters", "value", float("nan")),
        ("counters", "value", float("inf")), ("counters", "value", -1e308),
    ],
)  # fmt: skip
def test_values_out_of_range(tmp_path: Path, members: dict[str, bytes], table: str, column: str, value: float) -> None:
    """Numbers that no collector writes are refused with the column's name."""
    frame = schema.BY_NAME[table].frame({column: [value]})
    assert f"{table}.{column}" in refusal(bomb(tmp_path / "a.culpa", members, table, frame))


def test_rows_that_end_before_they_begin_are_left_out_in_the_open(tmp_path: Path, members: dict[str, bytes]) -> None:
    """Such a row might come from a clock: it is dropped, the others stay, and a blind spot counts it."""
    start = captures.START
    frame = schema.SYSCALLS.frame({"enter_ns": [start, start + 5, None], "exit_ns": [start + 9, start, start + 3]})
    opened = open_capture(bomb(tmp_path / "a.culpa", members, "syscalls", frame))
    assert [start + 9, start + 3] == opened.tables["syscalls"]["exit_ns"].to_list()
    assert opened.manifest.blind_spots[-1].what == "1 of 3 rows of syscalls"


def test_rows_without_what_every_row_has_are_left_out_in_the_open(tmp_path: Path) -> None:
    """A request that never began and a counter without a value: there is a verdict all the same."""
    start = captures.START
    tables = {
        "probe_requests": schema.REQUESTS.frame({"start_ns": [None, start + 1], "end_ns": [start + 9, start + 10**9]}),
        "counters": schema.COUNTERS.frame(
            {
                "ts_ns": [start, start + 10**9],
                "source": ["/cpu.stat"] * 2,
                "object": ["/"] * 2,
                "field": ["throttled_time"] * 2,
                "value": [None, None],
            }
        ),
    }
    target = msgspec.structs.replace(captures.MANIFEST.target, kind="command")
    manifest = msgspec.structs.replace(captures.MANIFEST, target=target)
    save(Capture(manifest=manifest, tables=tables), tmp_path / "a.culpa")
    opened = open_capture(tmp_path / "a.culpa")
    assert ([start + 1], 0) == (opened.tables["probe_requests"]["start_ns"].to_list(), opened.tables["counters"].height)
    assert {"2 of 2 rows of counters", "1 of 2 rows of probe_requests"} <= {s.what for s in opened.manifest.blind_spots}
    assert not [spot for spot in judge(opened).blind_spots if "failed" in spot.why]


def test_opening_many_broken_files_does_not_leak(tmp_path: Path, members: dict[str, bytes]) -> None:
    """Refusals close the file and give their memory back."""
    path = captures.forge(tmp_path / "a.culpa", members | {"offcpu.parquet": members["offcpu.parquet"][:-20]})
    for _ in range(20):
        refusal(path)
    gc.collect()  # what other tests let go of is not freed while it is counted
    handles = len(list(Path("/proc/self/fd").iterdir()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        refusal(path)
    assert handles == len(list(Path("/proc/self/fd").iterdir()))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_member_that_is_no_longer_what_the_manifest_of_the_zip_says(tmp_path: Path, members: dict[str, bytes]) -> None:
    """A member whose checksum does not fit is refused before it is parsed."""
    path = captures.forge(tmp_path / "a.culpa", members)
    content = bytearray(path.read_bytes())
    content[content.index(b"PAR1") + 30] ^= 0xFF
    path.write_bytes(content)
    assert "do not fit together" in refusal(path)


def test_unforged_sample_opens(tmp_path: Path, members: dict[str, bytes]) -> None:
    """The forgeries above start from members that open: otherwise their refusals would prove nothing."""
    opened = open_capture(captures.forge(tmp_path / "a.culpa", members))
    assert captures.sample().tables["offcpu"].equals(opened.tables["offcpu"])
