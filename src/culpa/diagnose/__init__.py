"""A picture turned into a verdict: pure."""
