"""Ordinary differential equations by name."""

from jaxflow import _moved

__getattr__ = _moved.forwarding("jaxflow.dynamics.flows", "jaxflow.dynamics.flows.first_order")
