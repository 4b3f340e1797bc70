"""A verdict shown: terminal and JSON; computes nothing."""
