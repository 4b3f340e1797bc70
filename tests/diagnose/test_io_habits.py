"""What rules say of programs that move a few bytes at a time, read again what they had, or have writes synced by how a
file is open, on scenes whose calls are counted by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
from scene import APP, JOURNAL, MS, US, Scene

from culpa.capture import schema
from culpa.diagnose import rereads
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict

READ, WRITE, OPENAT, CLOSE, LSEEK, PREAD = 0, 1, 257, 3, 8, 17
CREATE, SYNCED = 0o1101, 0o11101
SYNCING = 19
WRITES, READS, AGAIN, SYNC_OPEN = "app.io.small-writes", "app.io.small-reads", "app.io.rereads", "app.io.sync-open"
FSYNC_HEAVY = "disk.fsync-heavy"
FILE, INO = "/srv/data/table", 300


class Files:
    """The service's calls on files in one request: each has a length, and a pause after it in which it computes."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.scene.now += 2 * MS
        self.scene.request_arrives()
        self.scene.add(schema.FILES, dev=5, ino=INO, path=FILE)

    def call(
        self, nr: int, ret: int, *, args: tuple[int, int] = (0, 0), fd: int = 3, ns: int = 2 * US, pause: int = US
    ) -> None:
        """One call; `args` are its second and third argument."""
        now = self.scene.now
        self.scene.add(
            schema.SYSCALLS, enter_ns=now, exit_ns=now + ns, tid=APP, pid=APP, nr=nr, ret=ret, arg0=fd, arg1=args[0],
            arg2=args[1], dev=5, ino=INO, file_type="reg",
        )  # fmt: skip
        self.scene.now += ns + pause

    def read(self, size: int, *, asked: int | None = None, nr: int = READ, ns: int = 2 * US, pause: int = US) -> None:
        self.call(nr, size, args=(0, size if asked is None else asked), ns=ns, pause=pause)

    def write(self, size: int, *, ns: int = 2 * US, pause: int = US) -> None:
        self.call(WRITE, size, args=(0, size), ns=ns, pause=pause)

    def open(self, flags: int = 0) -> None:
        self.call(OPENAT, 3, args=(0, flags), fd=0xFFFFFF9C)

    def synced_write(self, size: int, wait_ns: int) -> None:
        """A write that syncs: off the CPU but for two microseconds, until the journal's thread wakes it."""
        now = self.scene.now
        self.scene.sleep(APP, now + US, now + wait_ns, now + wait_ns + US, state=2, waker=JOURNAL, stack=SYNCING)
        self.write(size, ns=wait_ns + 2 * US)

    def verdict(self) -> Verdict:
        frames = ["schedule", "jbd2_log_wait_commit", "ext4_sync_file", "generic_write_sync", "ext4_file_write_iter"]
        self.scene.add(schema.STACKS, stack_id=SYNCING, frames=frames)
        self.scene.answer()
        return judge(self.scene.capture())


def every(verdict: Verdict) -> dict[str, Cause]:
    """All causes by id, notes and those under a head as well."""
    return {one.id: one for head in verdict.causes for one in (head, *head.because)}


def facts(cause: Cause) -> dict[str, object]:
    return {evidence.fact: evidence.value for evidence in cause.evidence}


# A few bytes at a time -----------------------------------------------------------------------------------------


def small(count: int = 2000, *, size: int = 8, nr: int = WRITE, asked: int | None = None, pause: int = US) -> Files:
    """As many calls of two microseconds each."""
    files = Files()
    for _ in range(count):
        files.call(nr, size, args=(0, size if asked is None else asked), pause=pause)
    return files


@pytest.mark.parametrize(("nr", "cause"), [(WRITE, WRITES), (READ, READS), (PREAD, READS)])
def test_thousands_of_small_calls_are_named_with_their_file_and_counted(nr: int, cause: str) -> None:
    """2000 calls of 8 bytes, 4 ms within them and 2 ms between them, and nothing else to speak of."""
    verdict = small(nr=nr).verdict()
    found = verdict.causes[0]
    said = facts(found)

    assert (cause, "critical", FILE) == (found.id, found.level, found.on.path if found.on else None)
    assert APP == (found.who.pid if found.who else None)
    of = "writes to" if nr == WRITE else "reads of"
    assert 0.004 == pytest.approx(said[f"service[{APP}]: 2,000 {of} {FILE} a request, in the calls themselves"])
    assert 0.006 == pytest.approx(said["with what lies between two of them"], rel=0.01)
    assert (8.0, 1) == (said["bytes a call, in the mean"], said["calls a request that would do, of 64 KiB each"])
    assert "cpu.busy" not in every(verdict)


