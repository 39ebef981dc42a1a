"""Traced programs, read and changed: what depends on what, sums in float32, values that are computed again."""
