"""What rules say of large files that are deleted and of pages that are read again, on scenes whose times are chosen."""

from __future__ import annotations

import pytest
from scene import APP, MS, READ, US, Scene

from culpa.capture import schema
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict

DISK, INO, OTHER_INO, SWEEPER, READING = 5, 300, 301, 800, 21
UNLINK, FTRUNCATE = 87, 77
MIB = 1 << 20
FILE = "/srv/spool/job"
UNLINKED, LOST = "fs.unlink-big-file", "mem.cache-lost"


def found(verdict: Verdict, name: str) -> Cause | None:
    """The cause of that id, a head or under one."""
    every = (one for head in verdict.causes for one in (head, *head.because))
    return next((one for one in every if one.id == name), None)


def facts(cause: Cause) -> dict[str, object]:
    return {evidence.fact: evidence.value for evidence in cause.evidence}


def begun() -> Scene:
    """A request that was just read."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    scene.add(schema.FILES, dev=DISK, ino=INO, path=FILE)
    scene.add(schema.STACKS, stack_id=READING, frames=["io_schedule", "folio_wait_bit_common", "filemap_get_pages"])
    scene.add(schema.TASKS, tid=SWEEPER, pid=SWEEPER, comm="sweeper", kernel=False)
    scene.add(schema.PROCESSES, pid=SWEEPER, comm="sweeper")
    return scene


def judged(scene: Scene) -> Verdict:
    scene.answer()
    return judge(scene.capture())


# Deleting ------------------------------------------------------------------------------------------------------


def deletes(scene: Scene, ns: int, freed: int | None, *, nr: int = UNLINK, after: int = US, tid: int = APP) -> None:
    """A call of this length, all of it computing, that gives back as many bytes `after` it began."""
    start, on_file = scene.now, nr == FTRUNCATE
    scene.add(
        schema.SYSCALLS, enter_ns=start, exit_ns=start + ns, tid=tid, pid=tid, nr=nr, ret=0, arg0=3, arg1=0, arg2=0,
        dev=DISK if on_file else None, ino=INO if on_file else None, file_type="reg" if on_file else None,
    )  # fmt: skip
    if freed is not None:
        scene.add(
            schema.FREED, from_ns=start + after, to_ns=start + after, tid=tid, pid=tid, dev=DISK, ino=INO, generation=1,
            disk=DISK, bytes=freed,
        )  # fmt: skip
    if tid == APP:
        scene.now += ns


@pytest.mark.parametrize("nr", [UNLINK, FTRUNCATE])
def test_a_large_file_that_is_freed_in_a_call_is_named_with_its_size(nr: int) -> None:
    """200 of about 203 ms, from a millisecond after the call began."""
    scene = begun()
    deletes(scene, 201 * MS, 300 * MIB, nr=nr, after=MS)
    verdict = judged(scene)
    cause = verdict.causes[0]
    name = "unlink" if nr == UNLINK else "ftruncate"
    assert (UNLINKED, "critical", APP) == (cause.id, cause.level, cause.who.pid if cause.who else None)
    assert cause.on is not None
    assert (FILE, name) == (cause.on.path, cause.on.syscall)
    said = facts(cause)
    assert 0.2 == pytest.approx(said[f"service[{APP}] in 1 calls of {name} that free large files"])
    assert 300 * MIB == said["space given back by them"] == said["by the largest"]


@pytest.mark.parametrize(
    ("calls", "ns", "freed", "after"),
    [
        pytest.param(1, 200 * MS, MIB, US, id="a small file, however long it takes"),
        pytest.param(1, 200 * MS, None, US, id="nothing is given back: it has another name or is still open"),
        pytest.param(1, 200 * MS, 300 * MIB, 199 * MS, id="it waited for something else before"),
        pytest.param(40, 5 * MS, 20 * MIB, US, id="many calls of 5 ms"),
    ],
)
def test_calls_that_delete_and_take_their_time_for_other_reasons_are_not_named(
    calls: int, ns: int, freed: int | None, after: int
) -> None:
    scene = begun()
    for _ in range(calls):
        deletes(scene, ns, freed, after=after)
    assert found(judged(scene), UNLINKED) is None


def test_a_large_file_that_another_program_deletes_is_acquitted() -> None:
    """The request computes for 200 ms meanwhile: told among what it was not."""
    scene = begun()
    deletes(scene, 50 * MS, 300 * MIB)
    deletes(scene, 1, None, tid=SWEEPER)
    scene.compute(2_000 * MS)
    verdict = judged(scene)
    assert found(verdict, UNLINKED) is None
    acquitted = {one.resource: one for one in verdict.ruled_out}
    assert "not waited for" == acquitted["deleting large files"].verdict
    assert 300 * MIB == acquitted["deleting large files"].evidence[0].value


# Pages that are read again -------------------------------------------------------------------------------------


OPENAT = 257


def finds(scene: Scene, places: int, *, size: int = 128 << 10) -> None:
    """The file is opened, and so many times 128 kB are read from memory."""
    scene.call(APP, OPENAT, scene.now, scene.now + US, ino=INO, kind="reg", ret=3, dev=DISK)
    for _ in range(places):
        scene.now += 2 * US
        scene.call(APP, READ, scene.now, scene.now + US, ino=INO, kind="reg", ret=size, dev=DISK)
    scene.now += 2 * US


def reads(scene: Scene, sector: int, *, ino: int = INO, ns: int = 20 * MS, size: int = 128 << 10) -> None:
    """A read call that waits until the disk has brought 128 kB from there."""
    start = scene.now
    off, wake = start + US, start + ns - 2 * US
    scene.call(APP, READ, start, start + ns, ino=ino, kind="reg", ret=size, dev=DISK)
    scene.sleep(APP, off, wake, wake + US, state=2, stack=READING)
    scene.add(
        schema.BLOCKS, queued_ns=off, issue_ns=off, complete_ns=wake - 5 * US, dev=DISK, sector=sector, bytes=size,
        op="read", sync=True, tid=APP, pid=APP, ino_dev=DISK, ino=ino, generation=1,
    )  # fmt: skip
    scene.now = start + ns


def swept(scene: Scene, *, ino: int = INO, tid: int = SWEEPER, size: int = 10 * MIB) -> None:
    """Pages of the file leave the page cache."""
    scene.now += MS
    scene.add(
        schema.UNCACHED, from_ns=scene.now - MS, to_ns=scene.now, tid=tid, pid=tid, dev=DISK, ino=ino, generation=1,
        disk=DISK, bytes=size,
    )  # fmt: skip


PLACES = tuple(range(0, 10 * 256, 256))


def twice(*, between: bool = True, ino: int = INO, tid: int = SWEEPER, shift: int = 0) -> Verdict:
    """Ten places are read, perhaps swept, and read again, `shift` sectors further on."""
    scene = begun()
    for sector in PLACES:
        reads(scene, sector)
    if between:
        swept(scene, ino=ino, tid=tid)
    for sector in PLACES:
        reads(scene, sector + shift)
    return judged(scene)


@pytest.mark.parametrize("shift", [0, 64])
def test_what_was_in_memory_and_was_taken_out_is_named_with_who_did_it(shift: int) -> None:
    """The second half of 400 ms; also where what is read ahead begins a quarter later."""
    verdict = twice(shift=shift)
    cause = found(verdict, LOST)
    assert cause is not None
    assert cause.who is not None
    assert (SWEEPER, FILE) == (cause.who.pid, cause.on.path if cause.on else None)
    assert 0.2 == pytest.approx(cause.share * verdict.root.seconds, abs=0.002)
    said = facts(cause)
    again = said["read from the device again, after it had been read before"]
    assert 10 * (128 << 10) - shift * 512 == again
    assert 10 * MIB == said["taken out of the page cache by sweeper[800]"]


@pytest.mark.parametrize(("known", "named"), [(10, True), (2, False)])
def test_what_was_found_in_memory_before_and_is_brought_from_the_disk_once_is_named(*, known: int, named: bool) -> None:
    """Ten places of the file that were read without a wait, or two of them; then all ten come from the disk."""
    scene = begun()
    finds(scene, known)
    swept(scene)
    finds(scene, 0)
    for sector in PLACES:
        reads(scene, sector)
    cause = found(judged(scene), LOST)
    assert named == (cause is not None and cause.level != "note" and cause.share > 0.9)
    assert named or cause is None or cause.share < 0.25


def test_the_reader_itself_is_named_if_it_did_it() -> None:
    """It is then its own habit, and the title says so."""
    cause = found(twice(tid=APP), LOST)
    assert cause is not None
    assert APP == (cause.who.pid if cause.who else None)
    assert cause.title.endswith("by itself")


@pytest.mark.parametrize(
    ("between", "ino", "shift"),
    [
        pytest.param(False, INO, 0, id="nobody took anything out: it was not read through the page cache"),
        pytest.param(True, OTHER_INO, 0, id="pages of another file left"),
        pytest.param(True, INO, 10 * 256, id="the second half reads what nobody read before"),
    ],
)
def test_reads_that_miss_nothing_memory_held_are_not_named(between: bool, ino: int, shift: int) -> None:
    assert found(twice(between=between, ino=ino, shift=shift), LOST) is None
