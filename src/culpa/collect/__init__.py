"""A live host turned into rows of capture tables: side effects, no judgement."""
