"""Troubles that one service in Perl can have in a request, each by itself or several one after the other.

An `Errand` is a part of a request (`apps/errands.pl`), what makes it slow here, and what culpa must say of it; an
`Office` is the service with all that its errands need. `host_doubles` has two troubles in a request, `red_herrings` one
or none beside something conspicuous.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from culpa.diagnose.verdict import NodeKind
from culpa.labs import (
    cache_lost,
    loopdev,
    name_lookup,
    ports,
    redis_server,
    slowdisk,
    stand,
    throttle,
    tunnel,
    unlink_big_file,
    word_pop,
)
from culpa.labs.fsync_loop import FSYNC_HEAVY, SEEN_FROM_BELOW
from culpa.labs.lab import Conditions, Need, Truth, TruthOn, TruthStep
from culpa.labs.name_lookup import NAME_LOOKUP
from culpa.labs.remote_slow import REMOTE_SLOW
from culpa.labs.rereads import REREADS
from culpa.labs.site import Site
from culpa.labs.sleep_by_choice import SLEEP
from culpa.labs.sync_open import SYNC_OPEN
from culpa.labs.unlink_big_file import UNLINK
from culpa.labs.word_pop import MIB, TEMP_CHURN

WELL = "_well"
"""After an errand's name: done as it should be."""
COLD_REQUESTS = 16
"""That find files that nobody has read yet."""
SPOOLED = 40
"""Requests that find a job to delete."""
Slow = Callable[[Conditions, random.Random], slowdisk.Slowness]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where an errand gets what it needs; all that is made is undone with the site."""

    site: Site
    conditions: Conditions
    chance: random.Random
    disk: slowdisk.Disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What an errand was given: settings of the service, what its cause is about, the chain below the service's own
    step, and a command to start the service by, if it needs one.
    """

    settings: Mapping[str, str]
    on: TruthOn | None = None
    below: tuple[TruthStep, ...] = ()
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A part of a request. `kind`: of the service's own step in the chain, if it has one. `slow`: the disk that it
    needs. `of_process`: whether the cause names the service's process.
    """

    word: str
    cause: str
    kind: NodeKind | None
    give: Callable[[Ground], Given]
    may: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    slow: Slow | None = None
    of_process: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """The running service, and what each errand was given."""

    case: stand.Stand
    errands: tuple[Errand, ...]
    given: tuple[Given, ...] = field(repr=False)

    def truth(self, *, fix: str) -> Truth:
        """That all of its errands are in trouble, in whichever order."""
        pid, kind = self.case.app.pid, self.errands[0].kind
        return Truth(
            causes=tuple(errand.cause for errand in self.errands),
            any_order=len(self.errands) > 1,
            may=tuple(cause for errand in self.errands for cause in errand.may),
            who=tuple(stand.who(errand.cause, pid) for errand in self.errands if errand.of_process),
            on=tuple(given.on for given in self.given if given.on is not None),
            path=(*((TruthStep(kind=kind, pid=pid),) if kind else ()), *self.given[0].below),
            fix=fix,
        )


def needs(*errands: Errand) -> tuple[Need, ...]:
    """What the errands need, each once."""
    return tuple(dict.fromkeys(("trace", "perl", *(need for errand in errands for need in errand.needs))))


def opened(here: Site, conditions: Conditions, errands: tuple[Errand, ...], slow: Slow | None = None) -> Office:
    """Start a service that can do all of these; `slow` makes the disk in place of that of an errand.

    Raises:
        LabError: something that it needs cannot be had here.
    """
    chance = conditions.parameters.chance("-".join(("errands", *(errand.word for errand in errands))))
    disk = _disk(here, conditions, chance, slow or next((errand.slow for errand in errands if errand.slow), None))
    ground = Ground(site=here, conditions=conditions, chance=chance, disk=disk)
    given = tuple(errand.give(ground) for errand in errands)
    settings = [f"{name}={value}" for one in given for name, value in one.settings.items()]
    conditions.progress(f"errands of {' and '.join(errand.word for errand in errands)}: {' '.join(settings)}")
    file, port = stand.copied(here, "errands.pl", "errands.pl"), ports.free_port()
    by = [word for one in given for word in one.by]
    argv = [*by, loopdev.tool("perl") or "perl", str(file), str(port), *settings]
    case = stand.served(here, conditions, argv, file=file, port=port, on=disk, name="office")
    return Office(case=case, errands=errands, given=given)


def _disk(here: Site, conditions: Conditions, chance: random.Random, slow: Slow | None) -> slowdisk.Disk:
    if slow is None:
        return slowdisk.ordinary_disk(here)
    slowness = slow(conditions, chance)
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    conditions.progress(f"slow disk: {disk.device} on {disk.directory}, {slowness.rate}")
    return disk


def few_writes(conditions: Conditions, _: random.Random) -> slowdisk.Slowness:
    """As many writes a second as the run's parameters say."""
    return slowdisk.Slowness(rate=throttle.Rate(per_second=conditions.parameters.write_iops))


