"""Whether two ensembles have one law, and how far apart their laws are."""
