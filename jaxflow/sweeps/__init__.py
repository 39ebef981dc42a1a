"""Sweeps: thousands of trials in one compiled call, over all devices, resumable after a kill."""

from jaxflow.sweeps.design.samples import sample as sample
from jaxflow.sweeps.outputs.best_cell import best as best
from jaxflow.sweeps.reading import read as read
from jaxflow.sweeps.sweeping import sweep as sweep
