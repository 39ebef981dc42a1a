"""The geometry of optimal transport: distances of laws, steps of steepest descent in them, and particles."""
