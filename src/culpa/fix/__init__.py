"""Fixes: what a verdict proposes, tried against the live state, applied, and taken back.

    values.py       which values a setting may be given
    catalogue.py    the fixes as data: id, kind, settings, what they do and cost
    parameters.py   what a fix is applied to, typed; also what a record on disk holds
    proposals.py    a verdict as fixes that can be applied, or as words for a person
    hands.py        what changes things: the interface, and which hand belongs to which parameters
    redis_hand.py kernel_hand.py process_hand.py group_hand.py     the hands
    journal.py      records on disk: written before a change, closed when it is taken back
    run.py          look, apply, undo
    switch.py       off and on again and again, under one record
    measuring.py    who asks the victim meanwhile, and when that is an alarm
    alternation.py  what can be told from the answers: pure arithmetic
    trial.py        measure before and after, or off and on, and take back what makes it worse
    views.py trialviews.py      what `--json` prints
    telling.py      the same in words

Nothing is believed of a verdict but fix ids and typed parameters: commands are made from the catalogue. A Redis server
is reached over a connection that the caller opens, and what is measured is asked by a probe of the caller's, so that no
collector is imported here.
"""
