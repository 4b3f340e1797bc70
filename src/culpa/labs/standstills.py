"""How long clients of a Redis server waited, by a client of the lab's own, and what a verdict says of that time.

The lab's client (`apps/redis_clock.py`) asks every 10 ms and knows nothing of culpa; a standstill is a PING of its that
waited 5 ms or longer. Of its time counts as met what such a PING of culpa's waited through as well. Of that counts as
attributed what the verdict puts down to a cause that is true in this lab, and what it says to be a wait for a CPU.
culpa asks every 25 ms: it meets a standstill of 30 ms for certain, of shorter ones some, and of hardly any the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from culpa.diagnose.verdict import Stall, Verdict
from culpa.labs.lab import Standstills
from culpa.labs.site import Program
from culpa.units import format_seconds

NOT_NAMED = "redis.stall.unattributed"
"""Where this is the truth there is nothing to attribute."""

Span = tuple[float, float]
"""Start and end, in s of CLOCK_MONOTONIC."""


def told(clock: Program) -> tuple[Span, ...]:
    """What the lab's client has said so far, in order of time."""
    lines = (line.split() for line in clock.log.read_text().splitlines())
    return tuple((int(line[0]) / 1e9, int(line[1]) / 1e9) for line in lines if len(line) == 2)


def held_against(verdict: Verdict, waits: Iterable[Span], *, true: Collection[str]) -> Standstills | None:
    """What a verdict says of the lab's own standstills within the time that it judged (pure).

    Args:
        verdict: of a check-up.
        waits: those standstills, none overlapping another.
        true: ids of the causes that are true here.

    Returns:
        None where the verdict tells no single stalls, or the truth is that nothing can account for them.
    """
    found = verdict.stalls
    if found is None or NOT_NAMED in true:
        return None
    spans = [(max(start, found.since), min(end, found.until)) for start, end in waits]
    spans = [(start, end) for start, end in spans if end > start]
    met = [(stall, sum(_common(stall, span) for span in spans)) for stall in found.each]
    shares = [(seconds / stall.seconds, stall) for stall, seconds in met if seconds > 0]
    named = sum(share * _named(stall, true) for share, stall in shares)
    waited = sum(share * stall.cpu_seconds for share, stall in shares)
    return Standstills(
        count=len(spans),
        seconds=round(sum(end - start for start, end in spans), 6),
        met_seconds=round(sum(seconds for _, seconds in met), 6),
        attributed_seconds=round(named + waited, 6),
        cpu_seconds=round(waited, 6),
    )


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """The standstills of many cases, in seconds as in `Standstills`.

    `share`: of all that culpa met in cases in which something was wrong, how much is attributed; `least_share` that of
    the case with the least, one of `least_lab`. `sound_seconds`: what the lab's own client waited where nothing was.
    """

    cases: int
    seconds: float
    met_seconds: float
    attributed_seconds: float
    cpu_seconds: float
    share: float
    least_share: float
    least_lab: str
    sound_seconds: float


def summed(cases: Sequence[tuple[str, bool, Standstills]]) -> Attribution | None:
    """What cases add up to, each with the name of its lab and whether something was wrong; None without any such."""
    sick = [(share, lab, of) for lab, wrong, of in cases if wrong and (share := of.share) is not None]
    if not sick:
        return None
    least_share, least_lab, _ = min(sick, key=lambda row: row[:2])
    found = [of for _, _, of in sick]
    met, attributed = sum(of.met_seconds for of in found), sum(of.attributed_seconds for of in found)
    return Attribution(
        cases=len(found),
        seconds=round(sum(of.seconds for of in found), 6),
        met_seconds=round(met, 6),
        attributed_seconds=round(attributed, 6),
        cpu_seconds=round(sum(of.cpu_seconds for of in found), 6),
        share=round(attributed / met, 4),
        least_share=round(least_share, 4),
        least_lab=least_lab,
        sound_seconds=round(sum(of.seconds for _, wrong, of in cases if not wrong), 6),
    )


def lines(of: Attribution) -> Iterator[str]:
    """The sums as lines of text."""
    yield (
        f"  stalls of 5 ms and more: {format_seconds(of.seconds)} in {of.cases} cases, culpa met "
        f"{format_seconds(of.met_seconds)}, attributed {of.share:.1%} (least {of.least_share:.1%}, {of.least_lab})"
    )
    yield (
        f"  {'':18} of that {format_seconds(of.cpu_seconds)} are waits for a CPU that no cause covers; in the sound "
        f"cases there were {format_seconds(of.sound_seconds)}"
    )


def spoken(of: Standstills) -> str:
    """One case in words."""
    told = f"stalls {format_seconds(of.seconds)} in {of.count}, met {format_seconds(of.met_seconds)}"
    return told if of.share is None else f"{told}, attributed {of.share:.1%}"


def _common(stall: Stall, span: Span) -> float:
    return max(0.0, min(stall.at + stall.seconds, span[1]) - max(stall.at, span[0]))


def _named(stall: Stall, true: Collection[str]) -> float:
    """The part of a stall that lies in the time of true causes; of several at once no more than lies in any cause."""
    return min(stall.named_seconds, sum(part.seconds for part in stall.causes if part.id in true))
