"""One short script a headline result: `python -m experiments.NAME [--quick] [--output DIR]`; see README.md."""
