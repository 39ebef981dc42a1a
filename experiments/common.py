"""What every experiment shares: its arguments, float64, progress, and results written whole."""

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from jaxflow._disk import results
from jaxflow._disk.program_cache import keep_programs
from jaxflow._text_table import text_table


@dataclass(frozen=True)
class Experiment:
    """One run of one script: its name, whether it is the quick one, where it writes, when it began."""

    name: str
    quick: bool
    output: Path
    began: float

    def save(self, figure: Figure, headlines: dict[str, tuple[Any, Any]], **data: Any) -> dict[str, Any]:
        """Write `NAME.png` and `NAME.json`, print the headline numbers, and return what the JSON holds.

        - `headlines`: (measured, expected) by what was measured; `None` where nothing is expected.
        - `data`: the numbers behind the figure. Numbers that are not finite are null in the JSON.
        """
        said = table(("", "measured", "expected"), [(name, *pair) for name, pair in headlines.items()])
        content = {
            "experiment": self.name,
            "quick": self.quick,
            "seconds": round(time.perf_counter() - self.began, 1),
            "headlines": {name: {"measured": m, "expected": e} for name, (m, e) in headlines.items()},
            **data,
            **results.provenance(),
        }
        results.write_figure(self.output / f"{self.name}.png", figure)
        results.write_json(self.output / f"{self.name}.json", content)
        print(f"{said}\nWrote {self.name}.png and {self.name}.json to {self.output} ({content['seconds']} s)")
        return content


def start(name: str, doc: str | None, arguments: list[str] | None = None) -> Experiment:
    """Read `[--quick] [--output DIR] [--no-cache]` and turn float64 on."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
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


def progress(items: Iterable, what: str) -> Iterable:
    """`items` behind a bar that is quiet when the output is not a terminal."""
    return tqdm(items, desc=what, disable=None, leave=False)


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
