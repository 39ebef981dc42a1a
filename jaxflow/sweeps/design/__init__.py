"""Which trials a sweep has: the axes of a grid, and points drawn at random."""
