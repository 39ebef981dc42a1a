"""Saddles: points where the gradient vanishes, how many directions lead down from them, and how long that takes."""
