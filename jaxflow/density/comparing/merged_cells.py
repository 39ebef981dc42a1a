"""Boxes of cells that expect about equally many members: where the cells of a grid are merged for a test."""

import numpy as np

LEAST = 5  # members that a box must expect for the chi-square law

Box = tuple[slice, ...]


def merge_cells(expected: np.ndarray, most: int) -> list[Box]:
    """Boxes that cover a grid, each of at least 5 expected members and no more boxes than asked for.

    The grid is cut in two along the axis in which its members spread more widely, so that the parts expect members
    in proportion to the number of boxes that they will become; and each part again. Only the expected numbers
    decide, never a sample, so that the law of a statistic is that of fixed cells.

    - `expected`: how many members each cell expects, (n,) or (n, m).
    - `most`: the largest number of boxes.
    """
    most = min(most, int(expected.sum() // LEAST))
    whole = tuple(slice(0, n) for n in expected.shape)
    return _cut(expected, whole, most) if most > 1 else [whole]


def _cut(expected: np.ndarray, box: Box, most: int) -> list[Box]:
    if most < 2:
        return [box]
    inside = expected[box]
    half = most // 2
    for axis in _axes_by_spread(inside):
        along = inside.sum(tuple(i for i in range(inside.ndim) if i != axis))
        below = np.cumsum(along)[:-1]
        allowed = (below >= LEAST) & (along.sum() - below >= LEAST)
        if not allowed.any():
            continue
        aim = along.sum() * half / most
        at = int(np.argmin(np.where(allowed, np.abs(below - aim), np.inf))) + 1
        start = box[axis].start
        first, second = (
            (*box[:axis], ends, *box[axis + 1 :])
            for ends in (slice(start, start + at), slice(start + at, box[axis].stop))
        )
        # A cell that holds much may leave one side with more or less than its part.
        share = [min(n, int(expected[b].sum() // LEAST)) for n, b in ((half, first), (most - half, second))]
        return [*_cut(expected, first, share[0]), *_cut(expected, second, share[1])]
    return [box]


def _axes_by_spread(inside: np.ndarray) -> list[int]:
    """The axes by the standard deviation of the members' cells, in units of the whole box."""
    if inside.ndim == 1:
        return [0]
    spreads = []
    for axis, n in enumerate(inside.shape):
        along = inside.sum(1 - axis) / max(inside.sum(), np.finfo(float).tiny)
        cell = np.arange(n)
        spreads.append(np.sqrt(max(along @ cell**2 - (along @ cell) ** 2, 0)))
    return [int(i) for i in np.argsort(-np.array(spreads), kind="stable")]
