"""Ctrl-C reaches what these tests start, however they were started themselves."""

from __future__ import annotations

import signal

# A shell that starts them in the background has them ignore Ctrl-C, and every program that they start as well: those
# that are to be interrupted would go on, as such programs should.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
