"""A figure that the library claims, measured and held against what is asked of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """Something measured: the number, what is asked of it, and what else was seen."""

    what: str
    measure: Callable[[bool], Any]
    least: float = -float("inf")
    most: float = float("inf")
    unit: str = ""

    def row(self, quick: bool) -> dict[str, Any]:
        measured = self.measure(quick)
        details = measured if isinstance(measured, dict) else {}
        value = float(details.pop("ratio") if details else measured)
        asked = f"≥ {self.least:g}" if self.most == float("inf") else f"≤ {self.most:g}"
        if self.least > -float("inf") and self.most < float("inf"):
            asked = f"{self.least:g} … {self.most:g}"
        reached = self.least <= value <= self.most
        return {
            "what": self.what,
            "measured": value,
            "asked": asked + self.unit,
            "reached": reached,
        } | details
