"""Something conspicuous goes on, and what is asked about has no part in it: it is sound, or slow for another reason,
which must be named alone.

What goes on is a program or two beside a service of `errands`. None of it is on the service's way: it wants another
disk, another lock, other memory, another server, or the time that nobody else does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from culpa.labs import (
    app_keys,
    cpu_runqueue,
    disk_full,
    errands,
    loopdev,
    mem_swap,
    ports,
    proc_stopped,
    redis_server,
    slowdisk,
    stand,
    tunnel,
    word_pop,
)
from culpa.labs.errands import AGAIN, ASK, COUNT, FETCH, NAME, REST, SYNC, WELL, Errand, Slow
from culpa.labs.lab import Conditions, Lab, Need, Played
from culpa.labs.site import Program, opened

FAST = {"herring-hog", "herring-lock", "herring-log"}
"""Run with all others in CI."""
NICEST = 19
HOLDERS = 3
HOLD_S = (0.1, 0.3)
STOPPED_MS, GOING_MS = (300, 450), (40, 60)
LOST = 0.6
"""Of the copies of a question."""
KEYS, KEYS_EVERY_MS = 200_000, 250
LOG_MIB, LOG_EVERY_S = 64, 0.2
HOLD = 'while :; do flock "$1" sleep "$2"; done'
"""A shell's way to hold a lock for a while, again and again."""
LOGGED = 'while :; do dd if=/dev/zero of="$1" bs=1M count="$2" conv=notrunc status=none; sleep "$3"; done'
"""A file written over through the page cache, which takes it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Herring:
    """What goes on beside the errand; `begin` starts it once the service is up, `before` sooner. `sound`: the errand is
    done as it should be. `slow`: the disk beside it, where the errand wants none. `silent`: what it might be taken for.
    """

    name: str
    errand: Errand
    silent: tuple[str, ...]
    begin: Callable[[stand.Stand], list[Program]]
    sound: bool = False
    needs: tuple[Need, ...] = ()
    slow: Slow | None = None

    def play(self, conditions: Conditions) -> Played:
        """The errand, and what goes on beside it to the end."""
        with opened(conditions.progress) as here:
            office = errands.opened(here, conditions, (self.errand,), self.slow)
            beside = self.begin(office.case)
            word = self.errand.word
            if self.sound:
                played = office.case.sound(word + WELL)
            else:
                truth = office.truth(fix=f"do {word} as it should be done")
                played = office.case.troubled(word, truth, repaired=word + WELL)
            for program in beside:
                program.require_running()
            return played


def _python(case: stand.Stand, app: str, *arguments: str, name: str = "") -> Program:
    """A Python program of `labs/apps`."""
    here = case.site
    return here.start([sys.executable, str(stand.copied(here, app, app)), *arguments], name=name or Path(app).stem)


def _asked(case: stand.Stand, url: str) -> Program:
    """A client that asks all the time."""
    return _python(case, "asker.py", url)


def _copier(case: stand.Stand) -> list[Program]:
    """A program that fills the disk's time."""
    return [word_pop.keep_busy(case)]


def _hog(case: stand.Stand) -> list[Program]:
    """A program for every CPU, which yields to everybody."""
    burn = _python(case, "burn.py", str(len(os.sched_getaffinity(0))))
    cpu_runqueue.yield_to_others(burn.pid, NICEST)
    burn.wait_ready()
    return [burn]


def _full(case: stand.Stand) -> list[Program]:
    """A depot that finds no room, in a place of its own, and somebody who asks it to try."""
    depot, _, _ = disk_full.raised(case.site, case.conditions, name="depot")
    return [depot.app, _asked(case, f"{depot.url}/here")]


def _swap(case: stand.Stand) -> list[Program]:
    """A program whose memory lies in swap; nobody looks into it."""
    vault, _ = mem_swap.pushed_out(case.site, case.conditions)
    return [vault.case.app]


def _stopped(case: stand.Stand) -> list[Program]:
    """A neighbour that somebody stops all the time."""
    chance = case.conditions.parameters.chance("herring-stopped")
    clock = case.site.start(["sh", "-c", "while :; do sleep 0.01; done"], name="neighbour")
    times = (chance.randrange(*STOPPED_MS), chance.randrange(*GOING_MS))
    return [clock, proc_stopped.pauser_of(case, clock.pid, *times)]


def _lossy(case: stand.Stand) -> list[Program]:
    """A neighbour that asks over a way on which questions get lost."""
    here, parameters, port = case.site, case.conditions.parameters, ports.free_port()
    loss = tunnel.Loss(port=port, what="question", chance=LOST, seed=parameters.seed)
    clean = ports.free_port()
    host = here.stack.enter_context(tunnel.distant_host(here, port=clean, pause_s=0.1, loss=loss))
    disk = slowdisk.ordinary_disk(here)
    front = stand.raised(here, case.conditions, app="front", on=disk, arguments=(tunnel.THERE, str(port)))
    return [host, front.app, _asked(case, f"{front.url}/now")]


