"""The cells of the sweep, a learning rate and a batch size each: numbers and words that table and maps share."""

import dataclasses
from typing import Any

import numpy as np

from jaxflow.commands.compare.report import temperature_of

CELL = ("learning_rate", "batch_size")
RUN = (*CELL, "seed")


def mean(dataset: Any, name: str) -> np.ndarray:
    """The mean of a variable over the seeds that finished, (learning rates, batch sizes); NaN where none did."""
    values = dataset[name].transpose(*RUN).values.astype(float)
    good = ~dataset["diverged"].transpose(*RUN).values & np.isfinite(values)
    count = good.sum(-1)
    return np.where(count > 0, np.where(good, values, 0.0).sum(-1) / np.maximum(count, 1), np.nan)


def sharpness(dataset: Any) -> tuple[float, float]:
    """At the start, and at the last time that gradient flow reached."""
    first = dataset.attrs["sharpness_at_start"]
    later = dataset["flow_sharpness"].values
    return first, float([first, *later[np.isfinite(later)]][-1])


def unit(settings: Any, optimizer: Any) -> float | None:
    """The temperature at learning rate 1 and batch size 1; `None` where the optimizer has no such number."""
    return temperature_of(dataclasses.replace(settings, batch_size=1), optimizer.replace(learning_rate=1.0))


def number_of(number: int, what: str) -> str:
    """A number of things."""
    return f"{number} {what}{'' if number == 1 else 's'}"
