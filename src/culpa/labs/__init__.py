"""Trouble made on purpose with known truth, and the score."""