def few_bytes(_: Conditions, chance: random.Random) -> slowdisk.Slowness:
    """A few megabytes a second, and few dirty pages."""
    rate = throttle.Rate(per_second=chance.randrange(4 * MIB, 6 * MIB), unit="bytes")
    return slowdisk.Slowness(rate=rate, dirty_bytes=2 * MIB, image_bytes=slowdisk.FLOOD_IMAGE_BYTES)


def few_reads(_: Conditions, __: random.Random) -> slowdisk.Slowness:
    """So few reads a second that a pause before saves up next to none."""
    rate = throttle.Rate(per_second=unlink_big_file.READ_IOPS, unit="reads")
    return slowdisk.Slowness(rate=rate, image_bytes=unlink_big_file.IMAGE_BYTES)


def _rows(ground: Ground, cause: str) -> Given:
    """Rows that are synced one by one, some tenths of a second of them."""
    rows = int(ground.chance.uniform(0.08, 0.13) * ground.conditions.parameters.write_iops)
    book = ground.disk.directory / f"book-{ground.chance.randrange(10**6)}"
    at_device = (TruthStep(kind="device", device=ground.disk.device_name),)
    return Given(
        settings={"book": str(book), "rows": str(rows)}, on=TruthOn(cause=cause, path=str(book.resolve())),
        below=at_device,
    )  # fmt: skip


def _peer(ground: Ground) -> Given:
    port, pause_ms = ports.free_port(), ground.chance.randrange(300, 500)
    ground.site.stack.enter_context(tunnel.distant_host(ground.site, port=port, pause_s=pause_ms / 1000))
    peer = f"{tunnel.THERE}:{port}"
    return Given(settings={"host": tunnel.THERE, "peer": str(port)}, on=TruthOn(cause=REMOTE_SLOW, peer=peer))


def _visits(ground: Ground) -> Given:
    files, size = ground.chance.randrange(60, 90), ground.chance.randrange(40_000, 60_000)
    folder = ground.disk.directory / "visits"
    folder.mkdir()
    settings = {"folder": str(folder), "files": str(files), "bytes": str(size)}
    return Given(settings=settings, on=TruthOn(cause=TEMP_CHURN, path=f"{folder.resolve()}/<hex>/page-*.tmp"))


def _pause(ground: Ground) -> Given:
    return Given(settings={"rest": str(ground.chance.randrange(300, 500) / 1000)})


def _domain(ground: Ground) -> Given:
    server, by = name_lookup.registered(ground.site, ground.chance)
    domain = f"lines{ground.chance.randrange(10**6)}.test"
    return Given(settings={"domain": domain}, on=TruthOn(cause=NAME_LOOKUP, peer=f"{server}:53"), by=tuple(by))


