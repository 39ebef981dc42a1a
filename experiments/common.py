"""What every experiment shares: its arguments, float64, progress, and results written whole."""

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from jaxflow._disk import results
from jaxflow._disk.program_cache import keep_programs
from jaxflow._text.text_table import text_table
from jaxflow.plot import animate

SECONDS = 8.0  # of a picture that moves


class Headline(NamedTuple):
    """A number measured, what theory expects, and the interval (low, high) in which the claim holds."""

    measured: Any
    expected: Any = None
    interval: tuple[float, float] | None = None

    @property
    def reached(self) -> bool | None:
        """Whether all that was measured is inside the interval; `None` where there is none."""
        if self.interval is None:
            return None
        low, high = self.interval
        values = np.asarray(self.measured, float)
        return bool(values.size and np.all((low <= values) & (values <= high)))


def near(measured: Any, expected: float, *, by: float = 0.0, relative: float = 0.0) -> Headline:
    """A claim that `measured`, a number or several, is within `by` + `relative` · |expected| of `expected`."""
    reach = by + relative * abs(float(expected))
    return Headline(measured, expected, (float(expected) - reach, float(expected) + reach))


def within(measured: Any, low: float = -np.inf, high: float = np.inf, expected: Any = None) -> Headline:
    """A claim that `measured`, a number or several, is from `low` to `high`."""
    return Headline(measured, expected, (float(low), float(high)))


class Moving(NamedTuple):
    """A picture that moves, as `jaxflow.plot.animate` takes it."""

    figure: Figure
    show: Callable[[Any], Any]
    frames: Iterable[Any]


@dataclass(frozen=True)
class Experiment:
    """One run of one script: its name, whether it is the quick one, where it writes, when it began."""

    name: str
    quick: bool
    output: Path
    began: float

    def save(
        self, figure: Figure, headlines: dict[str, Any], *, moving: Moving | None = None, **data: Any
    ) -> dict[str, Any]:
        """Write `NAME.png` and `NAME.json`, print the headline numbers, and return what the JSON holds.

        - `headlines`: by what was measured a `Headline`, of which `near` and `within` make claims that may fail, or
          (measured, expected) without one; `None` where nothing is expected.
        - `moving`: a picture that moves, for `NAME.webp`.
        - `data`: the numbers behind the figure. Numbers that are not finite are null in the JSON.
        """
        told = {name: Headline(*found) for name, found in headlines.items()}
        rows = [(name, line.measured, line.expected, *_verdict(line)) for name, line in told.items()]
        content = {
            "experiment": self.name,
            "quick": self.quick,
            "seconds": round(time.perf_counter() - self.began, 1),
            "headlines": {name: line._asdict() | {"reached": line.reached} for name, line in told.items()},
            **data,
            **results.provenance(),
        }
        results.write_figure(self.output / f"{self.name}.png", figure)
        if moving is not None:
            animate(*moving, self.output / f"{self.name}.webp", seconds=SECONDS)
        results.write_json(self.output / f"{self.name}.json", content)
        print(table(("", "measured", "expected", "interval", ""), rows))
        print(f"Wrote {self.name}.png and {self.name}.json to {self.output} ({content['seconds']} s)")
        return content


def _verdict(line: Headline) -> tuple[str, str]:
    if line.interval is None:
        return "", ""
    low, high = line.interval
    bounds = (
        f"≤ {high:.5g}" if low == -np.inf else f"≥ {low:.5g}" if high == np.inf else f"{low:.5g} … {high:.5g}"
    )
    return bounds, "reached" if line.reached else "MISSED"


def start(name: str, doc: str | None, arguments: list[str] | None = None) -> Experiment:
    """Read `[--quick] [--output DIR] [--no-cache]` and turn float64 on."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a smaller version, in seconds")
    parser.add_argument("--output", type=Path, default=Path("results") / name, help="default: %(default)s")
    parser.add_argument(
        "--no-cache", action="store_true", help="compile all programs, even those kept on disk"
    )
    chosen = parser.parse_args(arguments)
    try:
        results.check_folder(chosen.output, f"{name}.png", f"{name}.json")
    except ValueError as error:
        parser.error(str(error))
    if not chosen.no_cache:
        keep_programs()
    jax.config.update("jax_enable_x64", True)
    return Experiment(name, chosen.quick, chosen.output, time.perf_counter())


def progress(items: Iterable, what: str, total: int | None = None) -> Iterable:
    """`items` behind a bar that is quiet when the output is not a terminal."""
    return tqdm(items, desc=what, disable=None, leave=False, total=total)


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Rows as text: the first column to the left, the others to the right."""
    return text_table([head, *([_show(cell) for cell in row] for row in rows)])


def _show(cell: Any) -> str:
    if cell is None:
        return "—"
    if isinstance(cell, (float, np.floating, jax.Array)) and np.ndim(cell) == 0:
        return f"{float(cell):.5g}" if np.isfinite(cell) else "—"
    if isinstance(cell, (list, tuple)):
        return ", ".join(map(_show, cell))
    return str(cell)
