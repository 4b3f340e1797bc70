"""Requests to io_uring and libaio, made by a program that does exactly known things."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import beside
import polars as pl
import pytest

from culpa.collect.trace import asyncops, calls, kernel
from culpa.collect.trace.tracer import Tracer, TraceResult

pytestmark = [pytest.mark.root, pytest.mark.trace]

RING_ENTER, GETEVENTS = 426, 208 if os.uname().machine == "x86_64" else 4


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program."""
    return beside.compiled(tmp_path_factory.mktemp("beside"))


def traced(program: Path, *arguments: str | Path) -> tuple[TraceResult, int]:
    """What the tracer saw of a whole run, and the program's pid."""
    argv = ["/bin/sh", "-c", 'read go; exec "$@"', "sh", program, *arguments]
    with (
        subprocess.Popen(argv, stdin=subprocess.PIPE, text=True) as child,
        Tracer(pids={child.pid}, exclude_pids={os.getpid()}) as tracer,
    ):
        child.communicate("\n")
        result = tracer.stop()
    assert 0 == child.returncode
    return result, child.pid


@pytest.mark.parametrize("way", [*beside.DIRECT, "batch", "context"])
def test_each_request_is_seen_with_its_file_and_its_answer(program: Path, disk: Path, way: str) -> None:
    """As many as were made: who gave it, to which interface, on which file, and when it was over."""
    file = disk / f"{way}.data"
    result, pid = traced(program, way, file)
    seen, stat = result.tables["async_io"], file.stat()
    assert beside.ROUNDS * (4 if way == "batch" else 1) == len(seen)
    dev = os.major(stat.st_dev) << 20 | os.minor(stat.st_dev)
    assert [(pid, "libaio" if way == "context" else "io_uring", "read" if way == "read" else "write", dev,
             stat.st_ino, "reg", beside.BLOCK_BYTES)] == seen.select(
        "pid", "interface", "op", "dev", "ino", "file_type", "ret"
    ).unique().rows()  # fmt: skip
    assert [str(file)] == result.tables["files"].filter(dev=dev, ino=stat.st_ino)["path"].to_list()
    assert (seen["complete_ns"] > seen["submit_ns"]).all()
    names = result.tables["tasks"].filter(pl.col("tid").is_in(seen["tid"].unique().implode()))["comm"].to_list()
    assert [f"iou-sqp-{pid}"[:15] if way == "sqpoll" else "beside"] == names
    assert () == result.blind_spots


@pytest.mark.parametrize(("way", "number"), [("ring", RING_ENTER), ("context", GETEVENTS)])
def test_a_wait_is_for_the_ring_of_its_requests(program: Path, disk: Path, way: str, number: int) -> None:
    """One number for both, however the program calls its ring."""
    result, pid = traced(program, way, disk / "waits.data")
    waits = result.tables["syscalls"].filter(pid=pid, nr=number)
    told = waits["ino"].drop_nulls() if way == "ring" else waits["arg0"]
    assert result.tables["async_io"]["ring"].unique().to_list() == told.unique().to_list()
    assert beside.ROUNDS == len(waits)


def test_what_a_worker_does_has_a_stack(program: Path, disk: Path) -> None:
    """An fsync is done by a thread of the kernel's pool, which ends the request; where it waits is on its stack."""
    result, pid = traced(program, "sync", disk / "sync.data")
    seen = result.tables["async_io"].filter(op="fsync")
    assert [(pid, 0)] == seen.select("tid", "ret").unique().rows()
    assert beside.ROUNDS == len(seen)
    workers = seen["ender_tid"].unique()
    comm = result.tables["tasks"].filter(pl.col("tid").is_in(workers.implode()))["comm"].unique().to_list()
    assert [f"iou-wrk-{pid}"[:15]] == comm
    waits = result.tables["offcpu"].filter(pl.col("tid").is_in(workers.implode()), state=2)
    frames = waits.join(result.tables["stacks"], on="stack_id")["frames"].list.join(" ")
    assert len(frames) > beside.ROUNDS / 2
    assert frames.str.contains("io_fsync").all()


def test_what_is_received_has_its_socket(program: Path) -> None:
    """Ten words of a child: the socket at the program's end is known, and so is the other one."""
    result, pid = traced(program, "talk")
    seen = result.tables["async_io"]
    assert [("recv", "sock", 4, beside.WORDS)] == seen.group_by("op", "file_type", "ret").len().rows()
    socket = result.tables["sockets"].filter(ino=seen["ino"][0]).row(0, named=True)
    assert ("unix", pid, True) == (socket["family"], socket["pid"], socket["peer_ino"] is not None)


@pytest.mark.parametrize(("way", "expected"), [("ring", 1), ("context", 0)])
def test_an_older_kernel_is_a_blind_spot_for_those_who_use_rings(
    program: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, way: str, expected: int
) -> None:
    """Without the tracepoints nothing is known of a ring's requests; who uses none misses nothing."""
    types = kernel.kernel_types

    def older(*given: object) -> kernel.KernelTypes:
        found = types(*given)  # type: ignore[arg-type]  # as it was called
        return replace(found, parameters={n: p for n, p in found.parameters.items() if not n.startswith("io_uring")})

    monkeypatch.setattr(kernel, "kernel_types", older)
    result, _ = traced(program, way, disk / "older.data")
    assert expected == len(result.blind_spots)
    assert all("calls to io_uring" in spot.what for spot in result.blind_spots)
    assert beside.ROUNDS * (1 - expected) == len(result.tables["async_io"])


def test_operations_have_their_numbers() -> None:
    """As in include/uapi/linux/io_uring.h and aio_abi.h; those without a file of theirs are left out."""
    assert ["read", "fsync", "recv", "accept", "write", "send"] == [
        asyncops.name(number, by_iocb=False) for number in (1, 3, 10, 13, 23, 47)
    ]
    assert ["write", "fsync", "operation 9"] == [asyncops.name(number, by_iocb=True) for number in (1, 3, 9)]
    assert [1, 0, 1] == [asyncops.on_file() >> number & 1 for number in (22, 11, 13)]
    assert [426] == calls.ring_numbers()
