"""Densities of stochastic equations, at one time or several in a still picture, or as an animation."""

from jaxflow import _moved

__getattr__ = _moved.forward_names("jaxflow.plot.densities", "jaxflow.plot.densities.still_densities")
