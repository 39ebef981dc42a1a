"""The gallery as a static site, built from the catalogue, the docstrings and the results; see `build`."""
