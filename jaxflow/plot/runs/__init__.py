"""Runs as lines: losses and distances against time, how each run ended, and errors against step sizes."""
