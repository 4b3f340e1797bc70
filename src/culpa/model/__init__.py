"""Capture tables turned into a typed picture of what happened: pure, no clock, file or process."""
