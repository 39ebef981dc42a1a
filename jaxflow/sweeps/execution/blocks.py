"""How trials are cut into batches: some cells, by number, with some seeds."""

from typing import NamedTuple

import numpy as np


class Block(NamedTuple):
    """Some cells, by number, with some seeds: what one batch runs."""

    cells: np.ndarray
    seeds: np.ndarray

    def places(self, seeds: int) -> np.ndarray:
        """The places of its trials among all of the sweep, which has `seeds` seeds."""
        return (self.cells[:, None] * seeds + self.seeds[None]).ravel()


def block_shape(cells: int, seeds: int, size: int) -> tuple[int, int]:
    """The most cells and seeds of a batch of `size` trials: all seeds, if there is room, of some cells.

    >>> block_shape(10, 3, 12), block_shape(10, 30, 12)
    ((4, 3), (1, 10))
    """
    seeds = _even_length(seeds, size)
    return _even_length(cells, max(1, size // seeds)), seeds


def cut(cells: np.ndarray, seeds: int, size: int) -> list[Block]:
    """The batches of some cells and all seeds, all of one shape except for the last cells and the last seeds."""
    at_once, together = block_shape(cells.size, seeds, size)
    return [
        Block(cells[i : i + at_once], np.arange(j, min(j + together, seeds)))
        for i in range(0, cells.size, at_once)
        for j in range(0, seeds, together)
    ]


def _even_length(n: int, most: int) -> int:
    """The length of the parts into which n things are cut, nearly equal and of at most `most` each."""
    parts = -(-n // min(n, most))
    return -(-n // parts)
