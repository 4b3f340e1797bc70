"""Simulated time, CPUs and threads: who runs, who is runnable, who waits.

The lowest room of the simulator. A thread is a generator of steps: `Run` uses a CPU, `Pause` gives it up until
somebody wakes the thread. Events at the same instant happen in the order in which they were planned.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from culpa.sim.log import Cause, Log, Off
from culpa.sim.program import Machine, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Use a CPU for `ns` > 0."""

    ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Wait until woken; `state` is prev_state of sched_switch, the stack is for state 2."""

    cause: Cause
    state: int = 1
    stack: tuple[str, ...] | None = None


Steps = Generator[Run | Pause, None, None]


@dataclass(slots=True, kw_only=True)
class Task:
    """One thread while it is simulated."""

    tid: int
    steps: Steps
    cpu: int | None = None
    left_ns: int = 0
    ran_ns: int = 0
    waits: int = 0
    waiting: bool = False
    off: Off | None = None


@dataclass(slots=True, kw_only=True)
class Scheduler:
    """Runs tasks on the machine's CPUs up to `end_ns` and writes their states into `log`."""

    machine: Machine
    rng: random.Random
    log: Log
    now: int = 0
    tasks: dict[int, Task] = field(default_factory=dict)
    _events: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _planned: int = 0
    _queue: deque[Task] = field(default_factory=deque)
    _cpus: list[int | None] = field(default_factory=list)
    _last: list[int | None] = field(default_factory=list)

    def draw(self, span: Span) -> int:
        """A number of nanoseconds from an inclusive range."""
        return self.rng.randint(*span)

    def after(self, ns: int, action: Callable[[], None]) -> None:
        """Do something `ns` from now."""
        self._planned += 1
        heapq.heappush(self._events, (self.now + ns, self._planned, action))

    def spawn_at(self, start_ns: int, tid: int, steps: Steps) -> None:
        """A thread that becomes runnable for the first time at `start_ns`."""
        task = self.tasks[tid] = Task(tid=tid, steps=steps)
        self.after(start_ns - self.now, lambda: self._first(task))

    def _first(self, task: Task) -> None:
        tid = task.tid
        task.off = Off(tid=tid, off_ns=self.now, wake_ns=self.now, state=1, cause=Cause(kind="idle"))
        self.log.offs[tid].append(task.off)
        self._enqueue(task)

    def run(self, end_ns: int) -> None:
        """Let time pass."""
        self._cpus = [None] * self.machine.cpus
        self._last = [None] * self.machine.cpus
        while self._events and self._events[0][0] < end_ns:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = self.log.end_ns = end_ns

    def running(self) -> list[int]:
        """The threads on a CPU now."""
        return [tid for tid in self._cpus if tid is not None and self.log.states[tid][-1][1] == "running"]

    def wake(self, tid: int, waker: int | None) -> None:
        """Make a waiting thread runnable; nothing if it does not wait."""
        task = self.tasks[tid]
        if not task.waiting:
            return
        assert task.off is not None
        task.waiting = False
        task.off.wake_ns = self.now
        task.off.waker = waker
        self._enqueue(task)

    def waits_for(self, tid: int) -> Cause | None:
        """What a thread waits for now; None if it does not wait."""
        task = self.tasks[tid]
        return task.off.cause if task.waiting and task.off is not None else None

    def wake_later(self, tid: int, ns: int, waker: Callable[[], int | None], fired: Callable[[], None]) -> None:
        """A timer for the wait that the thread is about to begin; void once that wait has ended."""
        task = self.tasks[tid]
        wait = task.waits + 1

        def fire() -> None:
            if task.waiting and task.waits == wait:
                fired()
                self.wake(tid, waker())

        self.after(ns, fire)

    def interrupted(self) -> int | None:
        """Whoever an interrupt happens to hit: a running thread, or nobody."""
        return self.rng.choice([*self.running(), None])

    def _enqueue(self, task: Task) -> None:
        self._note(task, "runnable")
        self._queue.append(task)
        self._fill(self.draw(self.machine.wake_ns))

    def _fill(self, delay_ns: int) -> None:
        """Give idle CPUs to the threads that wait for one; an idle CPU takes a moment to come up."""
        for cpu, occupant in enumerate(self._cpus):
            if occupant is None and self._queue:
                task = self._queue.popleft()
                self._cpus[cpu] = task.tid
                self.after(delay_ns, lambda task=task, cpu=cpu: self._switch_in(task, cpu))  # type: ignore[misc]  # bound now

    def _switch_in(self, task: Task, cpu: int) -> None:
        assert task.off is not None
        task.off.on_ns, task.off.cpu, task.off.prev_tid = self.now, cpu, self._last[cpu]
        task.off, task.cpu, task.ran_ns = None, cpu, 0
        self._note(task, "running")
        self._step(task)

    def _step(self, task: Task) -> None:
        """Go on with a running thread until it uses time, waits, or has had its slice while others want the CPU."""
        while task.left_ns == 0:
            step = next(task.steps)
            if isinstance(step, Pause):
                self._switch_out(
                    task, Off(tid=task.tid, off_ns=self.now, state=step.state, stack=step.stack, cause=step.cause)
                )
                return
            task.left_ns = step.ns
        if task.ran_ns >= self.machine.slice_ns:
            if self._queue:
                self._switch_out(task, Off(tid=task.tid, off_ns=self.now, state=0))
                return
            task.ran_ns = 0
        stretch = min(task.left_ns, self.machine.slice_ns - task.ran_ns)
        self.after(stretch, lambda: self._stretch_over(task, stretch))

    def _stretch_over(self, task: Task, stretch_ns: int) -> None:
        task.left_ns -= stretch_ns
        task.ran_ns += stretch_ns
        self._step(task)

    def _switch_out(self, task: Task, off: Off) -> None:
        assert task.cpu is not None
        cpu, task.cpu, task.off = task.cpu, None, off
        self.log.offs[task.tid].append(off)
        self._cpus[cpu], self._last[cpu] = None, task.tid
        if off.cause is None:
            self._note(task, "runnable")
            self._queue.append(task)
        else:
            task.waiting, task.waits = True, task.waits + 1
            self._note(task, "waiting")
        self._fill(0)

    def _note(self, task: Task, state: str) -> None:
        self.log.states[task.tid].append((self.now, state))  # type: ignore[arg-type]  # one of the three literals
