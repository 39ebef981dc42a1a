"""`python -m jaxflow temperature`: how noisy a setting is, and which settings equal it at other batch sizes."""

from dataclasses import dataclass
from typing import Any

import jax

import jaxflow as jf
from jaxflow import _check
from jaxflow._text.text_table import text_table
from jaxflow.commands.compare.report import temperature_of
from jaxflow.commands.shared.training import Training, count

FILES = ()  # it only prints


@dataclass(frozen=True)
class Temperature(Training):
    """Print the temperature, the noise scale, and the equivalent hyperparameters at other batch sizes.

    The noise scale tr Σ/|∇L|² is measured on the data at the initial parameters and, with --steps, after
    that number of mini-batch steps. The equivalent hyperparameters keep the SDE: by the linear rule for gradient
    descent and momentum, by the square-root rule for Adam and its variants.
    """

    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    """The other batch sizes."""
    steps: int = 200
    """Steps to train before the noise scale is measured again; 0 for none."""


def prepare(settings: Temperature) -> tuple[Any, jf.optim.Optimizer]:
    """The problem and the optimizer; every bad setting is refused here."""
    count("steps", settings.steps, 0)
    for size in settings.batch_sizes:
        _check.require_integer("batch_sizes", size, 1)
    return settings.make()


def run(settings: Temperature, problem: Any, optimizer: jf.optim.Optimizer) -> None:
    """Measure and print."""
    objective, params = problem.objective, problem.params
    print(
        f"{settings.describe(problem)}: {objective.size} training examples; {optimizer}, batch {settings.batch_size}"
    )
    temperature = temperature_of(settings, optimizer)
    if temperature is not None:
        print(f"temperature T = {temperature:.6g}")
    scales = {"at the start": jf.noise_scale(objective, params)}
    if settings.steps:
        key = jax.random.key(settings.seed + 1)
        trained = jf.iterate(
            optimizer,
            objective,
            params,
            steps=settings.steps,
            batch_size=settings.batch_size,
            key=key,
            every=None,
        ).params
        scales[f"after {settings.steps} steps"] = jf.noise_scale(objective, trained)
    for when, scale in scales.items():
        print(
            f"noise scale {float(scale.simple):.4g} {when}: tr Σ = {float(scale.trace):.4g}, "
            f"|∇L|² = {float(scale.squared_gradient):.4g}"
        )
    critical = max(float(scale.simple) for scale in scales.values())
    print(_equivalents(settings, optimizer, critical))


def _equivalents(settings: Temperature, optimizer: jf.optim.Optimizer, critical: float) -> str:
    """The hyperparameters at the other batch sizes that keep the SDE, as a table."""
    rows = []
    for size in sorted({*settings.batch_sizes, settings.batch_size}):
        try:
            chosen = jf.optim.hyperparameters(jf.rescale(optimizer, settings.batch_size, size))
        except ValueError as error:
            if size == settings.batch_size:
                return f"No equivalents: {error}"
            rows.append(("", f"{size}", str(error)))
            continue
        numbers = {name: value for name, value in chosen.items() if isinstance(value, float)}
        mark = "  (above the noise scale: expect less than the rule promises)" if size > critical else ""
        rows.append(("", f"{size}", ", ".join(f"{k} {v:.6g}" for k, v in numbers.items()) + mark))
    return f"batch size and equivalent hyperparameters:\n{text_table(rows, head=0, left=(2,))}"
