"""Ordinary differential equations by name."""

from jaxflow import _moved

__getattr__ = _moved.forward_names("jaxflow.dynamics.flows", "jaxflow.dynamics.flows.first_order")