def _redis(case: stand.Stand) -> list[Program]:
    """Another Redis server, and a client of it that asks for all its keys."""
    folder = case.site.directory / "other"
    folder.mkdir()
    other = redis_server.start(case.site, folder)
    other.client.eval(app_keys.FILL_KEYS, 1, "key", str(KEYS))
    load = _python(case, "redis_load.py", str(other.port), str(KEYS_EVERY_MS), "ask", "KEYS", "key:1*0")
    load.wait_ready()
    return [other.program, load]


def _lock(case: stand.Stand) -> list[Program]:
    """Some programs that hold the lock of a file in turn."""
    hold_s = f"{case.conditions.parameters.chance('herring-lock').uniform(*HOLD_S):.3f}"
    file = case.disk.directory / "lock"
    return [case.site.start(["sh", "-c", HOLD, "sh", str(file), hold_s], name=f"holder-{n}") for n in range(HOLDERS)]


def _log(case: stand.Stand) -> list[Program]:
    """A program that writes a large log, which the page cache takes."""
    argv = ["sh", "-c", LOGGED, "sh", str(case.disk.directory / "log"), str(LOG_MIB), str(LOG_EVERY_S)]
    return [case.site.start(argv, name="logger")]


def _syncs(case: stand.Stand) -> list[Program]:
    """A neighbour that syncs row by row on the slow disk."""
    rows, port = str(case.conditions.parameters.write_iops), ports.free_port()
    book = case.disk.directory / "neighbours-book"
    argv = [loopdev.tool("perl") or "perl", str(case.app_file), str(port), f"book={book}", f"rows={rows}"]
    here, perl = case.site, case.app_file
    neighbour = stand.served(here, case.conditions, argv, file=perl, port=port, on=case.disk, name="neighbour")
    return [neighbour.app, _asked(case, f"{neighbour.url}/{SYNC.word}")]


SLOW_DISK = errands.SLOW_DISK
HERRINGS = (
    Herring(name="disk", errand=REST, begin=_copier, slow=errands.few_bytes, needs=SLOW_DISK,
        silent=("disk.neighbour", "disk.saturated", "mem.dirty-throttle")),
    Herring(name="disk-sound", errand=AGAIN, begin=_copier, slow=errands.few_bytes, needs=SLOW_DISK, sound=True,
        silent=("disk.neighbour", "disk.saturated", "disk.slow-device", "mem.dirty-throttle")),
    Herring(name="hog", errand=ASK, begin=_hog, silent=("cpu.runqueue", "cpu.busy")),
    Herring(name="full", errand=FETCH, begin=_full, needs=("root", "loop"), silent=("fs.full", "sleep.by-choice")),
    Herring(name="swap", errand=NAME, begin=_swap, needs=("root", "slow-disk", "swap"),
        silent=("mem.swap", "mem.cgroup-limit", "mem.reclaim")),
    Herring(name="stopped", errand=AGAIN, begin=_stopped, silent=("proc.stopped", "sleep.by-choice")),
    Herring(name="lossy", errand=SYNC, begin=_lossy, needs=("root", "ip", "tun"),
        silent=("net.loss", "net.remote-slow")),
    Herring(name="redis", errand=FETCH, begin=_redis, needs=("redis-server",),
        silent=("redis.command.slow", "app.redis.slow-command", "redis.bigkey.read")),
    Herring(name="lock", errand=COUNT, begin=_lock, silent=("lock.contention", "sleep.by-choice")),
    Herring(name="log", errand=ASK, begin=_log, silent=("app.log.flood", "mem.dirty-throttle", "disk.saturated")),
    Herring(name="syncs", errand=NAME, begin=_syncs, slow=errands.few_writes, needs=SLOW_DISK,
        silent=("disk.fsync-heavy", "disk.neighbour", "fs.journal-wait")),
    Herring(name="syncs-sound", errand=AGAIN, begin=_syncs, slow=errands.few_writes, needs=SLOW_DISK, sound=True,
        silent=("disk.fsync-heavy", "disk.neighbour", "fs.journal-wait", "app.io.rereads")),
)  # fmt: skip


def _lab(herring: Herring) -> Lab:
    name, needs = f"herring-{herring.name}", (*errands.needs(herring.errand), *herring.needs)
    return Lab(
        name=name, family="herring", needs=tuple(dict.fromkeys(needs)), play=herring.play, silent=herring.silent,
        fires=() if herring.sound else (herring.errand.cause,), fast=herring.sound or name in FAST,
    )  # fmt: skip


RED_HERRINGS = tuple(_lab(herring) for herring in HERRINGS)
