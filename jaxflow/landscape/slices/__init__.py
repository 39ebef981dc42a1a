"""Slices: directions in the space of parameters, losses along them, and paths that are projected on them."""
