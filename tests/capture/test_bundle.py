"""A capture as a file: written whole or not at all, and read back as it was."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import captures
import msgspec
import polars as pl
import pytest

from culpa.capture import schema
from culpa.capture.bundle import Capture, looks_like_capture, open_capture, save
from culpa.errors import CaptureError

SOURCE = Path(__file__).parents[2] / "src"
SAVE_IN_CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import captures
from culpa.capture.bundle import save
from culpa.errors import CaptureError
try:
    save(captures.sample(200_000), Path(sys.argv[3]))
except CaptureError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def child(path: Path) -> list[str]:
    return [sys.executable, "-c", SAVE_IN_CHILD, str(SOURCE), str(Path(__file__).parent), str(path)]


def test_round_trip(tmp_path: Path) -> None:
    """Manifest and every table are read back equal, nulls, lists, empty tables and hostile names included."""
    capture = captures.sample()
    save(capture, tmp_path / "a.culpa")
    opened = open_capture(tmp_path / "a.culpa")
    assert capture.manifest == opened.manifest
    assert set(capture.tables) == set(opened.tables)
    for name, frame in capture.tables.items():
        assert frame.equals(opened.tables[name]), name
        assert schema.BY_NAME[name].schema == dict(opened.tables[name].schema)


def test_words_are_text_in_a_file_and_unknown_ones_null(tmp_path: Path) -> None:
    """However words are held in memory, a file holds text; a word of a later culpa is not known, its row stays."""
    frame = captures.sample().tables["syscalls"]
    members = captures.parts(captures.sample(), tmp_path)
    saved = pl.read_parquet(io.BytesIO(members["syscalls.parquet"]))
    assert pl.String == saved.schema["file_type"]
    assert frame["file_type"].to_list() == saved["file_type"].to_list()
    members["syscalls.parquet"] = captures.parquet(frame.with_columns(file_type=pl.lit("hologram")))
    opened = open_capture(captures.forge(tmp_path / "a.culpa", members)).tables["syscalls"]
    assert opened["file_type"].is_null().all()
    assert frame.drop("file_type").equals(opened.drop("file_type"))


def test_a_table_that_is_used_up_was_still_collected() -> None:
    """Its rows are gone for good and nobody takes it for empty; the capture it came from keeps them."""
    capture = captures.sample()
    rest = capture.without_rows(schema.OFFCPU)
    assert rest.has(schema.OFFCPU)
    with pytest.raises(LookupError, match="offcpu"):
        rest.frame(schema.OFFCPU)
    assert capture.frame(schema.SYSCALLS).equals(rest.frame(schema.SYSCALLS))
    assert 500 == len(capture.frame(schema.OFFCPU))
    assert rest.without_rows(schema.BLOCKS) is rest
    assert not rest.has(schema.BLOCKS)


def test_every_declared_table_can_be_saved(tmp_path: Path) -> None:
    """A capture of all tables of the schema, without rows, opens again."""
    capture = Capture(manifest=captures.MANIFEST, tables={table.name: table.empty() for table in schema.TABLES})
    save(capture, tmp_path / "a.culpa")
    assert set(capture.tables) == set(open_capture(tmp_path / "a.culpa").tables)


def test_file_is_private_stored_and_the_same_each_time(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask, members stored, no clock in the bytes, nothing beside the file."""
    before = os.umask(0)
    try:
        for name in ("a.culpa", "b.culpa"):
            save(captures.sample(), tmp_path / name)
    finally:
        os.umask(before)
    assert (tmp_path / "a.culpa").read_bytes() == (tmp_path / "b.culpa").read_bytes()
    assert stat.S_IMODE((tmp_path / "a.culpa").stat().st_mode) == 0o600
    with zipfile.ZipFile(tmp_path / "a.culpa") as archive:
        assert {zipfile.ZIP_STORED} == {info.compress_type for info in archive.infolist()}
        assert archive.namelist()[0] == "manifest.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.culpa", "b.culpa"]


def test_saving_replaces_an_older_capture_as_a_whole(tmp_path: Path) -> None:
    """A second save under the same name wins; through a symbolic link the linked file is replaced, not the link."""
    save(captures.sample(10), tmp_path / "a.culpa")
    (tmp_path / "link.culpa").symlink_to("a.culpa")
    save(captures.sample(20), tmp_path / "link.culpa")
    assert (tmp_path / "link.culpa").is_symlink()
    assert open_capture(tmp_path / "a.culpa").tables["offcpu"].height == 20


