"""One short script a result, in chapters: `python -m experiments NAME [--quick] [--output DIR]`; see README.md."""
