"""Stochastic differential equations by name."""

from jaxflow import _moved

__getattr__ = _moved.forward_names("jaxflow.dynamics.diffusions", "jaxflow.dynamics.diffusions.first_order")
