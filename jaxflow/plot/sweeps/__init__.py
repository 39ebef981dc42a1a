"""The result of a sweep: a line, a map or points, maps for each value of further axes, and their scales."""

from jaxflow import _moved

__getattr__ = _moved.forward_names("jaxflow.plot.sweeps", "jaxflow.plot.sweeps.sweep_result")
