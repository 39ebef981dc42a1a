"""Stochastic differential equations by name."""

from jaxflow import _moved

__getattr__ = _moved.forwarding("jaxflow.dynamics.diffusions", "jaxflow.dynamics.diffusions.first_order")