def _shelves(ground: Ground) -> Given:
    folder, each = ground.disk.directory / cache_lost.SHELVES, ground.chance.randrange(50, 70)
    cache_lost.fill(folder, each * COLD_REQUESTS)
    device = ground.disk.device_name
    return Given(
        settings={"shelves": str(folder), "each": str(each)},
        on=TruthOn(cause=cache_lost.SLOW_DEVICE, device=device),
        below=(TruthStep(kind="device", device=device),),
    )


def _table(ground: Ground) -> Given:
    table = ground.disk.directory / "table"
    table.write_bytes(ground.chance.randbytes(ground.chance.randrange(1_500_000, 2_500_000)))
    times = ground.chance.randrange(500, 700)
    return Given(
        settings={"table": str(table), "times": str(times)}, on=TruthOn(cause=REREADS, path=str(table.resolve()))
    )


def _jobs(ground: Ground) -> Given:
    folder = ground.disk.directory / unlink_big_file.SPOOL
    unlink_big_file.spooled(ground.disk, folder, jobs=SPOOLED, pieces=ground.chance.randrange(8_000, 14_000))
    return Given(
        settings={"spool": str(folder)}, on=TruthOn(cause=UNLINK, path=f"{folder.resolve()}/job-*"),
        below=(TruthStep(kind="device", device=ground.disk.device_name),),
    )  # fmt: skip


def _rounds(ground: Ground) -> Given:
    return Given(settings={"rounds": str(ground.chance.randrange(6_000_000, 9_000_000))})


def _store(ground: Ground) -> Given:
    server, keys = redis_server.start(ground.site, ground.site.directory), ground.chance.randrange(7_000, 9_000)
    server.client.mset({f"item:{number:06}": number for number in range(1, keys + 1)})
    return Given(
        settings={"store": str(server.port), "keys": str(keys)}, below=(TruthStep(kind="peer", pid=server.pid),)
    )


SLOW_DISK: tuple[Need, ...] = ("root", "slow-disk")
SYNC = Errand(
    word="sync", cause=FSYNC_HEAVY, kind="fsync", give=lambda ground: _rows(ground, FSYNC_HEAVY),
    may=SEEN_FROM_BELOW, needs=SLOW_DISK, slow=few_writes,
)  # fmt: skip
KEEP = Errand(
    word="keep", cause=SYNC_OPEN, kind="fsync", give=lambda ground: _rows(ground, SYNC_OPEN),
    may=(FSYNC_HEAVY, *SEEN_FROM_BELOW), needs=SLOW_DISK, slow=few_writes,
)  # fmt: skip
ASK = Errand(word="ask", cause=REMOTE_SLOW, kind="remote", give=_peer, needs=("root", "ip", "tun"))
CHURN = Errand(
    word="churn", cause=TEMP_CHURN, kind="io", give=_visits, may=word_pop.FLOOD_FROM_BELOW, needs=SLOW_DISK,
    slow=few_bytes,
)  # fmt: skip
REST = Errand(word="rest", cause=SLEEP, kind="sleep", give=_pause)
NAME = Errand(word="name", cause=NAME_LOOKUP, kind="remote", give=_domain, needs=("root",))
COLD = Errand(
    word="cold", cause=cache_lost.SLOW_DEVICE, kind="io", give=_shelves, may=("disk.cgroup-throttle",),
    needs=SLOW_DISK, slow=few_reads, of_process=False,
)  # fmt: skip
AGAIN = Errand(word="again", cause=REREADS, kind="running", give=_table, may=("cpu.busy", "cpu.runqueue"))
DROP = Errand(
    word="drop", cause=UNLINK, kind="io", give=_jobs, may=unlink_big_file.SEEN_FROM_BELOW, needs=SLOW_DISK,
    slow=few_reads,
)  # fmt: skip
COUNT = Errand(word="count", cause="cpu.busy", kind="running", give=_rounds, may=("cpu.runqueue",))
FETCH = Errand(
    word="fetch", cause="app.redis.round-trips", kind=None, give=_store, may=("cpu.busy", "cpu.runqueue"),
    needs=("redis-server",),
)  # fmt: skip
