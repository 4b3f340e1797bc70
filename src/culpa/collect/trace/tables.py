"""Records of the probes -> tables of the capture: columns out of structs, zeros into nulls.

Pure: numpy and polars in, polars out; `events.py` is the left side, `capture/schema.py` the right one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from culpa.capture import schema
from culpa.capture.columns import Table
from culpa.collect.trace import asyncops
from culpa.collect.trace.events import CALL, CALL_BYTES, SYSCALL_EVENT
from culpa.collect.trace.messages import UNSETTLED, parse
from culpa.collect.trace.ring import Records

_FILE_TYPES: Final = {0o10: "reg", 0o04: "dir", 0o02: "chr", 0o06: "blk", 0o01: "fifo", 0o14: "sock"}
_OPERATIONS: Final = {0: "read", 1: "write", 2: "flush", 3: "discard"}
"""enum req_op, include/linux/blk_types.h."""
_REQ_SYNC: Final = 1 << 11
NO_ROUND_TRIP: Final = 0xFFFFFFFF
"""What rtt_min holds before the first one (tcp_init_sock in net/ipv4/tcp.c)."""


def _columns(records: Records, *names: str) -> dict[str, object]:
    return {name: np.ascontiguousarray(records[name]) for name in names}


def _declared(frame: pl.LazyFrame, table: Table) -> pl.DataFrame:
    return frame.select(pl.col(column.name).cast(column.dtype) for column in table.columns).collect()


def _known(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != 0).then(pl.col(name)).alias(name)


def _word(word: str, words: pl.Enum) -> pl.Expr:
    return pl.lit(word, words)


def offcpu(records: Records, *, wakes_seen: bool) -> pl.DataFrame:
    """`schema.OFFCPU` from OFFCPU_EVENT records.

    A wake-up can overtake the switch-out it answers, and a thread whose signal came just before it slept is switched
    out without having slept: the first is clipped to the stretch, the second is a preemption, provided that wake-ups
    are seen at all.
    """
    frame = pl.LazyFrame(
        _columns(
            records, "off_ns", "wake_ns", "on_ns", "tid", "pid", "state", "cpu", "waker_tid", "waker_pid", "stack_id",
            "prev_tid",
        )
    )  # fmt: skip
    began = pl.col("off_ns") != 0
    never_slept = began & (pl.col("wake_ns") == 0) & (pl.col("on_ns") != 0) if wakes_seen else pl.lit(value=False)
    frame = frame.with_columns(state=pl.when(never_slept).then(0).otherwise("state"))
    preempted = began & (pl.col("state") == 0)
    woken = (pl.col("wake_ns") != 0) & ~preempted
    frame = frame.with_columns(
        off_ns=pl.when(began).then("off_ns"),
        wake_ns=pl.when(woken).then(pl.max_horizontal("wake_ns", "off_ns")),
        state=pl.when(began).then("state"),
        cpu=pl.when(pl.col("on_ns") != 0).then("cpu"),
        prev_tid=pl.when(pl.col("on_ns") != 0).then("prev_tid"),
        waker_tid=pl.when(woken & (pl.col("waker_tid") != 0)).then("waker_tid"),
        waker_pid=pl.when(woken & (pl.col("waker_tid") != 0)).then("waker_pid"),
        stack_id=pl.when((pl.col("stack_id") >= 0) & ~preempted & began).then("stack_id"),
        on_ns=_known("on_ns"),
    )
    return _declared(frame, schema.OFFCPU)


def syscalls(records: Records, anonymous_dev: int) -> pl.DataFrame:
    """`schema.SYSCALLS` from SYSCALL_EVENT records; `anonymous_dev` is where epoll, eventfd and timerfd inodes live."""
    columns = _columns(records, "enter_ns", "exit_ns", "ret", "ino", "tid", "pid", "nr", "dev", "mode", "killed")
    columns |= {f"arg{i}": np.ascontiguousarray(records["arg"][:, i]) for i in range(3)}
    has_fd = (pl.col("dev") != 0) | (pl.col("mode") != 0)
    kind = (
        (pl.col("mode").cast(pl.UInt32) // 4096)
        .cast(pl.UInt8)
        .replace_strict(_FILE_TYPES, default="anon", return_dtype=schema.FILE_TYPE)
    )
    frame = pl.LazyFrame(columns).with_columns(
        enter_ns=_known("enter_ns"),
        ret=pl.when((pl.col("exit_ns") != 0) & (pl.col("killed") == 0)).then("ret"),
        exit_ns=_known("exit_ns"),
        dev=pl.when(pl.col("dev") != 0).then("dev"),  # a ring is known by its number alone
        ino=pl.when(has_fd).then("ino"),
        file_type=pl.when(has_fd).then(
            pl.when(pl.col("dev") == anonymous_dev).then(_word("anon", schema.FILE_TYPE)).otherwise(kind)
        ),
    )
    return _declared(frame, schema.SYSCALLS)


def messages(records: Records) -> pl.DataFrame:
    """Parsed MESSAGE_EVENT records: `UNSETTLED` columns; no byte of a message is kept."""
    columns = _columns(records, "enter_ns", "exit_ns", "tid", "pid", "ino", "bytes", "outgoing")
    return _messages({**columns, "outgoing": records["outgoing"] != 0}, parse(records["payload"], records["captured"]))


def _messages(columns: dict[str, object], parsed: pl.DataFrame) -> pl.DataFrame:
    frame = pl.DataFrame(columns).hstack(parsed).lazy().with_columns(
        enter_ns=_known("enter_ns"),
        direction=pl.when("outgoing").then(_word("out", schema.DIRECTION)).otherwise(_word("in", schema.DIRECTION)),
    )  # fmt: skip
    return frame.select(pl.col(name).cast(dtype) for name, dtype in UNSETTLED.items()).collect()


def short_messages(records: Records, senders: npt.NDArray[np.intp]) -> pl.DataFrame:
    """The messages inside SYSCALL_EVENT records, as `messages`; `senders` are the numbers of calls that write."""
    with_message = records[records["captured"] != 0]
    columns = _columns(with_message, "enter_ns", "exit_ns", "tid", "pid", "ino")
    columns |= {"bytes": np.ascontiguousarray(with_message["ret"]), "outgoing": np.isin(with_message["nr"], senders)}
    return _messages(columns, parse(with_message["payload"], with_message["captured"]))


def without_payload(records: Records) -> Records:
    """SYSCALL_EVENT records, one after the other in memory, as CALL records: all but the bytes of the messages."""
    rows = records.view(np.uint8).reshape(len(records), SYSCALL_EVENT.itemsize)
    return rows[:, :CALL_BYTES].copy().view(CALL).reshape(-1)


def file_types(modes: npt.NDArray[np.integer], devs: npt.NDArray[np.integer], anonymous_dev: int) -> pl.Series:
    """`file_type` of inodes by their modes and devices; `anonymous_dev` as in `syscalls`."""
    kinds = np.where(devs == anonymous_dev, 0, modes // 4096)
    kind = pl.Series("file_type", kinds, dtype=pl.UInt8)
    return kind.replace_strict(_FILE_TYPES, default="anon", return_dtype=schema.FILE_TYPE)


def blocks(records: Records) -> pl.DataFrame:
    """`schema.BLOCKS` from BLOCK_EVENT records."""
    operation = pl.col("flags") % 256
    carries = pl.col("ino_dev") != 0
    frame = pl.LazyFrame(
        _columns(
            records, "queued_ns", "issue_ns", "complete_ns", "sector", "ino", "dev", "bytes", "flags", "tid", "pid",
            "ino_dev", "generation",
        )
    ).with_columns(
        queued_ns=_known("queued_ns"),
        issue_ns=_known("issue_ns"),
        complete_ns=_known("complete_ns"),
        sector=pl.when((operation != 2) & (pl.col("bytes") != 0)).then("sector"),
        op=pl.when((operation == 1) & (pl.col("bytes") == 0))
        .then(_word("flush", schema.OPERATION))
        .otherwise(operation.replace_strict(_OPERATIONS, default="other", return_dtype=schema.OPERATION)),
        sync=(pl.col("flags") // _REQ_SYNC % 2 == 1) | operation.is_in([0, 2]),
        tid=pl.when(pl.col("pid") != 0).then("tid"),
        pid=_known("pid"),
        ino_dev=pl.when(carries).then("ino_dev"),
        ino=pl.when(carries).then("ino"),
        generation=pl.when(carries).then("generation"),
    )  # fmt: skip
    return _declared(frame, schema.BLOCKS)


def block_parts(records: Records) -> pl.DataFrame:
    """`schema.BLOCK_PARTS` from PART_EVENT records."""
    carries = pl.col("ino_dev") != 0
    frame = pl.LazyFrame(_columns(records, *(column.name for column in schema.BLOCK_PARTS.columns))).with_columns(
        ino_dev=pl.when(carries).then("ino_dev"),
        ino=pl.when(carries).then("ino"),
        generation=pl.when(carries).then("generation"),
    )
    return _declared(frame, schema.BLOCK_PARTS)


def of_inodes(records: Records, table: Table) -> pl.DataFrame:
    """`schema.DIRTIED`, `UNCACHED` or `FREED` from DIRTIED_EVENT records."""
    frame = pl.LazyFrame(_columns(records, *(column.name for column in table.columns)))
    return _declared(frame.with_columns(disk=_known("disk")), table)


def throttles(records: Records, *, page_bytes: int, tick_ns: int) -> pl.DataFrame:
    """`schema.THROTTLES` from THROTTLE_EVENT records; the kernel counts in pages and in ticks of its clock."""
    pages = {"dirty": "dirty", "threshold": "limit", "background": "background_limit",
             "disk_dirty": "disk_dirty", "disk_threshold": "disk_limit"}  # fmt: skip
    columns = _columns(records, "ts_ns", "tid", "pid", "disk", "pause_ticks", *pages.values())
    frame = pl.LazyFrame(columns).with_columns(
        pause_ns=pl.col("pause_ticks") * tick_ns,
        disk=_known("disk"),
        **{name: pl.when(pl.col("limit") != 0).then(pl.col(field) * page_bytes) for name, field in pages.items()},
    )
    return _declared(frame, schema.THROTTLES)


def async_io(records: Records, anonymous_dev: int) -> pl.DataFrame:
    """`schema.ASYNC_IO` from ASYNC_EVENT records; `anonymous_dev` as in `syscalls`."""
    columns = _columns(records, "submit_ns", "complete_ns", "ring", "ino", "ret", "tid", "pid", "dev", "ender_tid")
    on_file, over = (records["dev"] != 0) | (records["mode"] != 0), records["complete_ns"] != 0
    kinds, inverse = np.unique(np.stack([records["op"], records["by_iocb"]]), axis=1, return_inverse=True)
    names = [asyncops.name(number, by_iocb=bool(iocb)) for number, iocb in kinds.T.tolist()]
    columns |= {
        "interface": pl.Series(np.where(records["by_iocb"] != 0, "libaio", "io_uring"), dtype=schema.INTERFACE),
        "op": pl.Series([names[kind] for kind in inverse.reshape(-1).tolist()], dtype=schema.REPEATED),
        "file_type": file_types(records["mode"], records["dev"], anonymous_dev),
        "on_file": on_file,
        "over": over,
    }
    frame = pl.LazyFrame(columns).with_columns(
        submit_ns=_known("submit_ns"),
        complete_ns=_known("complete_ns"),
        dev=pl.when("on_file").then("dev"),
        ino=pl.when("on_file").then("ino"),
        file_type=pl.when("on_file").then("file_type"),
        ret=pl.when("over").then("ret"),
        ender_tid=pl.when("over").then(_known("ender_tid")),
    )
    return _declared(frame, schema.ASYNC_IO)


def open_stretches(threads: Records, event: np.dtype[np.void]) -> Records:
    """OFFCPU_EVENT records of the threads that are off their CPU now, from their THREAD_STATE."""
    return _reshaped(threads[threads["off_ns"] != 0], event)


def retransmits(records: Records, *, tick_ns: int) -> pl.DataFrame:
    """`schema.RETRANSMITS` from RETRANSMIT_EVENT records."""
    frame = pl.LazyFrame(_columns(records, *(records.dtype.names or ())))
    measured = ~pl.col("round_trip_us").is_in([0, NO_ROUND_TRIP])
    frame = frame.with_columns(
        ts_ns="at_ns",
        timeout_ns=_known("timeout_ticks").cast(pl.Int64) * tick_ns,
        round_trip_ns=pl.when(measured).then(pl.col("round_trip_us").cast(pl.Int64) * 1000),
        by_timer=pl.col("by_timer") != 0,
        connecting=pl.col("connecting") != 0,
    )
    return _declared(frame, schema.RETRANSMITS)


def open_calls(threads: Records, event: np.dtype[np.void]) -> Records:
    """CALL records of the calls still open; the fd is not resolved here unless it was at entry."""
    return _reshaped(threads[threads["nr"] >= 0], event)


def _reshaped(threads: Records, event: np.dtype[np.void]) -> Records:
    records = np.zeros(len(threads), dtype=event)
    for name in set(event.names or ()) & set(threads.dtype.names or ()):
        records[name] = threads[name]
    return records
