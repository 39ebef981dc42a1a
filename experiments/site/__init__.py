"""The pages of the gallery, read off the docstrings of the experiments."""
