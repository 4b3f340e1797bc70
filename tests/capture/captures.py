"""Captures made by hand, and files forged from them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import msgspec
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture, save
from culpa.capture.manifest import BlindSpot, Evidence, Host, Manifest, Target, Window

START = 10**12
MANIFEST = Manifest(
    culpa_version="0.1.0",
    host=Host(kernel="6.1.0", machine="x86_64", cpus=2, memory_bytes=8 << 30, page_bytes=4096, ticks_per_second=100),
    target=Target(kind="process", name="shop", pids=(20,)),
    window=Window(start_ns=START, end_ns=START + 10**10, start_realtime_ns=10**18, ended_by="limit"),
    evidence=Evidence(waits="events"),
    blind_spots=(BlindSpot(what="lines of code", why="py-spy is missing", way_out="pip install py-spy"),),
)


def sample(rows: int = 500) -> Capture:
    """A capture with numbers, texts, lists, nulls and an empty table."""
    times = [START + 1000 * row for row in range(rows)]
    tables = {
        "offcpu": schema.OFFCPU.frame(
            {
                "off_ns": times,
                "wake_ns": [t + 400 for t in times],
                "on_ns": [t + 500 for t in times],
                "tid": [21] * rows,
            }
        ),
        "syscalls": schema.SYSCALLS.frame(
            {
                "enter_ns": times,
                "exit_ns": [t + 700 if t % 3000 else None for t in times],
                "tid": [21] * rows,
                "nr": [row % 300 for row in range(rows)],
                "file_type": ["reg" if row % 2 else None for row in range(rows)],
            }
        ),
        "stacks": schema.STACKS.frame({"stack_id": [1, 2, 3], "frames": [["io_schedule", "schedule"], [], None]}),
        "processes": schema.PROCESSES.frame({"pid": [20, 30], "comm": ["shop\x1b[31m", "redis-server"]}),
        "samples": schema.SAMPLES.empty(),
    }
    return Capture(manifest=MANIFEST, tables=tables)


def parts(capture: Capture, folder: Path) -> dict[str, bytes]:
    """Member name to content of a saved capture."""
    path = folder / "parts.culpa"
    save(capture, path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    path.unlink()
    return members


def parquet(frame: pl.DataFrame, **options: object) -> bytes:
    """A Parquet file as polars writes it, words as text, with other options than culpa's if asked."""
    buffer = io.BytesIO()
    words = pl.selectors.categorical() | pl.selectors.enum()
    frame.with_columns(words.cast(pl.String)).write_parquet(
        buffer, **({"compression": "zstd", "statistics": False} | options)
    )
    return buffer.getvalue()


def forge(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED, repeat: str = "") -> Path:
    """A file with any members and right checksums: what somebody who means harm would send."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
        if repeat:
            archive.writestr(zipfile.ZipInfo(repeat), members[repeat])
    return path


def manifest_bytes(**changes: object) -> bytes:
    """The manifest as JSON with fields replaced or added."""
    return msgspec.json.encode(msgspec.to_builtins(MANIFEST) | changes)
