"""A bar that says how far a long run is."""

import sys
import time
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

    @property
    def is_due(self) -> bool:
        """Whether it is about to be drawn anew, so that it is worth a look at what it tells."""
        bar = self.bar
        return bar is not None and not bar.disable and time.time() - bar.last_print_t >= bar.mininterval

    def advance(self, units: int, **told: Any) -> None:
        """`units` more are done; `told`, where there is something, stands at the end of the bar from now on."""
        if self.bar is None:
            return
        if told:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in told.items()}, refresh=False)
        self.bar.update(units)
