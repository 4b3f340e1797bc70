"""The command line: one module a subcommand, each a thin function that wires the stages.

    program.py     the whole of it: which subcommands there are, `--help`, exit codes
    why.py record.py redis.py fix.py doctor.py lab.py     the subcommands
    options.py     options that several of them share
    gathering.py   from the options of `why` and `record` to a capture
    judging.py     from a capture to a verdict, shown and saved
    lastverdict.py the last verdict, kept for `culpa fix`
    reaching.py    a Redis server as the user names it
    output.py      what goes to stdout: a page, or JSON

No stage is imported at module level: `culpa --help` loads neither numpy nor polars. Data goes to stdout, talk to
stderr.
"""

from __future__ import annotations

from culpa.cli.program import app, main

__all__ = ["app", "main"]
