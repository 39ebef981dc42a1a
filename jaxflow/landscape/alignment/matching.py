"""Weight matching: the order of hidden units in which two stacks of dense layers are nearest.

A layer is here one matrix (in + 1, out), whose last row is its bias.
"""

from typing import NamedTuple

import numpy as np

ROUNDING = 1e-12  # of the largest gain there could be: a smaller one does not count
SAME = 1e-6  # of the best matched unit: two units that gain less by their places are not told apart


class Matching(NamedTuple):
    """New places: unit i of hidden layer l was unit `permutations[l][i]`, now times `signs[l][i]`."""

    stack: list[np.ndarray]
    permutations: list[np.ndarray]
    signs: list[np.ndarray]
    sweeps: int


def match(first: list[np.ndarray], last: list[np.ndarray], signs: bool) -> Matching:
    """Climb ⟨first, last⟩ by the units of one hidden layer of `last` after the other, until none moves.

    The layers come from the last to the first. Other orders, and more starts in random ones, find distances that
    differ by one or two per cent, and barriers that are not lower more often than higher.
    """
    stack = [layer.copy() for layer in last]
    widths = [layer.shape[1] for layer in last[:-1]]
    permutations, flips = [np.arange(n) for n in widths], [np.ones(n) for n in widths]
    least = ROUNDING * sum(np.linalg.norm(a) * np.linalg.norm(b) for a, b in zip(first, last, strict=True))
    sweeps, moved = 0, True
    while moved:
        sweeps, moved = sweeps + 1, False
        for l in reversed(range(len(widths))):
            gains = gains_of(first, stack, l)
            order, sign = assign(gains, signs)
            if np.sum(sign * gains[np.arange(widths[l]), order]) - np.trace(gains) <= least:
                continue
            move(stack, l, order, sign)
            permutations[l], flips[l] = permutations[l][order], sign * flips[l][order]
            moved = True
    return Matching(stack, permutations, flips, sweeps)


def gains_of(first: list[np.ndarray], last: list[np.ndarray], l: int) -> np.ndarray:
    """The inner products (n, n) of the weights of the units of hidden layer l: those into and those out of them."""
    n = first[l].shape[1]
    return first[l].T @ last[l] + first[l + 1][:n] @ last[l + 1][:n].T


def assign(gains: np.ndarray, signs: bool) -> tuple[np.ndarray, np.ndarray]:
    """The units in those places, and with those signs, in which the sum of their gains is largest."""
    from scipy.optimize import linear_sum_assignment  # here, as it is slow to import

    _, order = linear_sum_assignment(np.abs(gains) if signs else gains, maximize=True)
    chosen = gains[np.arange(len(order)), order]
    return order, np.where(chosen < 0, -1.0, 1.0) if signs else np.ones(len(order))


def move(stack: list[np.ndarray], l: int, order: np.ndarray, sign: np.ndarray) -> None:
    """Put the units of hidden layer l in this order, with these signs, in place."""
    n = len(order)
    stack[l] = stack[l][:, order] * sign
    stack[l + 1][:n] = stack[l + 1][order] * sign[:, None]


def is_tied(gains: np.ndarray, signs: bool) -> bool:
    """Whether two units, matched as they stand, could change places at no loss, or one its sign."""
    chosen = np.diag(gains)
    gains = np.abs(gains) if signs else gains
    lost = chosen[:, None] + chosen[None] - gains - gains.T
    np.fill_diagonal(lost, 2 * chosen if signs else np.inf)
    return bool(lost.size and lost.min() <= SAME * np.abs(chosen).max())
