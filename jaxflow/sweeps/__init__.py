"""Sweeps: thousands of trials in one compiled call, over all devices, resumable after a kill."""

from jaxflow.sweeps.sweep import sweep as sweep