def test_what_the_calls_and_the_preparing_cost_bounds_the_prediction() -> None:
    """At most the 4 ms within the calls stay away, at least the 6 ms with what lies between."""
    verdict = small().verdict()
    assert verdict.observed is not None
    assert verdict.observed.p50 is not None
    predicted = verdict.causes[0].predicted

    assert predicted is not None
    assert predicted.low <= predicted.p50 <= predicted.high
    assert verdict.observed.p50 - 0.004 == pytest.approx(predicted.high, rel=0.02)
    assert verdict.observed.p50 - 0.006 == pytest.approx(predicted.low, abs=2e-5)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(lambda: small(pause=100 * US), id="two hundredths of the time"),
        pytest.param(lambda: small(900), id="less than a thousand"),
        pytest.param(lambda: small(size=4096), id="a page each"),
        pytest.param(lambda: small(nr=READ, asked=65536), id="asked for much and got what there was"),
    ],
)
def test_other_calls_are_no_such_habit(files: Callable[[], Files]) -> None:
    """Not even a note."""
    assert not {WRITES, READS} & set(every(files().verdict()))


def test_a_few_calls_on_each_of_many_files_are_no_such_habit() -> None:
    """2000 files of 8 bytes need a call each."""
    files = Files()
    for number in range(2000):
        files.scene.add(schema.FILES, dev=5, ino=1000 + number, path=f"/srv/data/{number}")
        files.write(8)
        files.scene.rows["syscalls"]["ino"][-1] = 1000 + number
    assert WRITES not in every(files.verdict())


def test_work_between_the_calls_stays_the_programs_own() -> None:
    """2 us in each call and 10 us after it: the calls are a sixth, what is computed between them is not theirs."""
    causes = every(small(pause=10 * US).verdict())

    assert 2 / 12 <= causes[WRITES].share <= 3 / 12 + 0.02
    assert causes["cpu.busy"].share >= 0.6


def test_waits_within_small_writes_have_another_cause() -> None:
    """Each write waits for the disk: that is no cost of the call."""
    files = Files()
    for _ in range(1500):
        files.synced_write(8, 200 * US)
    assert WRITES not in every(files.verdict())


# The same again ------------------------------------------------------------------------------------------------


def rereading(times: int, *, nr: int = READ, pause: int = 0, seek: bool = False, fs_type: str | None = None) -> Files:
    """A file of three parts, read from the beginning so many times; 25 us a part."""
    files = Files()
    files.scene.rows["files"]["fs_type"][-1] = fs_type
    for number in range(times):
        if seek and number:
            files.call(LSEEK, 0)
        else:
            files.open()
        for part in (4096, 4096, 100):
            files.read(part, asked=4096, nr=nr, ns=25 * US)
        files.call(READ, 0, args=(0, 4096))
        if not seek:
            files.call(CLOSE, 0, pause=pause)
    return files


@pytest.mark.parametrize("seek", [False, True])
def test_a_file_read_from_its_beginning_again_and_again_is_named(seek: bool) -> None:
    """40 times the same three parts, of which one time is new."""
    found = every(rereading(40, seek=seek).verdict())[AGAIN]
    said = facts(found)

    assert ("critical", FILE) == (found.level, found.on.path if found.on else None)
    assert 40 == said["each part of it is read a request"]
    assert 40 * 8292 == said["read a request by 120 calls"]
    assert 8292 == said["of it for the first time a request"]


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(lambda: rereading(5), id="a few times"),
        pytest.param(lambda: rereading(40, pause=2 * MS), id="little of the time"),
        pytest.param(lambda: rereading(40, nr=PREAD), id="nobody knows where"),
        pytest.param(lambda: rereading(40, fs_type="proc"), id="something new each time"),
    ],
)
def test_other_reading_is_not_again(files: Callable[[], Files]) -> None:
    """Not even a note."""
    assert AGAIN not in every(files().verdict())


@pytest.mark.parametrize(("size", "seen"), [(8292, True), (82_920, False), (None, False)])
def test_where_places_are_not_known_more_than_there_is_was_read_again(size: int | None, seen: bool) -> None:
    """40 times 8292 bytes by pread, of a file of so many bytes, of one ten times as long, or of nobody knows what."""
    files = rereading(40, nr=PREAD)
    files.scene.rows["files"]["size"] = [size]
    found = every(files.verdict())
    assert seen == (AGAIN in found)
    if seen:
        said = facts(found[AGAIN])
        assert 40 == said["each part of it is read a request"]
        assert 8292 == said["of it for the first time a request"]


def test_one_part_after_the_other_is_not_again() -> None:
    """400 parts of one file."""
    files = Files()
    files.open()
    for _ in range(400):
        files.read(4096, ns=5 * US)
    assert AGAIN not in every(files.verdict())


