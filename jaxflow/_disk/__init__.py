"""Results, pytrees and compiled programs on disk, and what tells one run from another there."""