@pytest.mark.parametrize("place", ["missing/a.culpa", ".", "/dev/null", "/proc/a.culpa", "n" * 300])
def test_impossible_places_end_in_a_sentence(tmp_path: Path, place: str) -> None:
    """A missing folder, a folder, a device, a kernel file system, an endless name: a sentence, and no leftover."""
    with pytest.raises(CaptureError, match="cannot save the capture"):
        save(captures.sample(), tmp_path / place)
    assert list(tmp_path.iterdir()) == []
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    """Where the file may not grow (RLIMIT_FSIZE): a sentence, exit code 1, the older file untouched, no half file."""
    target = tmp_path / "a.culpa"
    target.write_bytes(b"older")

    command = ["prlimit", "--fsize=100000:100000", *child(target)]  # Python itself ignores SIGXFSZ
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("cannot save the capture")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


@pytest.mark.root
def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """On a file system without space: a sentence and no half file. The mount is private and gone with the child."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small tmpfs needs root and unshare")
    script = 'mount -t tmpfs -o size=64k none "$0" && { "$@"; code=$?; ls -A "$0" >&2; exit $code; }'
    command = ["unshare", "--mount", "sh", "-c", script, str(tmp_path), *child(tmp_path / "a.culpa")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    assert "No space left on device" in done.stdout


def test_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the last moment before the rename removes the half-written file."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(captures.sample(), tmp_path / "a.culpa")
    assert list(tmp_path.iterdir()) == []


def test_overlong_text_is_cut(tmp_path: Path) -> None:
    """A text longer than opening allows is cut at saving, rather than the capture lost."""
    endless = schema.PROCESSES.frame({"pid": [1, 2], "cmdline": ["\U0001f4be" * 100_000, "short"]})
    save(Capture(manifest=captures.MANIFEST, tables={"processes": endless}), tmp_path / "a.culpa")
    long, short = open_capture(tmp_path / "a.culpa").tables["processes"]["cmdline"]
    assert long == "\U0001f4be" * 16_384
    assert short == "short"


def test_what_could_not_be_opened_again_is_not_saved(tmp_path: Path) -> None:
    """A number that opening would refuse is refused at saving, and nothing is left behind."""
    wrong = schema.PROCESSES.frame({"pid": [-1]})
    with pytest.raises(CaptureError, match=r"processes\.pid is out of range"):
        save(Capture(manifest=captures.MANIFEST, tables={"processes": wrong}), tmp_path / "a.culpa")
    assert list(tmp_path.iterdir()) == []


def test_manifest_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A target name that was not UTF-8 is saved with question marks."""
    target = msgspec.structs.replace(captures.MANIFEST.target, name="caf\udce9")
    manifest = msgspec.structs.replace(captures.MANIFEST, target=target)
    save(Capture(manifest=manifest), tmp_path / "a.culpa")
    assert open_capture(tmp_path / "a.culpa").manifest.target.name == "caf?"


def test_older_capture_lacks_columns_and_newer_one_has_more(tmp_path: Path) -> None:
    """Missing columns become null, unknown columns and tables are ignored."""
    members = captures.parts(captures.sample(), tmp_path)
    frame = captures.sample().tables["offcpu"].drop("stack_id", "cpu").with_columns(novelty=pl.lit(1))
    members |= {"offcpu.parquet": captures.parquet(frame), "novelties.parquet": captures.parquet(frame)}
    opened = open_capture(captures.forge(tmp_path / "a.culpa", members))
    assert dict(opened.tables["offcpu"].schema) == schema.OFFCPU.schema
    assert opened.tables["offcpu"]["cpu"].null_count() == frame.height
    assert "novelties" not in opened.tables


def test_looks_like_capture(tmp_path: Path) -> None:
    """A capture is recognised by its first bytes; other files, folders, pipes and missing ones are not."""
    save(captures.sample(), tmp_path / "a")
    os.mkfifo(tmp_path / "fifo")
    captures.forge(tmp_path / "other.zip", {"a.txt": b"x"})
    found = [looks_like_capture(tmp_path / name) for name in ("a", "fifo", "other.zip", "missing", ".")]
    assert found == [True, False, False, False, False]
    assert not looks_like_capture(Path("/dev/zero"))
