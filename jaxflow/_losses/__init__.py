"""Losses as people have them: of whole models, with random numbers, with companions in a batch."""
