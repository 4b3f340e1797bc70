"""Measure the victim with a fix off and on, and take the fix back where that makes it worse.

`verify` measures before and after one change: what lies between the two may be the fix, or drift. `alternate` turns the
fix off and on in blocks of drawn order, which is what can tell one from the other. Both watch while the fix is in
place, and undo it by themselves when questions fail, one gets stuck, or the p99 rises by more than 5 % beyond noise.
However they end, `Measured.undone` or an open record says how the target stands.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from culpa.errors import CulpaError, Interrupted
from culpa.fix import alternation
from culpa.fix.alternation import Contrast
from culpa.fix.measuring import Alarm, Probe, Stretch, Watch, alarm
from culpa.fix.run import Undone
from culpa.fix.switch import Disturbed, Switch
from culpa.units import NS_PER_SECOND, format_seconds, format_share

DEFAULT_SECONDS: Final = 10.0
"""Before, and after, where nothing is said."""
PAIRS: Final = 30
"""Of blocks, where there is time for them: more of them are shorter, and what a switch upsets takes more of each."""
LEAST_BLOCK_SECONDS: Final = 0.8
ANSWERS_A_BLOCK: Final = 22
"""That are counted: with fewer a burst of slow ones is most of a block."""
SETTLE_SHARE: Final = 0.25
"""Of a block, at its begin: not counted, since what was under way belongs to the block before."""
BASELINE_SHARE: Final = 0.1
LEAST_BASELINE_SECONDS: Final = 5.0
"""Some hundred answers: what is usual, for a first block that is not."""
LONGEST_WAIT_SECONDS: Final = 120.0
"""For the first answers."""
FIRST_ANSWERS: Final = 3
SLICES: Final = 12
PIECES: Final = 6
"""In which the time after a fix is looked at one by one."""
MOST_FAILING: Final = 0.5
QUICK_DRAWS: Final = 400
"""While questions are asked: little work, so that they are not disturbed."""

Mode = Literal["verify", "try"]
Result = Literal["gain", "fell", "no-difference", "worse", "errors", "cannot-tell", "stopped"]
"""`gain`: proved by alternation. `fell`: it fell, by the fix or by drift. `worse`, `errors`: and undone therefore.
`stopped`: the target was not as it was left, or went away.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """All answers with the fix, or without, in seconds. p50 from 1, p99 from 100 answers."""

    answers: int
    errors: int
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How a trial ended. `undone` None: the fix is in place by `switch.record`, or was never put there."""

    mode: Mode
    result: Result
    why: str = ""
    off: Side
    on: Side
    p50: Contrast | None = None
    p99: Contrast | None = None
    pairs: int = 0
    block_seconds: float = 0.0
    drift_p50: float | None = None
    drift_p99: float | None = None
    undone: Undone | None = None

    @property
    def kept(self) -> bool:
        """Whether the fix was left in place."""
        return self.undone is None and self.result in ("gain", "fell", "no-difference", "cannot-tell")


class Trial:
    """One fix of one target, and who asks the victim."""

    def __init__(self, switch: Switch, probe: Probe, *, say: Callable[[str], None], dice: np.random.Generator) -> None:
        self._switch = switch
        self._probe = probe
        self._watch = Watch(probe, say)
        self._dice = dice
        self._off: list[Stretch] = []
        self._on: list[Stretch] = []
        self._calm: list[Stretch] = []
        """Before anything was changed; the guard compares with it as well."""
        self._doubtful = False
        """The last stretch with the fix gave an alarm that was not sure."""

    def verify(self, seconds: float) -> Measured:
        """Measure, apply, measure again, and undo it where that shows it worse.

        Raises:
            CulpaError: it cannot be measured or applied; nothing was changed, or the sentence says what was.
            Interrupted: by Ctrl-C; it was undone, or the sentence says how.
        """
        return self._kept_safe(lambda: self._verify(seconds), "verify")

    def alternate(self, seconds: float, *, keep: bool) -> Measured:
        """Turn it off and on for about so long; afterwards it is off, or on where `keep` and a gain was proved.

        Raises:
            CulpaError: as `verify`.
            Interrupted: as `verify`.
        """
        return self._kept_safe(lambda: self._alternate(seconds, keep=keep), "try")

    def _kept_safe(self, act: Callable[[], Measured], mode: Mode) -> Measured:
        self._probe.start()
        try:
            return act()
        except Disturbed as reason:
            return self._stopped(mode, "stopped", str(reason))
        except KeyboardInterrupt as reason:
            undone = self._switch.end()
            told = undone.sentence if undone else "nothing was changed"
            way_out = f"culpa fix --undo {undone.record.id}" if undone and not undone.closed else ""
            raise Interrupted(f"interrupted; {told}", way_out=way_out) from reason
        except BaseException:
            self._switch.end()
            raise
        finally:
            self._probe.stop()

    def _verify(self, seconds: float) -> Measured:
        before = self._baseline(seconds, LONGEST_WAIT_SECONDS)
        self._off = _cut(before, SLICES)
        self._switch.on()
        if (found := self._watch_pieces(seconds)) is not None:
            return self._stopped("verify", found.kind, f"with the fix {found.words}")
        self._switch.check()
        p50, p99 = (alternation.unpaired(_times(self._off), self._after(), q, self._dice) for q in (0.5, 0.99))
        drift = [_halves(before, quantile) for quantile in (0.5, 0.99)]
        judged = p99 or p50
        if judged is not None and judged.low > alternation.WORSE:
            why = f"the {'p99' if p99 else 'p50'} rose by more than {format_share(alternation.WORSE - 1)} beyond noise"
            return self._stopped("verify", "worse", why, p50=p50, p99=p99)
        result: Result = "cannot-tell" if p50 is None else "fell" if _fell(p50, p99) else "no-difference"
        return Measured(
            mode="verify", result=result, off=_side(self._off), on=_side(self._on), p50=p50, p99=p99,
            drift_p50=drift[0], drift_p99=drift[1],
        )  # fmt: skip

    def _watch_pieces(self, seconds: float) -> Alarm | None:
        """The time after the fix, to its end or an alarm."""
        applied, pieces = time.monotonic(), max(1, min(PIECES, int(seconds)))
        length = seconds / pieces
        settle = min(1.0, length * SETTLE_SHARE)
        for piece in range(pieces):
            end = applied + settle + (piece + 1) * length
            counted_from = max(applied + settle, time.monotonic())
            if (found := self._believe(self._block(end, counted_from, "with the fix", on=True))) is not None:
                return found
        # A question that was sent in one piece and answered in the next was in neither.
        since, counted = (self._watch.asked(round(at * NS_PER_SECOND)) for at in (applied, applied + settle))
        self._on = [replace(counted, errors=since.errors, last_error=since.last_error)]
        return None

    def _after(self) -> list[alternation.Times]:
        return _times(_cut(_together(self._on), SLICES))

    def _alternate(self, seconds: float, *, keep: bool) -> Measured:
        calm = self._baseline(max(LEAST_BASELINE_SECONDS, seconds * BASELINE_SHARE), seconds)
        pairs, block = _plan(seconds, calm)
        self._calm = _cut(calm, max(4, round((calm.began[-1] - calm.began[0]) / block)))
        began = time.monotonic()
        for number, on in enumerate(alternation.order(pairs, self._dice)):
            if on != self._switch.is_on:
                (self._switch.on if on else self._switch.off)()
            start, end = time.monotonic(), began + (number + 1) * block
            shown = f"block {number + 1} of {2 * pairs}, the fix {'on' if on else 'off'}"
            seen = self._block(end, start + SETTLE_SHARE * block, shown, on=on)
            found = self._believe(seen) if on else None
            if found is None and seen is not None:
                self._switch.off()
            if found is None and number % 2:
                found = self._worse_so_far()
            if found is not None:
                return self._stopped("try", found.kind, f"with the fix {found.words}", pairs=pairs, block=block)
        self._switch.check()
        p50, p99 = self._contrast(0.5), self._contrast(0.99)
        result = judged(p50, p99)
        undone = None
        if keep and result == "gain":
            if not self._switch.is_on:
                self._switch.on()
        else:
            undone = self._switch.end()
        return Measured(
            mode="try", result=result, off=_side(self._off), on=_side(self._on), p50=p50, p99=p99, pairs=pairs,
            block_seconds=block, undone=undone,
        )  # fmt: skip

    def _baseline(self, seconds: float, most: float) -> Stretch:
        """Measure before anything is changed, until there are answers.

        Raises:
            CulpaError: there are none, or most are errors.
        """
        start, start_ns = time.monotonic(), time.monotonic_ns()
        found = self._watch.asked(start_ns)
        while time.monotonic() < start + seconds or found.count < FIRST_ANSWERS:
            self._watch.until(min(time.monotonic() + 0.5, start + max(seconds, most)), "before the fix")
            found = self._watch.asked(start_ns)
            all_fail = found.count >= FIRST_ANSWERS and found.errors == found.count
            if all_fail or time.monotonic() >= start + max(seconds, most):
                break
        what = self._probe.what
        if not found.count:
            gone = format_seconds(time.monotonic() - start)
            raise CulpaError(f"{what} has no answer for {gone}; nothing was changed", way_out="see whether it is up")
        if found.errors > MOST_FAILING * found.count:
            told = f"{found.errors} of {found.count} questions fail ({found.last_error})"
            raise CulpaError(
                f"{what}: {told}; nothing was changed",
                way_out="see whether it is up, or name what to ask with --ask URL",
            )
        return found

    def _block(self, end: float, counted_from: float, state: str, *, on: bool) -> Alarm | None:
        """Wait to its end; with the fix on, no longer than all is well. What is not sure is only judged at its end."""
        start_ns, counted_ns = time.monotonic_ns(), round(counted_from * NS_PER_SECOND)

        def now() -> Stretch:
            whole = self._watch.asked(start_ns)
            return replace(self._watch.asked(counted_ns), errors=whole.errors, last_error=whole.last_error)

        def look() -> Alarm | None:
            return alarm([*self._calm, *self._off], now(), self._watch.waits_seconds(start_ns))

        def look_for_the_worst() -> Alarm | None:
            return seen if (seen := look()) is not None and seen.sure else None

        found = self._watch.until(end, state, look_for_the_worst) or look() if on else self._watch.until(end, state)
        (self._on if on else self._off).append(now())
        return found

    def _believe(self, seen: Alarm | None) -> Alarm | None:
        """An alarm; one that a burst of the usual noise may be only if the last stretch with the fix gave one, too."""
        believed = seen if seen is not None and (seen.sure or self._doubtful) else None
        self._doubtful = seen is not None
        return believed

    def _worse_so_far(self) -> Alarm | None:
        """After each pair: what no single block shows, all of them together may."""
        off, on = _times(self._off), _times(self._on)
        sides = [alternation.quantile_of(one, 0.99) for one in (off, on)]
        if not sides[0] or not sides[1] or sides[1] <= alternation.WORSE * sides[0]:
            return None
        found = alternation.paired(off, on, 0.99, self._dice, QUICK_DRAWS)
        if found is None or found.low <= alternation.WORSE or (found.chance or 0) > alternation.CHANCE / 4:
            return None
        return Alarm(kind="worse", words=f"the p99 is {found.ratio:.2f} times as long, beyond noise")

    def _contrast(self, quantile: float) -> Contrast | None:
        return alternation.paired(_times(self._off), _times(self._on), quantile, self._dice)

    def _stopped(
        self, mode: Mode, result: Result, why: str, *, p50: Contrast | None = None, p99: Contrast | None = None,
        pairs: int = 0, block: float = 0.0,
    ) -> Measured:  # fmt: skip
        """Take the fix back at once; then say why."""
        undone = self._switch.end()
        if undone is not None and undone.ended == "gone":
            result = "stopped"
        return Measured(
            mode=mode, result=result, why=why, off=_side([*self._calm, *self._off]),
            on=_side(self._on), p50=p50, p99=p99, pairs=pairs, block_seconds=block, undone=undone,
        )  # fmt: skip


def _plan(seconds: float, calm: Stretch) -> tuple[int, float]:
    """Pairs of blocks, and how long a block is.

    Raises:
        CulpaError: there is no time for one pair.
    """
    took = float(calm.began[-1] - calm.began[0] + calm.times[-1]) if len(calm.times) else seconds
    needed = max(LEAST_BLOCK_SECONDS, ANSWERS_A_BLOCK * took / max(1, calm.count) / (1 - SETTLE_SHARE))
    left = seconds - took
    pairs = min(PAIRS, int(left / (2 * needed)))
    if pairs < 1:
        wanted = math.ceil((2 * needed * alternation.LEAST_PAIRS + took) * 1.2)
        what = f"an answer takes {format_seconds(took / max(1, calm.count))}, so that {seconds:.0f} s are too short"
        raise CulpaError(f"{what} to turn the fix off and on; nothing was changed", way_out=f"write --try {wanted}s")
    return pairs, left / (2 * pairs)


def judged(p50: Contrast | None, p99: Contrast | None) -> Result:
    """What an alternating trial proves."""
    known = [one for one in (p50, p99) if one is not None]
    if not known:
        return "cannot-tell"
    if any(one.rose for one in known):
        return "worse"
    return "gain" if any(one.fell for one in known) else "no-difference"


def _fell(p50: Contrast | None, p99: Contrast | None) -> bool:
    return any(one is not None and one.fell for one in (p50, p99))


def _cut(found: Stretch, count: int) -> list[Stretch]:
    """In parts of equal time; errors stay with the first."""
    parts = alternation.slices(found.times, found.began, count)
    starts = np.cumsum([0, *(len(part) for part in parts)])
    cut = [
        Stretch(times=part, began=found.began[start : start + len(part)])
        for part, start in zip(parts, starts[:-1], strict=True)
    ]
    if not cut:
        return [found]
    return [replace(cut[0], errors=found.errors, last_error=found.last_error), *cut[1:]]


def _together(parts: list[Stretch]) -> Stretch:
    return Stretch(
        times=np.concatenate([one.times for one in parts]), began=np.concatenate([one.began for one in parts]),
        errors=sum(one.errors for one in parts),
    )  # fmt: skip


def _times(parts: list[Stretch]) -> list[alternation.Times]:
    return [one.times for one in parts]


def _halves(found: Stretch, quantile: float) -> float | None:
    """The second half of a window against the first, nothing being changed in between."""
    halves = alternation.slices(found.times, found.began, 2)
    known = [alternation.quantile_of([half], quantile) for half in halves]
    return known[1] / known[0] if len(known) == 2 and known[0] and known[1] else None


def _side(parts: list[Stretch]) -> Side:
    times = _times(parts)
    return Side(
        answers=sum(len(one) for one in times), errors=sum(one.errors for one in parts),
        p50=alternation.quantile_of(times, 0.5), p99=alternation.quantile_of(times, 0.99),
    )  # fmt: skip
