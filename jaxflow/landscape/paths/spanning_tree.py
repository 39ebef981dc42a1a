"""Many minima connected: the spanning tree whose paths are lowest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxflow import _check
from jaxflow._losses.models import Trainable, join_model, split_model
from jaxflow.landscape.paths.bands import neb
from jaxflow.landscape.paths.curves import curve
from jaxflow.landscape.paths.path import Path, is_traced
from jaxflow.landscape.paths.straight import interpolate, refine

PyTree = Any

PATHS: dict[str, Callable[..., Path]] = {"straight": interpolate, "neb": neb, "curve": curve}

SAME = 1e-6  # of the range of all saddles: what two saddles that are one may differ by


@dataclass(frozen=True, repr=False, eq=False)
class SpanningTree:
    """The lowest paths that connect m minima, as `connect` returns them.

    - `edges` (m − 1, 2): the pairs of minima that are connected, by their numbers, lowest saddle first.
    - `paths`: a tuple of the m − 1 paths, each from the first to the second of its pair.
    - `saddles` (m, m): the highest loss on the path between every two minima, for bands also at nine points between
      neighbouring images; on the diagonal the losses at the minima.
    - `passes` (m, m): the highest saddle on the way through the tree from one to the other. No other tree of these
      paths has a lower one.
    - `losses` (m,): the losses at the minima.

    All but the paths are NumPy arrays.
    """

    edges: np.ndarray
    paths: tuple[Path, ...]
    saddles: np.ndarray
    passes: np.ndarray
    losses: np.ndarray

    @property
    def message(self) -> str:
        """What the tree connects, and which of its paths are lost."""
        bad = [not np.isfinite(path.saddle) for path in self.paths]
        lost = [tuple(edge) for edge in self.edges[bad].tolist()]
        named = f"; the paths {', '.join(map(str, lost))} are lost" if lost else ""
        return f"{len(self.losses)} minima connected, the highest pass {np.max(self.passes):.6g}{named}"

    def __repr__(self):
        return f"SpanningTree({self.message})"


def connect(
    objective: Any,
    minima: PyTree,
    *,
    path: str = "neb",
    key: jax.Array | None = None,
    trainable: Trainable = None,
    **options: Any,
) -> SpanningTree:
    r"""Connect many minima by the minimum spanning tree of the paths between them.

    A path is found between every two minima. The tree that is returned has the least sum of saddles, and therefore,
    between any two minima, the way whose highest saddle is lowest. Of two paths over one saddle it takes the
    shorter.

    **Arguments**

    - `objective`: an `Objective` or any differentiable function `loss(params) -> scalar`.
    - `minima`: a pytree of the parameters of m ≥ 2 minima, stacked: leaves (m, …).
    - `path`: how two minima are connected: `"neb"`, `"curve"` or `"straight"`, by `interpolate`.
    - `key`: the random key that curves need; each pair has its own.
    - `trainable`: what of the models moves, as in `iterate`; only this is stacked.
    - `options`: further arguments of `neb`, `curve` or `interpolate`.

    **Returns** a `SpanningTree`. All paths share one compiled program, which is called m(m − 1)/2 times; the tree is
    chosen outside of it, so `connect` does not work under `jit` or `vmap`.

    **Raises** `ValueError` for an unknown `path`, fewer than two minima, leaves that differ in m, or a missing `key`;
    `TypeError` for traced minima; and what the chosen function raises.

    Source: Draxler, Veschgini, Salmhofer & Hamprecht 2018, 1803.00885; the tree: Prim 1957.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> problem = jf.problems.muller_brown()
    >>> tree = jf.landscape.connect(problem.objective, problem.minima, points=9)
    >>> print(tree.edges.tolist(), [round(float(path.saddle), 2) for path in tree.paths])
    [[1, 2], [0, 2]] [-72.25, -40.66]
    """
    _check.require_choice("path", path, PATHS)
    trained, rest = split_model(minima, trainable)
    shapes = _check.leaf_shapes(trained)
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(
            "minima must be a pytree of stacked parameters, leaves (m, …) with one m at least 2, got leaves of "
            f"shapes {shapes}."
        )
    if any(map(is_traced, jax.tree.leaves(trained))):
        raise TypeError("minima must be arrays with numbers, as the tree depends on them, got traced ones.")
    if path == "curve" and key is None:
        raise ValueError("key must be given for curves, such as jax.random.key(0), got None.")
    m = sizes.pop()
    saddles, lengths, found = np.zeros((m, m)), np.zeros((m, m)), {}
    for i in range(m):
        for j in range(i + 1, m):
            more = {"key": jax.random.fold_in(key, i * m + j)} if path == "curve" and key is not None else {}
            ends = [join_model(jax.tree.map(lambda x, k=k: x[k], trained), rest) for k in (i, j)]
            edge = PATHS[path](objective, *ends, trainable=trainable, **more, **options)
            found[i, j] = edge
            # Between the images of a band the loss may be higher.
            dense = refine(objective, edge) if path == "neb" else edge
            saddles[i, j] = saddles[j, i] = dense.saddle
            lengths[i, j] = lengths[j, i] = edge.arclength[-1]
            saddles[i, i], saddles[j, j] = edge.losses[0], edge.losses[-1]
    edges = spanning_edges(saddles, lengths)
    return SpanningTree(
        edges=np.array(edges),
        paths=tuple(found[edge] for edge in edges),
        saddles=saddles,
        passes=passes_of(saddles, edges),
        losses=np.diag(saddles).copy(),
    )


def spanning_edges(weights: np.ndarray, lengths: np.ndarray) -> list[tuple[int, int]]:
    """The edges (i < j) of the minimum spanning tree, lightest first; a weight that is no number is heaviest.

    A long path may cross the same saddle as a short one. Of weights that are equal but for rounding the shorter wins.
    """
    finite = weights[np.isfinite(weights)]
    rounding = SAME * np.ptp(finite) if finite.size else 0.0
    weights = np.where(np.isnan(weights), np.inf, weights)
    inside, edges = [0], []
    while len(inside) < len(weights):
        pairs = [(i, j) for i in inside for j in range(len(weights)) if j not in inside]
        lightest = min(weights[pair] for pair in pairs)
        same = [pair for pair in pairs if weights[pair] <= lightest + rounding]
        i, j = min(same, key=lambda pair: lengths[pair])
        inside.append(j)
        edges.append((min(i, j), max(i, j)))
    return sorted(edges, key=lambda pair: weights[pair])


def passes_of(saddles: np.ndarray, edges: list[tuple[int, int]]) -> np.ndarray:
    """The highest saddle between every two minima on the way through a tree, whose edges come lowest first."""
    passes, groups = np.diag(np.diag(saddles)), [{i} for i in range(len(saddles))]
    for i, j in edges:
        one, other = (next(group for group in groups if k in group) for k in (i, j))
        for p in one:
            for q in other:
                passes[p, q] = passes[q, p] = saddles[i, j]
        groups = [group for group in groups if group not in (one, other)] + [one | other]
    return passes
