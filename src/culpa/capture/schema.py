"""Every table of a capture: columns with type, unit and meaning; the schema number.

This module is the contract between the half that collects and the half that judges. All times are nanoseconds of
CLOCK_MONOTONIC. A null says "not known", with the reason in the column's meaning; 0 is never used for it.
`docs/reference/capture.md` is generated from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from culpa.capture.columns import Table, table

SCHEMA: Final = "culpa.capture/1"

REPEATED: Final = pl.Categorical()
"""Text of which many rows hold the same."""
FILE_TYPE: Final = pl.Enum(["reg", "dir", "chr", "blk", "fifo", "sock", "anon"])
DIRECTION: Final = pl.Enum(["in", "out"])
PROTOCOL: Final = pl.Enum(["http", "resp", "mysql", "unknown"])
MESSAGE_KIND: Final = pl.Enum(["request", "response", "data"])
INTERFACE: Final = pl.Enum(["io_uring", "libaio"])
OPERATION: Final = pl.Enum(["read", "write", "flush", "discard", "other"])

I64, I32, U64, U32, STR, BOOL, F64 = pl.Int64, pl.Int32, pl.UInt64, pl.UInt32, pl.String, pl.Boolean, pl.Float64

OFFCPU = table(
    "offcpu",
    "One stretch a watched thread was off its CPU, written when it runs again or when the window ends.",
    ("off_ns", I64, "ns", "when it was switched out; null: before the window or before it was watched"),
    ("wake_ns", I64, "ns", "when it became runnable again; null: preempted (it never slept) or not yet woken"),
    ("on_ns", I64, "ns", "when it ran again; null: still off its CPU at the end"),
    ("tid", I32, "", "the thread"),
    ("pid", I32, "", "its process"),
    (
        "state",
        I32,
        "",
        "prev_state of sched_switch: 0 preempted, 1 interruptible, 2 uninterruptible, 4 stopped, 8 traced, 0x8000 frozen",
    ),
    ("cpu", I32, "", "the CPU it ran on again"),
    ("waker_tid", I32, "", "the thread in whose context it was woken; null: the idle task, or preempted"),
    ("waker_pid", I32, "", "the process of that thread"),
    ("stack_id", I32, "", "its kernel stack at the switch, in `stacks`; only for uninterruptible waits"),
    ("prev_tid", I32, "", "who ran on that CPU just before it ran again"),
)

SYSCALLS = table(
    "syscalls",
    "One system call of a watched thread.",
    ("enter_ns", I64, "ns", "null: it began before the window or before the thread was watched"),
    ("exit_ns", I64, "ns", "null: still open at the end of the window"),
    ("tid", I32, "", "the thread"),
    ("pid", I32, "", "its process"),
    (
        "nr",
        I32,
        "",
        "system call number of the manifest's machine; with bit 29 set the number of a 32-bit program's call",
    ),
    ("ret", I64, "", "return value; null: still open"),
    ("arg0", U64, "", "first argument; the fd for fd calls"),
    ("arg1", U64, "", "second argument"),
    ("arg2", U64, "", "third argument"),
    ("dev", U32, "dev_t", "device of the file system of the fd's inode; null: no fd, or not resolved"),
    (
        "ino",
        U64,
        "",
        "inode of the fd (for a socket its socket inode); for accept: of the new connection; for an io_uring_enter that "
        "waits: the ring's number, as in `async_io`",
    ),
    ("file_type", FILE_TYPE, "", "reg, dir, chr, blk, fifo, sock, anon (epoll, eventfd, timerfd); null: no fd"),
)

MESSAGES = table(
    "messages",
    "One successful read or write on a socket, parsed; the bytes themselves are never stored.",
    ("enter_ns", I64, "ns", "start of the system call that moved it; null: before the window"),
    ("exit_ns", I64, "ns", "end of that system call"),
    ("tid", I32, "", "the thread"),
    ("pid", I32, "", "its process"),
    ("ino", U64, "", "socket inode, in `sockets`"),
    ("direction", DIRECTION, "", "in (read by this process) or out (written by it)"),
    ("protocol", PROTOCOL, "", "http, resp, mysql (also MariaDB), unknown"),
    ("kind", MESSAGE_KIND, "", "request, response; data: a later part, or an unknown protocol"),
    (
        "verb",
        REPEATED,
        "",
        "HTTP method, Redis command or first word of an SQL statement, in upper case; null for responses and data",
    ),
    (
        "detail",
        REPEATED,
        "",
        "HTTP path without query, the pattern of the first key (`uuid:*`), or the statement with `?` for each literal; "
        "null where there is none",
    ),
    (
        "status",
        I32,
        "",
        "HTTP status of a response; for RESP 1 if it is an error, else 0; the status flags of a MySQL server where they "
        "are in the first bytes; null otherwise",
    ),
    (
        "commands",
        I32,
        "",
        "whole RESP commands recognised in the first bytes (pipelining); 1 for HTTP and MySQL; null for data",
    ),
    ("bytes", I64, "B", "bytes moved"),
)

RETRANSMITS = table(
    "retransmits",
    "One TCP segment that this host sent once more, on a socket of any process.",
    ("ts_ns", I64, "ns", "when it was sent again"),
    ("ino", U64, "", "socket inode, in `sockets` where a watched process used it"),
    ("timeout_ns", I64, "ns", "how long the kernel waited for an acknowledgement, at most; null: not known"),
    ("by_timer", BOOL, "", "because no acknowledgement came; false: those of later segments told that it was missing"),
    ("round_trip_ns", I64, "ns", "the shortest way there and back measured on the connection; null: none yet"),
    ("connecting", BOOL, "", "it asked for the connection (SYN)"),
)

SOCKETS = table(
    "sockets",
    "One socket that a watched process used, or that is the peer of one.",
    ("ino", U64, "", "socket inode"),
    ("netns", U64, "", "inode of the network namespace; null: not known"),
    ("family", STR, "", "tcp, tcp6, udp, udp6, unix, other"),
    ("local_addr", STR, "", "textual address; IPv4-mapped addresses as IPv4; the path for unix"),
    ("local_port", I32, "", "null for unix"),
    ("peer_addr", STR, "", "null: not connected; of one that is not and asks a name server (port 53) that server"),
    ("peer_port", I32, "", "null: not connected"),
    ("peer_ino", U64, "", "the other end's socket inode where it is on this host; null: remote or not known"),
    ("pid", I32, "", "a process that held it when first seen; null: not known"),
    ("listening", BOOL, "", "a listening socket"),
    (
        "sent_ns",
        I64,
        "ns",
        "when it had last sent data as the window began, to the kernel's tick; null: never, not TCP, or in another network namespace than culpa",
    ),
    ("received_ns", I64, "ns", "when it had last received data as the window began; null as above"),
)

BLOCKS = table(
    "blocks",
    "One request to a block device.",
    ("queued_ns", I64, "ns", "when the request was made (struct request.start_time_ns); null: not known"),
    ("issue_ns", I64, "ns", "when it was handed to the device; null: issued before the window"),
    ("complete_ns", I64, "ns", "when the device finished it; null: still in flight at the end"),
    ("dev", U32, "dev_t", "the device"),
    ("sector", U64, "512 B", "first sector; null for a flush"),
    ("bytes", I64, "B", "0 for a flush"),
    ("op", OPERATION, "", "read, write, flush, discard, other"),
    ("sync", BOOL, "", "somebody waits for it (REQ_SYNC or a read)"),
    ("tid", I32, "", "the thread that submitted it"),
    ("pid", I32, "", "its process"),
    (
        "ino_dev",
        U32,
        "dev_t",
        "file system device of the inode whose page it carries first; null: no page, or memory of a process",
    ),
    ("ino", U64, "", "that inode; 0: pages of the block device itself (metadata, journal); null as above"),
    ("generation", U32, "", "that inode's generation: a reused inode number has another; null as above"),
)

BLOCK_PARTS = table(
    "block_parts",
    "Stretches of writes that carry pages of several inodes; a request without rows here carries those of one.",
    ("issue_ns", I64, "ns", "of the request, as in `blocks`"),
    ("dev", U32, "dev_t", "of the request, as in `blocks`"),
    ("sector", U64, "512 B", "first sector of the request, as in `blocks`"),
    ("ino_dev", U32, "dev_t", "as in `blocks`"),
    ("ino", U64, "", "as in `blocks`"),
    ("generation", U32, "", "as in `blocks`"),
    ("bytes", I64, "B", "length of the stretch"),
)

DIRTIED = table(
    "dirtied",
    "Pages that one thread made dirty in one inode within a tenth of a second or less; all processes, watched or not.",
    ("from_ns", I64, "ns", "when the first of them became dirty"),
    ("to_ns", I64, "ns", "when the last of them did"),
    ("tid", I32, "", "the thread; for a mapped file the one that touched the page"),
    ("pid", I32, "", "its process"),
    ("dev", U32, "dev_t", "device of the file system"),
    ("ino", U64, "", "inode; 0: pages of the block device `dev` itself (metadata, or written without a file system)"),
    ("generation", U32, "", "the inode's generation: a reused inode number has another"),
    ("disk", U32, "dev_t", "device whose share of the dirty pages is limited; null: no block device"),
    ("bytes", I64, "B", "whole pages, or whole large folios of which a part was written: as the kernel counts them"),
)

_OF_INODE = (
    ("from_ns", I64, "ns", "when the first page left; when the giving back of space began"),
    ("to_ns", I64, "ns", "when the last page did; of space the same as before, its end is that of the system call"),
    ("tid", I32, "", "the thread that did it, or needed the memory; of the kernel where that makes room by itself"),
    ("pid", I32, "", "its process"),
    ("dev", U32, "dev_t", "device of the file system"),
    ("ino", U64, "", "inode"),
    ("generation", U32, "", "as in `dirtied`"),
    ("disk", U32, "dev_t", "as in `dirtied`"),
)

UNCACHED = table(
    "uncached",
    "Pages that one thread took out of the page cache of one file within a tenth of a second or less; all processes, "
    "watched or not; files that a watched thread used or that were read from a device meanwhile, and still have a name.",
    *_OF_INODE,
    ("bytes", I64, "B", "whole pages"),
)

FREED = table(
    "freed",
    "The space of one file, a megabyte or more, that one thread gave back: it deleted the file and nobody has it open, "
    "let go of a deleted one last, or cut it (ext4). All processes, watched or not; ext4, btrfs, f2fs.",
    *_OF_INODE,
    ("bytes", I64, "B", "space on the device, or in memory if that is more: it was not written out yet"),
)

THROTTLES = table(
    "throttles",
    "One pause that balance_dirty_pages imposed on a writer; all processes, watched or not.",
    ("ts_ns", I64, "ns", "when the pause began"),
    ("pause_ns", I64, "ns", "how long it was to be"),
    ("tid", I32, "", "the writer"),
    ("pid", I32, "", "its process"),
    ("disk", U32, "dev_t", "the device whose file it wrote; null: no block device"),
    (
        "dirty",
        I64,
        "B",
        "dirty in the domain that is held to its share: the host, or a control group; null: this kernel does not say",
    ),
    ("threshold", I64, "B", "limit of that domain (vm.dirty_ratio, vm.dirty_bytes)"),
    ("background", I64, "B", "from here on the kernel writes back by itself (vm.dirty_background_*)"),
    ("disk_dirty", I64, "B", "dirty on that device"),
    ("disk_threshold", I64, "B", "that device's share of the limit (bdi min/max_ratio, max_bytes, strict_limit)"),
)

ASYNC_IO = table(
    "async_io",
    "One request that a watched thread gave to the kernel to be done beside it, by io_uring or libaio.",
    ("submit_ns", I64, "ns", "when it was given"),
    (
        "complete_ns",
        I64,
        "ns",
        "when its completion was posted, for libaio when its event was taken; null: not yet, or not seen (libaio: taken "
        "without a system call)",
    ),
    ("tid", I32, "", "the thread that gave it; a thread of the kernel's (iou-sqp) where that takes requests by itself"),
    ("pid", I32, "", "its process"),
    ("interface", INTERFACE, "", "io_uring; libaio: io_submit and io_getevents"),
    (
        "ring",
        U64,
        "",
        "a number of the ring, unique on the host; for libaio the context (first argument) of that process",
    ),
    (
        "op",
        REPEATED,
        "",
        "read, write, fsync, recv, send, accept, connect, poll, timeout; else as include/uapi/linux/io_uring.h has it",
    ),
    ("dev", U32, "dev_t", "device of the file system of its file; null: no file, or not resolved"),
    ("ino", U64, "", "inode of its file"),
    ("file_type", FILE_TYPE, "", "as in `syscalls`"),
    ("ret", I64, "", "its answer: bytes moved, or a negative error; null: none yet"),
    ("ender_tid", I32, "", "the thread in whose context its completion was posted or taken; null: none yet"),
)

TASKS = table(
    "tasks",
    "Every thread that appears anywhere in the capture.",
    ("tid", I32, "", "the thread"),
    ("pid", I32, "", "its process"),
    ("ppid", I32, "", "the parent of its process when it was first seen to do anything; null: not known"),
    ("comm", STR, "", "its name, as the kernel keeps it (15 bytes)"),
    ("kernel", BOOL, "", "a kernel thread"),
    ("watched_ns", I64, "ns", "since when it was watched; null: never (a waker or a peer)"),
    ("exit_ns", I64, "ns", "when it ended; null: it did not"),
)

PROCESSES = table(
    "processes",
    "Every process that appears anywhere in the capture.",
    ("pid", I32, "", "the process"),
    ("ppid", I32, "", "its parent"),
    ("starttime", U64, "ticks", "field 22 of /proc/PID/stat: with the pid an identity; null: gone before it was read"),
    ("comm", STR, "", "its name"),
    ("cmdline", STR, "", "command line, passwords masked, bounded"),
    ("exe", STR, "", "path of the program"),
    ("cgroup", STR, "", "path of its control group"),
    ("unit", STR, "", "systemd unit, from the cgroup path"),
    ("container", STR, "", "container id, from the cgroup path"),
    ("netns", U64, "", "inode of its network namespace"),
    ("pidns", U64, "", "inode of its pid namespace"),
    ("role", STR, "", "target, peer, waker, child, kernel; neighbour: it holds much memory; culpa: the watcher itself"),
    ("caught", STR, "", "signals it has handlers for, e.g. `HUP INT USR1`; null: not readable"),
)

AFFINITY = table(
    "affinity",
    "A thread of a watched process that may run on a part of the host's CPUs only, as it was when last looked at.",
    ("ts_ns", I64, "ns", "when that was"),
    ("tid", I32, "", "the thread"),
    ("pid", I32, "", "its process"),
    ("cpus", STR, "", "the CPUs it may run on, e.g. `0-3,8`"),
    ("cgroup", STR, "", "the control group (cpuset) that has no more CPUs than these; null: it may be given others"),
)

FILES = table(
    "files",
    "Every file that a watched thread read, wrote, synced or waited for.",
    ("dev", U32, "dev_t", "device of the file system, as in `syscalls`"),
    ("ino", U64, "", "inode"),
    ("path", STR, "", "path as the host sees it, for a file of an overlay in its layer; null: not resolved in time"),
    ("inner_path", STR, "", "path as the process sees it, where that differs"),
    ("fs_type", STR, "", "file system type"),
    ("append", BOOL, "", "a watched process had it open for appending at the end; null: not seen so"),
    ("synced", BOOL, "", "it had it open with O_DSYNC or O_SYNC, which sync every write, at the end; null as above"),
    ("size", I64, "B", "its length at the end; null: not known, gone, or another file has its path by then"),
    (
        "backing_dev",
        U32,
        "dev_t",
        "of a file of an overlay: the file system of the file that holds its data, which is what `dirtied` and `blocks` "
        "name; null: no overlay, or not found",
    ),
    ("backing_ino", U64, "", "that file's inode; null as above"),
)

STACKS = table(
    "stacks",
    "Kernel stacks of uninterruptible waits.",
    ("stack_id", I32, "", "as in `offcpu` and `thread_states`"),
    ("frames", pl.List(STR), "", "symbols, innermost first"),
)

CODE = table(
    "code",
    "Sampled stacks of a thread: of Python through py-spy, else its user stack; one row per frame.",
    ("ts_ns", I64, "ns", "when the sample was taken"),
    ("tid", I32, "", "the thread"),
    ("pid", I32, "", "its process"),
    ("depth", I32, "", "0 is the innermost frame"),
    ("function", STR, "", "function name; null: the program does not tell"),
    ("path", STR, "", "source file; where that is not known the program or library, as the process sees it"),
    ("line", I32, "", "line number, from 1; null: not known. With source jit: where the function begins"),
    ("library", BOOL, "", "the frame is in a library or a runtime, not in the program itself"),
    ("source", STR, "", "who told: py-spy; symbols or lines of the program's file; jit (the process's perf map)"),
)

THREAD_STATES = table(
    "thread_states",
    "What a thread did at the start and at the end of the window, by /proc and the kernel's list of tasks.",
    ("ts_ns", I64, "ns", "when it was read"),
    ("tid", I32, "", "the thread"),
    ("pid", I32, "", "its process"),
    ("state", STR, "", "R, S, D, T, t, Z, I of /proc/PID/stat"),
    ("nr", I32, "", "system call it is in; null: running, or not readable"),
    ("arg0", U64, "", "first argument of that call"),
    ("wchan", STR, "", "kernel symbol it sleeps in; null: running or not readable"),
    ("cpu_ns", U64, "ns", "time on CPU so far (schedstat field 1)"),
    ("run_delay_ns", U64, "ns", "time runnable but not running so far (schedstat field 2)"),
    (
        "since_ns",
        I64,
        "ns",
        "when it last came onto a CPU, to about a millisecond: one that sleeps has done so since soon after; null: not known",
    ),
    ("stack_id", I32, "", "its kernel stack, in `stacks`; only of an uninterruptible wait"),
    ("dev", U32, "dev_t", "device of the fd's inode, as in `syscalls`; null: no fd, or not resolved"),
    ("ino", U64, "", "inode of the fd"),
    ("file_type", FILE_TYPE, "", "as in `syscalls`"),
)

FILE_LOCKS = table(
    "file_locks",
    "A lock of a file that a process held or waited for when the kernel's list of locks (/proc/locks) was read: at the "
    "start, about once a second, and at the end.",
    ("ts_ns", I64, "ns", "when it was read"),
    ("pid", I32, "", "the process; null: it holds the lock by an open file, and was not looked for"),
    ("dev", U32, "dev_t", "device of the file system, as in `syscalls`"),
    ("ino", U64, "", "inode"),
    ("exclusive", BOOL, "", "a lock for writing"),
    ("waits", BOOL, "", "it does not hold the lock, but waits for it"),
)

SUMS = table(
    "sums",
    "What threads did after `evidence.sums_from_ns`, summed up in the kernel: records cost more than the budget by then.",
    ("tid", I32, "", "the thread"),
    ("pid", I32, "", "its process"),
    (
        "what",
        STR,
        "",
        "running, runnable, blocked (uninterruptible) or sleeping: all the thread's time; call: a system call on a file",
    ),
    ("nr", I32, "", "system call number of the manifest's machine; null: not a call"),
    ("dev", U32, "dev_t", "device of the fd's inode, as in `syscalls`; null: no fd, or a socket (summed as one)"),
    ("ino", U64, "", "inode of the fd; null as above"),
    ("file_type", FILE_TYPE, "", "as in `syscalls`"),
    ("count", I64, "", "calls, or stretches off its CPU; one still open at the end counts; null: not counted"),
    ("total_ns", I64, "ns", "how long together, within the time of the sums"),
    ("longest_ns", I64, "ns", "the longest call, from its true beginning; null: not known"),
)

SAMPLES = table(
    "samples",
    "The sampler's view of one thread that was not idle, at one moment (used where tracing is impossible).",
    ("ts_ns", I64, "ns", "moment of the sweep; the same for all rows of one sweep"),
    ("tid", I32, "", "the thread"),
    ("pid", I32, "", "its process"),
    ("state", STR, "", "R, S, D, T, t of /proc/PID/stat"),
    ("nr", I32, "", "system call it is in; null: running, or not readable"),
    ("arg0", U64, "", "first argument of that call; the fd for fd calls"),
    ("wchan", STR, "", "kernel symbol it sleeps in; null: running or not readable"),
    ("dev", U32, "dev_t", "device of the fd's file, in the kernel's encoding; null: no fd or not readable"),
    ("ino", U64, "", "inode of the fd"),
    ("file_type", FILE_TYPE, "", "as in `syscalls`"),
)

SWEEPS = table(
    "sweeps",
    "One pass of the sampler over the watched threads.",
    ("ts_ns", I64, "ns", "moment of the sweep"),
    ("threads", I32, "", "threads looked at"),
    ("active", I32, "", "threads that were not idle"),
)

REQUESTS = table(
    "probe_requests",
    "One request that culpa itself sent, on the probe's own clock.",
    ("start_ns", I64, "ns", "just before the request's bytes were sent"),
    ("end_ns", I64, "ns", "last byte of the answer read; null: no answer yet"),
    ("local_port", I32, "", "the probe's end of the connection; null for unix sockets and commands"),
    ("local_ino", U64, "", "the probe's end of a unix socket: its inode; null for others"),
    ("status", I32, "", "HTTP status, or exit status of a command; null: no answer"),
    ("bytes", I64, "B", "length of the answer"),
    ("error", STR, "", "what went wrong; null: nothing"),
)

REDIS = table(
    "redis",
    "What a Redis server said about itself.",
    ("ts_ns", I64, "ns", "when it was asked"),
    ("server", STR, "", "address asked, without credentials"),
    (
        "pid",
        I32,
        "",
        "its process on this host (INFO process_id, checked against the listener); null: not on this host",
    ),
    ("source", STR, "", "the command, e.g. `CONFIG GET`, `INFO persistence`, `LATENCY LATEST`"),
    ("field", STR, "", "name"),
    ("value", STR, "", "value as text; secrets are never asked for nor stored"),
)

DEVICES = table(
    "devices",
    "Block devices of the host.",
    ("dev", U32, "dev_t", "the device"),
    ("name", STR, "", "kernel name, e.g. sda, loop5"),
    ("parent", U32, "dev_t", "whole disk of a partition, or backing device of a loop device; null: none"),
    ("rotational", BOOL, "", "queue/rotational"),
    ("scheduler", STR, "", "active I/O scheduler"),
    ("queue_depth", I32, "", "queue/nr_requests"),
)

COUNTERS = table(
    "counters",
    "Counters and gauges of the host, the target's cgroup and the devices, at start, about once a second, and at the end.",
    ("ts_ns", I64, "ns", "when it was read"),
    (
        "source",
        STR,
        "",
        "file it was read from, e.g. /proc/stat, /proc/diskstats, /proc/pressure/io; `statvfs MAJOR:MINOR` for the room "
        "on a file system, at start and end",
    ),
    ("object", STR, "", "device, CPU, interface, cgroup or mount point; empty for the host"),
    ("field", STR, "", "name, as the file or its documentation has it"),
    ("value", F64, "as the file has it", "the value"),
)

TABLES: Final[tuple[Table, ...]] = (
    OFFCPU, SYSCALLS, MESSAGES, RETRANSMITS, SOCKETS, BLOCKS, BLOCK_PARTS, DIRTIED, UNCACHED, FREED, THROTTLES, ASYNC_IO,
    TASKS, PROCESSES, AFFINITY, FILES, STACKS, CODE, THREAD_STATES, FILE_LOCKS, SUMS, SAMPLES, SWEEPS, REQUESTS, REDIS,
    DEVICES, COUNTERS,
)  # fmt: skip
BY_NAME: Final[Mapping[str, Table]] = {table.name: table for table in TABLES}
