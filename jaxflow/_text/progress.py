"""A bar that says how far a long run is."""

import sys
from typing import Any


class Bar:
    """A bar of `total` units on standard error, in a notebook its own; nothing where the output is no terminal."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0, shown: bool = True):
        if not shown:
            self.bar = None
            return
        from tqdm.auto import tqdm

        self.bar = tqdm(
            desc=label, total=total, initial=done, unit=f" {unit}", file=sys.stderr, disable=None, leave=False
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def advance(self, units: int, **told: Any) -> None:
        """So many more units are done; `told` stands at the end of the bar."""
        if self.bar is not None:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in told.items()}, refresh=False)
            self.bar.update(units)
