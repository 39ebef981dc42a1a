"""Iterates compared with the flows that stand for them, past the edge of stability."""

from jaxflow import _moved

__getattr__ = _moved.forward_names("jaxflow.comparison.edge", "jaxflow.comparison.edge.experiment")
