"""Uninterruptible waits: the stage in the kernel stack, the journal's thread, the block request that ended them, or the
thread that let a lock of the kernel go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from culpa import syscalls
from culpa.model.axis import Bools, Int64s
from culpa.model.calls import Calls
from culpa.model.devices import BlockIndex
from culpa.model.kinds import HOLDER_UNKNOWN, NO_THING, NONE, OF_STAGE, Kind
from culpa.model.objects import Objects, Thing
from culpa.model.pieces import Pieces
from culpa.model.stages import HELD_BUFFER, SWAP_IN, VFORK, Stage
from culpa.model.timeline import Timeline
from culpa.model.writeback import QUEUE, SERVICE, Owned, Writeback

WITHOUT_DEVICE = Thing(stage="not at a device")
_ENDED_BY_OTHERS = (Kind.JOURNAL, Kind.THROTTLE, Kind.RECLAIM)
"""Waits whose end is another's doing, even if a block request of the waiter completes at that moment."""


class KernelWaits:
    """Explains the uninterruptible waits among the pieces."""

    def __init__(
        self, pieces: Pieces, timeline: Timeline, calls: Calls, blocks: BlockIndex, stages: Mapping[int, Stage],
        objects: Objects, writeback: Writeback, behind: Owned, throttled: Owned,
    ) -> None:  # fmt: skip
        self._pieces = pieces
        self._timeline = timeline
        self._calls = calls
        self._blocks = blocks
        self._stages = stages
        self._objects = objects
        self._writeback = writeback
        self._behind = behind
        self._throttled = throttled

    def explain(self, index: Int64s) -> None:
        """Name the stage, follow the journal's thread, and hand the rest to the devices.

        Args:
            index: pieces that are uninterruptible waits.
        """
        pieces = self._pieces
        self._name_stages(index)
        self._name_owners(index, self._throttled, Kind.THROTTLE)
        self._follow_journal(index)
        self._follow_holders(index[pieces.kind[index] == Kind.LOCK])
        self._follow_children(index[self._told(index, lambda stage: stage.label == VFORK)])
        others = np.isin(pieces.kind[index], _ENDED_BY_OTHERS) & ~self._at_device(index)
        served = (pieces.request[index] >= 0) & ~others
        self._name_faulting_files(index[served & (pieces.kind[index] == Kind.FAULT)])
        self._device_time(index[served])
        self._device_without_request(index[~served & (pieces.kind[index] == Kind.DEVICE)])

    def _name_stages(self, index: Int64s) -> None:
        stack = self._timeline.stack[self._pieces.segment[index]]
        for stack_id in np.unique(stack).tolist():
            stage = self._stages.get(stack_id)
            if stage is not None:
                lock = stage.kind == "lock"
                thing = Thing(lock=stage.label, stage=HOLDER_UNKNOWN) if lock else Thing(stage=stage.label)
                self._pieces.label(index[stack == stack_id], thing, OF_STAGE[stage.kind])

    def _told(self, index: Int64s, told: Callable[[Stage], bool]) -> Bools:
        """Pieces whose stack is at a stage of which that is so."""
        stack = self._timeline.stack[self._pieces.segment[index]]
        return np.isin(stack, [stack_id for stack_id, stage in self._stages.items() if told(stage)])

    def _at_device(self, index: Int64s) -> Bools:
        """Reclaim that waits until a device has taken what makes room."""
        return self._told(index, lambda stage: stage.kind == "reclaim" and stage.at_device)

    def _name_faulting_files(self, index: Int64s) -> None:
        """A page fault has no call that names its file; the request that ended it read that file."""
        pieces = self._pieces
        keys = np.column_stack([pieces.on[index], self._blocks.inodes[pieces.request[index]]])
        for on, dev, ino in np.unique(keys[keys[:, 2] > 0], axis=0).tolist():
            stage = pieces.things.all()[on].stage
            path = self._objects.file(dev, ino)
            pieces.label(index[(keys == (on, dev, ino)).all(axis=1)], Thing(path=path, stage=stage))

    def _follow_journal(self, index: Int64s) -> None:
        """A wait for the journal was spent on what the journal's thread did: the kernel thread that ended it."""
        pieces = self._pieces
        waker = self._timeline.waker[pieces.segment[index]]
        lanes = pieces.axis.lane(waker)
        kernel = np.isin(waker, list(self._objects.kernel_tids))
        held = self._held_by_journal(index)
        follow = (pieces.kind[index] == Kind.JOURNAL) & kernel & (lanes >= 0) & ~held
        pieces.next[index[follow]] = lanes[follow]
        # A wait that is still open has no waker yet: the thread that ended the other waits on that file system.
        dev = self._calls.dev(pieces.call[index])
        rest = (pieces.kind[index] == Kind.JOURNAL) & (waker < 0) & (dev >= 0) & ~held
        for number in np.unique(dev[rest]).tolist():
            known = np.unique(lanes[follow & (dev == number)])
            if len(known) == 1:
                pieces.next[index[rest & (dev == number)]] = known[0]

    def _follow_holders(self, index: Int64s) -> None:
        """A wait for a lock of the kernel ended when its holder let it go: mutexes and rwsems are handed on in the
        context of who unlocks them, never in that of an interrupt, and one that waits is not overtaken unless it is
        woken. Whoever sent a signal that ended the wait held nothing.
        """
        pieces, timeline, axis = self._pieces, self._timeline, self._pieces.axis
        waker = timeline.waker[pieces.segment[index]]
        lanes = axis.lane(waker)
        moment = axis.move(timeline.end[pieces.segment[index]] - 1, np.maximum(lanes, 0))
        act = np.where(lanes >= 0, self._calls.covering(moment), NONE)
        known = (waker > 0) & (waker != axis.tids[pieces.lane[index]])
        known &= ~self._calls.among(act, syscalls.SEND_SIGNAL)
        index, waker, lanes = index[known], waker[known], lanes[known]
        for number in np.unique(pieces.on[index]).tolist():
            thing = replace(pieces.things.all()[number], stage=None)
            pieces.label(index[pieces.on[index] == number], thing)
        pieces.next[index] = lanes
        pieces.owner[index[lanes < 0]] = waker[lanes < 0]

    def _follow_children(self, index: Int64s) -> None:
        """A wait for a child to begin its program was spent on what the child did: it ends the wait itself, as it
        executes or ends. Whoever kills the waiter, or the child, sends a signal.
        """
        pieces, timeline, axis = self._pieces, self._timeline, self._pieces.axis
        lanes = axis.lane(timeline.waker[pieces.segment[index]])
        moment = axis.move(timeline.end[pieces.segment[index]] - 1, np.maximum(lanes, 0))
        act = np.where(lanes >= 0, self._calls.covering(moment), NONE)
        other = timeline.pid[np.maximum(lanes, 0)] != timeline.pid[pieces.lane[index]]
        child = (lanes >= 0) & other & ~self._calls.among(act, syscalls.SEND_SIGNAL)
        pieces.label(index[child], Thing(syscall="vfork"))
        pieces.follow(index[child], lanes[child], Kind.PEER)

    def _held_by_journal(self, index: Int64s) -> Bools:
        """Waits for a buffer until the journal's write of it is done: an interrupt ends them, the journal's thread sent
        the write. They are that thread's, on that device, whether it was watched or not.
        """
        pieces, blocks = self._pieces, self._blocks
        held = self._told(index, lambda stage: stage.label == HELD_BUFFER)
        ours = index[held & (pieces.request[index] >= 0)]
        request = pieces.request[ours]
        for dev in np.unique(blocks.dev[request]).tolist():
            thing = Thing(device=self._objects.device(int(dev)), stage=HELD_BUFFER)
            pieces.label(ours[blocks.dev[request] == dev], thing)
        pieces.owner[ours] = blocks.tid[request]
        return held

    def _device_time(self, index: Int64s) -> None:
        """Until its request was handed to the device the wait was queueing, after that service; and behind whom."""
        pieces, blocks = self._pieces, self._blocks
        request = pieces.request[index]
        queued = pieces.start[index] < pieces.axis.place(pieces.lane[index], blocks.issue[request])
        for dev in np.unique(blocks.dev[request]).tolist():
            for stage, mask in ((QUEUE, queued), (SERVICE, ~queued)):
                here = index[(blocks.dev[request] == dev) & mask]
                self._put(here, self._pieces.things.intern(Thing(device=self._objects.device(int(dev)), stage=stage)))
        self._name_owners(index, self._behind, Kind.DEVICE)
        self._name_served(index[(pieces.owner[index] == NONE) & ~queued])

    def serve(self, index: Int64s) -> None:
        """Divide waits for block requests, of which it is known otherwise that they are such, into queue and service.

        Args:
            index: pieces with a request.
        """
        self._device_time(index)

    def _put(self, index: Int64s, thing: Int64s | int) -> None:
        """A device's time; one level down where it is part of a page fault or of reclaim."""
        pieces = self._pieces
        things = np.broadcast_to(np.asarray(thing, np.int64), len(index))
        fault = np.isin(pieces.kind[index], (Kind.FAULT, Kind.RECLAIM))
        pieces.via[index[fault]] = Kind.DEVICE
        pieces.via_on[index[fault]] = things[fault]
        pieces.kind[index[~fault]] = Kind.DEVICE
        pieces.on[index[~fault]] = things[~fault]

    def _name_owners(self, index: Int64s, owned: Owned, kind: Kind) -> None:
        """Pieces that lie in stretches spent on somebody's data."""
        pieces = self._pieces
        found = owned.spans.covering(pieces.start[index])
        here, row = index[found >= 0], owned.spans.row[found[found >= 0]]
        things = np.array([pieces.things.intern(thing) for thing in owned.things], np.int64)[owned.thing[row]]
        if kind is Kind.DEVICE:
            self._put(here, things)
        else:
            pieces.kind[here], pieces.on[here] = kind, things
        pieces.owner[here] = owned.owner[row]
        before = np.maximum(here - 1, 0)
        pieces.continues[here] = np.isin(before, here) & (pieces.segment[before] == pieces.segment[here]) & (here > 0)

    def _name_served(self, index: Int64s) -> None:
        """A kernel thread's own requests carry other people's data."""
        pieces = self._pieces
        kernel = np.isin(pieces.axis.tids[pieces.lane[index]], list(self._objects.kernel_tids))
        index = index[kernel]
        owner, things = self._writeback.served(pieces.request[index])
        theirs = ~np.isin(owner, [NONE, *self._objects.kernel_tids])
        numbers = np.array([pieces.things.intern(thing) for thing in things], np.int64)
        self._put(index[theirs], numbers[theirs])
        pieces.owner[index[theirs]] = owner[theirs]

    def _device_without_request(self, index: Int64s) -> None:
        """The stack names a device wait, no request was seen: the device of the call's file system, not split."""
        dev = self._calls.dev(self._pieces.call[index])
        for number in np.unique(dev[dev >= 0]).tolist():
            here = index[dev == number]
            for on in np.unique(self._pieces.on[here]).tolist():
                stage = self._pieces.things.all()[on].stage if on != NO_THING else None
                name = self._objects.device(int(number))
                self._pieces.label(here[self._pieces.on[here] == on], Thing(device=name, stage=stage))

    def wrap(self, index: Int64s) -> None:
        """Put pieces into the call they are part of: all explained time of a sync, kernel waits of other file I/O and
        of writes that sync. What a device does for memory stays part of that: the call merely touched it.

        Args:
            index: the same pieces as in `explain`.
        """
        pieces, calls = self._pieces, self._calls
        for_memory = index[self._told(index, lambda stage: stage.kind == "reclaim" or stage.label == SWAP_IN)]
        for_memory = for_memory[pieces.via[for_memory] != NONE]
        index = np.setdiff1d(index, for_memory)
        sync = calls.among(pieces.call, syscalls.SYNC) & (pieces.kind != Kind.UNEXPLAINED)
        within = np.setdiff1d(np.flatnonzero(sync), for_memory)
        pieces.wrap(within, Kind.FSYNC, self._file_or_call(pieces.call[within]))
        call = pieces.call[index]
        io = calls.among(call, syscalls.FILE_IO) & ~calls.is_socket(call)
        syncing = io & self._syncs(index) & (pieces.kind[index] != Kind.UNEXPLAINED)
        pieces.wrap(index[syncing], Kind.FSYNC, self._file_or_call(call[syncing]))
        io &= ~syncing
        pieces.wrap(index[io], Kind.IO, self._file_or_call(call[io]))
        self._set_apart(np.flatnonzero(np.isin(pieces.kind, (Kind.FAULT, Kind.RECLAIM))))

    def _set_apart(self, index: Int64s) -> None:
        """Page faults and reclaim of which no device is known (pauses, waits that last) stand beside those of which it
        is: what has parts holds no time of its own.
        """
        pieces = self._pieces
        keys = np.stack([pieces.lane[index], pieces.kind[index], pieces.on[index]], axis=1)
        _, number = np.unique(keys, axis=0, return_inverse=True)
        number, plain = number.reshape(-1), pieces.via[index] == NONE
        rest = index[plain & np.isin(number, number[~plain])]
        pieces.via[rest], pieces.via_on[rest] = pieces.kind[rest], pieces.things.intern(WITHOUT_DEVICE)

    def _syncs(self, index: Int64s) -> Bools:
        """Waits within calls that, by the stack of one of their waits, sync what they write."""
        told = self._told(index, lambda stage: stage.syncs)
        call = self._pieces.call[index]
        return np.isin(call, call[told & (call != NONE)])

    def _file_or_call(self, call: Int64s) -> Int64s:
        """Things: the call's file where it is known to lie on a disk, else the call itself."""
        answer = np.full(len(call), NO_THING, np.int64)
        dev, ino, nr = self._calls.dev(call), self._calls.ino(call), self._calls.nr(call)
        on_disk = np.append(self._calls.on_disk, False)[call] & (ino >= 0) & (dev >= 0)
        for key in np.unique(np.stack([dev[on_disk], ino[on_disk]], axis=1), axis=0).tolist():
            here = on_disk & (dev == key[0]) & (ino == key[1])
            answer[here] = self._pieces.things.intern(Thing(path=self._objects.file(key[0], key[1])))
        for number in np.unique(nr[answer == NO_THING]).tolist():
            name = self._calls.numbers.name(int(number)) if number != NONE else "an unknown call"
            answer[(answer == NO_THING) & (nr == number)] = self._pieces.things.intern(Thing(syscall=name))
        return answer