def test_a_file_that_is_written_meanwhile_is_read_for_what_is_new() -> None:
    """By the program itself, or by anybody else."""
    own = rereading(40)
    own.write(100)
    others = rereading(40)
    others.scene.add(
        schema.DIRTIED, from_ns=others.scene.now, to_ns=others.scene.now, tid=9, pid=9, dev=5, ino=INO, generation=0,
        bytes=4096,
    )  # fmt: skip
    assert AGAIN not in every(own.verdict())
    assert AGAIN not in every(others.verdict())


def test_places_are_followed_through_reads_writes_and_seeks() -> None:
    """From 0 at the opening; unknown before the first of them, and after the fd was closed."""
    steps = [
        ("read", 3, 10), ("open", 3, 3), ("read", 3, 10), ("write", 3, 5), ("read", 3, 10), ("seek", 3, 100),
        ("read", 3, 10), ("close", 3, 0), ("read", 3, 10),
    ]  # fmt: skip
    rows = pl.DataFrame(
        {
            "row": range(len(steps)), "pid": 1, "fd": [fd for _, fd, _ in steps], "dev": 5, "ino": 6,
            "operation": [name for name, _, _ in steps], "ret": [ret for _, _, ret in steps],
            "bytes": [ret if name in ("read", "write") else None for name, _, ret in steps], "placed": False,
            "exit_ns": range(len(steps)),
        }
    )  # fmt: skip
    at = rereads.placed(rows)["at"].to_list()

    assert [None, None, 0, 10, 15, None, 100, None, None] == at


# Opened to be synced -------------------------------------------------------------------------------------------


def syncing(writes: int = 40, *, flags: int | None = SYNCED, wait_ns: int = MS, pause: int = US) -> Files:
    """A file that is opened, unless there are no flags, and written with a sync in each write."""
    files = Files()
    if flags is not None:
        files.open(flags)
    for _ in range(writes):
        files.synced_write(100, wait_ns)
        files.scene.compute(pause)
    return files


def test_writes_that_wait_because_of_how_the_file_is_open_are_named() -> None:
    """40 writes of a millisecond, by the flags of the call that opened it; the syncs themselves are told as well."""
    verdict = syncing().verdict()
    found = verdict.causes[0]
    said = facts(found)

    assert (SYNC_OPEN, "critical", FILE) == (found.id, found.level, found.on.path if found.on else None)
    assert 0.040 == pytest.approx(said[f"service[{APP}] waits for the disk within write: 40 calls x 1 ms"], rel=0.01)
    assert 4000 == said["written by them a request"]
    assert ["the call that opened it"] == [e.source for e in found.evidence if e.fact.startswith("file, open")]
    assert FSYNC_HEAVY in [cause.id for cause in verdict.causes]


def test_a_file_that_was_open_before_is_known_by_its_flags() -> None:
    """As they were read at the end; where they were not, the kernel's stacks alone are less sure."""
    by_stack, by_flags = syncing(flags=None), syncing(flags=None)
    by_flags.scene.rows["files"]["synced"] = [True]
    less, more = (every(files.verdict())[SYNC_OPEN] for files in (by_stack, by_flags))

    assert less.confidence < more.confidence
    assert "its open flags (/proc/PID/fdinfo)" in [evidence.source for evidence in more.evidence]


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(lambda: syncing(flags=CREATE), id="the file system is mounted so"),
        pytest.param(lambda: syncing(5), id="five writes"),
        pytest.param(lambda: syncing(wait_ns=50 * US, pause=MS), id="little of the time"),
    ],
)
def test_other_syncs_within_writes_are_not_the_files_flags(files: Callable[[], Files]) -> None:
    """They have another remedy, or none is needed."""
    assert SYNC_OPEN not in every(files().verdict())


def test_small_writes_of_a_thread_that_nobody_waits_for_are_no_such_habit() -> None:
    """The request makes one call on a file of its own; the other thread's 2000 writes cost it nothing."""
    files = small()
    first = files.scene.rows["syscalls"]["enter_ns"][-2000]
    files.scene.rows["syscalls"]["tid"][-2000:] = [APP + 1] * 2000
    files.scene.add(schema.TASKS, tid=APP + 1, pid=APP, comm="logger", kernel=False, watched_ns=files.scene.start)
    files.scene.add(
        schema.SYSCALLS, enter_ns=first, exit_ns=first + 2 * US, tid=APP, pid=APP, nr=READ, ret=8, arg0=4, arg2=8,
        dev=5, ino=301, file_type="reg",
    )  # fmt: skip
    verdict = files.verdict()

    assert WRITES not in every(verdict)
    assert not [spot for spot in verdict.blind_spots if spot.what == WRITES]
