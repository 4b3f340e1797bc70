"""Fixes: what a verdict proposes, tried against the live state, applied, and taken back.

    values.py       which values a setting may be given
    catalogue.py    the fixes as data: id, kind, settings, what they do and cost
    parameters.py   what a fix is applied to, typed; also what a record on disk holds
    proposals.py    a verdict as fixes that can be applied, or as words for a person
    hands.py        what changes things: the interface, and which hand belongs to which parameters
    redis_hand.py kernel_hand.py process_hand.py     the hands
    journal.py      records on disk: written before a change, closed when it is taken back
    run.py          look, apply, undo
    views.py        what `--json` prints
    telling.py      the same in words

Nothing is believed of a verdict but fix ids and typed parameters: commands are made from the catalogue. A Redis server
is reached over a connection that the caller opens, so that no collector is imported here.
"""
