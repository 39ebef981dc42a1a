"""An ensemble against the density of its equation."""
