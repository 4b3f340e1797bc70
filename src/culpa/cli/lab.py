"""`culpa lab`: trouble made on purpose, with known truth, and the score over it."""

from __future__ import annotations

from typing import Annotated

import typer

from culpa.cli import output
from culpa.cli.options import NoColorFlag, NoTraceFlag, example
from culpa.talk import Talk, out
from culpa.units import printable

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Trouble made on purpose, with known truth.",
    epilog=example("culpa lab run redis-slow"),
)


@app.command("list", short_help="The labs there are.", epilog=example("culpa lab list"))
def lab_list(json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """The labs, what each must make culpa say, and whether it can run here."""
    from culpa.labs.catalogue import listing

    labs = listing()
    if json:
        output.as_json(labs)
        return
    for lab in labs:
        out(f"{lab.name:24} {', '.join(lab.fires) or 'nothing to find'}\n")
        if lab.why_not:
            out(f"{'':24} cannot run here: {printable(lab.why_not)}\n")


@app.command("run", short_help="Run one lab, and score culpa.", epilog=example("culpa lab run redis-slow --fix"))
def lab_run(
    name: Annotated[str, typer.Argument(help="a name of `culpa lab list`")],
    fix: Annotated[
        bool, typer.Option("--fix", help="try the verdict's first fix that culpa can apply, and take it back")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="the result as JSON to stdout, nothing else there")] = False,
    no_trace: NoTraceFlag = False,
    no_color: NoColorFlag = False,
) -> None:
    """Make the trouble of one lab, let culpa find it, show the verdict beside the truth; exit 5 if it was not found.

    With --fix the verdict's first fix that culpa can apply is put in place by `culpa fix ID --apply --verify`, the
    lab's own clock measures a request before and after, and `culpa fix --undo` takes it back; then it is seen that
    everything reads as before. In the JSON: `repair`, with the prediction (seconds and range), before, after and
    undone. Only what the lab made itself is changed. Exit 1 if the fix was not taken back.
    """
    from culpa.labs.demo import summary
    from culpa.labs.lab import Parameters
    from culpa.labs.run import run_lab

    talk = Talk(quiet=False)
    result = run_lab(name, parameters=Parameters(), trace=not no_trace, progress=talk.say, fix=fix)
    if json:
        output.as_json(result)
    else:
        output.as_page(result.verdict, quiet=False, verbose=False, no_color=no_color)
        out("".join(f"{line}\n" for line in summary(result)))
    raise typer.Exit(result.exit_code)


@app.command("bench", short_help="Run all labs: the score.", epilog=example("culpa lab bench --sample 5 --seed 7"))
def lab_bench(
    family: Annotated[str | None, typer.Option("--family", help="only labs of this family")] = None,
    sound: Annotated[bool, typer.Option("--sound", help="only labs in which nothing is wrong")] = False,
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="so many labs, drawn at random")] = None,
    runs: Annotated[int | None, typer.Option("--runs", min=1, help="so many runs, each of a lab drawn anew")] = None,
    seed: Annotated[int, typer.Option("--seed", help="of everything random; the same seed draws the same run")] = 1,
    no_trace: NoTraceFlag = False,
    json: Annotated[bool, typer.Option("--json", help="the score as JSON to stdout, nothing else there")] = False,
) -> None:
    """Run the labs that this host can run, with parameters drawn at random, and say how often culpa was right.

    With --sound any false alarm ends it with exit status 5.
    """
    from culpa.errors import EXIT_LAB_MISSED
    from culpa.labs.bench import Plan, run_bench, table

    plan = Plan(seed=seed, family=family, sound=sound, sample=sample, runs=runs, trace=not no_trace)
    score = run_bench(plan, progress=Talk(quiet=False).say)
    if json:
        output.as_json(score)
    else:
        out("".join(f"{printable(line)}\n" for line in table(score)))
    alarmed = sound and any(case.score.false_alarms for case in score.cases)
    if alarmed:
        raise typer.Exit(EXIT_LAB_MISSED)
