"""`make demo`: the case of redis-slow from trouble to repair, told as it happens.

`make demo LAB='word-pop -v'` tells that of another lab, with these options for `culpa why`. What culpa prints
goes to stdout, the telling to stderr. Exit code 0 if culpa found the whole truth and nothing of the lab is left on the
host, 5 if it missed some of it, 1 if the lab could not be run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from culpa.errors import CulpaError
from culpa.labs import catalogue, repair, standstills
from culpa.labs.lab import Conditions, LabResult, Parameters, Stage
from culpa.labs.redis_slow import REDIS_SLOW
from culpa.labs.run import run
from culpa.units import format_seconds, printable

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] = ()) -> int:
    """Run the demonstration; returns the exit code.

    Args:
        arguments: a name of the catalogue, and options of `culpa why`; redis-slow where there are none.
    """
    name, *options = arguments or (REDIS_SLOW.name,)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:5.1f} s  {printable(line)}", file=sys.stderr, flush=True)

    try:
        conditions = Conditions(
            parameters=Parameters(), trace=True, progress=say, on_page=_show, page_options=tuple(options)
        )
        result = run(catalogue.find(name), conditions)
    except CulpaError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: interrupted; everything it made is gone", file=sys.stderr)
        return EXIT_INTERRUPTED
    # The site has looked for itself before it gave up the lock: what is left is a LabError.
    say("nothing left behind: no process, mount, loop device, write limit, control group or file of the lab")
    print("\n".join(summary(result)))
    return result.exit_code


def summary(result: LabResult) -> Iterator[str]:
    """Lines that set what was predicted beside what was measured, and the verdict beside the truth."""
    yield f"{result.lab} on {'a slow' if result.parameters['disk'] == 'slow' else 'an ordinary'} disk"
    for stage in result.stages:
        yield from _stage_lines(stage)
    for sentence in result.disturbed:
        yield f"disturbed: {sentence}"
    verdict = "the whole truth was found" if result.found else "culpa missed some of the truth"
    yield f"{verdict}, in {format_seconds(result.seconds)}"


def _stage_lines(stage: Stage) -> Iterator[str]:
    named = ", ".join(cause.id for cause in stage.verdict.causes if cause.level != "note") or "nothing"
    yield f"  {stage.name}"
    yield f"    truth      {', '.join(stage.truth.causes) or 'nothing is wrong'}"
    yield f"    named      {named}"
    yield f"    missed     {', '.join(stage.score.missed) or 'nothing'}"
    if stage.score.false_alarms:
        yield f"    false      {', '.join(stage.score.false_alarms)}"
    if stage.standstills is not None:
        yield f"    stalls     {standstills.spoken(stage.standstills)}"
    if stage.repair is not None:
        for number, line in enumerate(repair.lines(stage.repair)):
            yield f"    {'' if number else 'repair':10} {line}"
    if stage.measured.after_fix is None:
        return
    yield f"    measured   {format_seconds(stage.measured.before)} -> {format_seconds(stage.measured.after_fix)}"
    yield f"    predicted  {_predicted(stage)}"
    yield f"    fix        {stage.truth.fix}"


def _predicted(stage: Stage) -> str:
    for cause in stage.verdict.causes:
        if cause.id == stage.truth.causes[0] and cause.predicted is not None:
            low, high = format_seconds(cause.predicted.low), format_seconds(cause.predicted.high)
            return f"{format_seconds(cause.predicted.p50)} ({low} to {high})"
    return "nothing"


def _show(page: str) -> None:
    """Print a page that culpa made; it has been made safe for terminals there."""
    print(page.rstrip("\n"), end="\n\n", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
