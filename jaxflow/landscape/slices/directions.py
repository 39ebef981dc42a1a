"""What directions are, and those that two or three points span or the Hessian has."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable, split_model
from jaxflow._norms import norm
from jaxflow.curvature.products import real_parameters
from jaxflow.curvature.spectrum.eigenpairs import top_eigenpairs
from jaxflow.landscape.paths.ends import as_end, require_like_end

PyTree = Any
MARGIN = 0.15  # of what a default span has to show, on either side
STRAIGHT = 1e-6  # of the distance from a to c: so near to the line through a and b there is no plane


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False, eq=False)
class Directions:
    r"""Directions $d_1, \dots, d_k$ in the space of parameters, for `slice` and `project`.

    - `vectors`: a pytree like the parameters with leaves (k, …). For a model it has `None` in the place of what is
      not trained.
    - `kind`: what they are: "random", "principal", "eigen" or "between"; static.
    - `values` (k,): for principal directions the shares of the variance that they hold, for eigen directions the
      eigenvalues, otherwise the norms of the vectors.
    - `span` (k, 2): the least and the largest coordinate along each that `slice` covers unless it is told another;
      `None` where nothing suggests one.
    - `zeros`: how many filters of each leaf, by its path, have norm 0 and therefore direction 0.
    - `records`: for principal directions the number of records from which they were found, otherwise 0.

    It is a pytree.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> jf.landscape.between(jnp.zeros(2), jnp.array([3.0, 4.0]))
    Directions(1 direction between the points, of norm 1)
    """

    vectors: PyTree
    kind: str = field(metadata={"static": True})
    values: jax.Array
    span: jax.Array | None = None
    zeros: dict[str, jax.Array] = field(default_factory=dict)
    records: Any = 0

    def __len__(self):
        return self.values.shape[0]

    def __getitem__(self, i: int) -> PyTree:
        """The vector of direction i, a pytree like what is trained of the parameters."""
        return jax.tree.map(lambda x: x[i], self.vectors)

    @property
    def labels(self) -> tuple[str, ...]:
        """What to write at the axes of a picture."""
        shown = [f"{value:.3g}" for value in np.asarray(self.values)]
        if self.kind == "principal":
            return tuple(
                f"principal direction {i + 1} ({100 * float(x):.0f} %)" for i, x in enumerate(self.values)
            )
        if self.kind == "eigen":
            return tuple(f"eigenvector of the eigenvalue {value}" for value in shown)
        if self.kind == "between":
            return ("from a to b", "towards c, across")[: len(self)]
        return tuple(f"random direction {i + 1}" for i in range(len(self)))

    @property
    def message(self) -> str:
        """What the directions are, and how to read them."""
        shown = ", ".join(f"{value:.3g}" for value in np.asarray(self.values))
        many = f"{len(self)} direction{'s' if len(self) > 1 else ''}"
        if self.kind == "principal":
            walk = ", ".join(f"{x:.2g}" for x in np.asarray(random_walk_shares(self.records, len(self))))
            held = f"they hold {shown} of the variance of {int(self.records)} records"
            return f"{many}, principal: {held}; a random walk's would hold {walk}"
        if self.kind == "eigen":
            return f"{many}, of the eigenvalues {shown}"
        said = (
            f"{many} {'between the points' if self.kind == 'between' else 'drawn at random'}, of norm {shown}"
        )
        zeros = {name: int(count) for name, count in self.zeros.items() if int(count)}
        if zeros:
            where = ", ".join(f"{name} ({count})" for name, count in zeros.items())
            said += f"; filters of norm 0 have direction 0: {where}"
        return said

    def __repr__(self):
        shown = (int, np.ndarray, jax.Array)
        if any(isinstance(leaf, Tracer) or not isinstance(leaf, shown) for leaf in jax.tree.leaves(self)):
            return "Directions(<traced>)"
        if np.ndim(self.values) != 1:
            return f"Directions(values of shape {np.shape(self.values)})"
        return f"Directions({self.message})"


@compiled(static=("count",))
def random_walk_shares(records: Any, count: int) -> jax.Array:
    r"""The shares of the variance that the principal directions of a random walk in high dimension hold.

    The covariance of n records about their mean has the eigenvalues $1/(4 \sin^2(\pi k / 2n))$, whose sum is
    $(n^2 - 1)/6$; for n → ∞ the shares are $6/(\pi k)^2$ (Antognini & Sohl-Dickstein 2018, 1806.08805).
    """
    k, n = jnp.arange(1.0, count + 1), jnp.maximum(jnp.asarray(records, float), 2)
    return jnp.where(k < n, 1.5 / jnp.sin(jnp.pi * k / (2 * n)) ** 2 / (n**2 - 1), 0)


def between(a: PyTree, b: PyTree, c: PyTree | None = None, *, trainable: Trainable = None) -> Directions:
    r"""The line through two points, or the plane through three, with the point a as its origin.

    $d_1 = (b - a)/|b - a|$, and $d_2$ is the part of $c - a$ across $d_1$, of length 1. So the coordinates of a are
    (0, 0), those of b are (|b − a|, 0), and distances in the plane are distances between parameters.

    **Arguments**

    - `a`, `b`, `c`: pytrees of one structure and of one shape, such as three minima, or the three points that a
      Bézier curve bends between. Without `c` there is one direction.
    - `trainable`: what of the models moves, as in `iterate`.

    **Returns** `Directions` for a slice around `a`, with a `span` that shows all points. It works under `jit` and
    `vmap`.

    **Raises** `TypeError` for points that are not real or not of one structure; `ValueError` for other shapes,
    `b` equal to `a`, or a `c` on the line through both.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov & Wilson 2018, 1802.10026.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> plane = jf.landscape.between(jnp.zeros(2), jnp.array([3.0, 4.0]), jnp.array([0.0, 5.0]))
    >>> print(plane.vectors.round(6), plane.span[0].round(6))
    [[ 0.6  0.8]
     [-0.8  0.6]] [-0.75  5.75]
    """
    points = [real_parameters(split_model(a, trainable)[0], "a")]
    for name, point in (("b", b), ("c", c)):
        if name == "b" or c is not None:
            trained = real_parameters(split_model(point, trainable)[0], name)
            require_like_end(name, trained, points[0])
            points.append(as_end(trained, points[0]))
    vectors, ends, lengths = _span_by_points(points)
    if not isinstance(lengths, Tracer):
        for name, length in zip("bc", np.asarray(lengths), strict=False):
            rule = "differ from a" if name == "b" else "not lie on the line through a and b"
            if length <= (STRAIGHT if name == "c" else 0):
                raise ValueError(
                    f"{name} must {rule}, got a point that is only {length:.3g} of its distance away from there."
                )
    return Directions(vectors, "between", jnp.ones_like(lengths), span=with_margin(ends))


@compiled
def _span_by_points(points):
    """The unit vectors, the coordinates of the points, and the parts of them that are new directions."""
    steps = [jax.tree.map(jnp.subtract, point, points[0]) for point in points[1:]]
    scale = lambda tree, factor: jax.tree.map(lambda x: x * factor.astype(x.dtype), tree)
    unit = lambda tree: scale(tree, 1 / jnp.where(norm(tree) > 0, norm(tree), 1))
    first = unit(steps[0])
    vectors, lengths, ends = [first], [norm(steps[0])], [[norm(steps[0])]]
    if len(steps) == 2:
        along = inner(first, steps[1])
        across = jax.tree.map(jnp.subtract, steps[1], scale(first, along))
        vectors.append(unit(across))
        whole = norm(steps[1])
        lengths.append(norm(across) / jnp.where(whole > 0, whole, 1))
        ends = [[ends[0][0], jnp.zeros_like(along)], [along, norm(across)]]
    ends = jnp.stack([jnp.stack([jnp.asarray(x) for x in row]) for row in ends])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *vectors)
    return stacked, jnp.concatenate([jnp.zeros_like(ends[:1]), ends]), jnp.stack(lengths)


def inner(a: PyTree, b: PyTree) -> jax.Array:
    """The inner product of two pytrees of real arrays."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    leaves = jax.tree.leaves(products)
    return jnp.stack([leaf.astype(jnp.result_type(*leaves)) for leaf in leaves]).sum()


def with_margin(coordinates: jax.Array) -> jax.Array:
    """The span (k, 2) of coordinates (n, k), with a margin; those that are not finite are passed over."""
    finite = jnp.isfinite(coordinates)
    low = jnp.where(finite, coordinates, jnp.inf).min(0)
    high = jnp.where(finite, coordinates, -jnp.inf).max(0)
    # A direction along which nothing moves is shown as far as the others.
    width = jnp.where(high > low, high - low, jnp.maximum((high - low).max(), jnp.finfo(low.dtype).tiny))
    return jnp.stack([low - MARGIN * width, high + MARGIN * width], 1)


def eigen_directions(
    objective: Any, params: PyTree, count: int = 2, *, trainable: Trainable = None
) -> Directions:
    r"""The eigenvectors of the largest eigenvalues of the Hessian $\nabla^2 L(\theta)$: the sharpest directions.

    **Arguments**

    - `objective`: an `Objective` or any twice differentiable function `loss(params) -> scalar`.
    - `params` θ: a pytree whose real arrays are trained.
    - `count`: the number of directions, at most that of the parameters (static).
    - `trainable`: what of `params` is trained, as in `iterate`.

    **Returns** `Directions` of norm 1, largest eigenvalue first. Their `span` reaches to where the quadratic
    approximation, without its slope, has risen by one: $\pm\sqrt{2/|\lambda|}$. It is compiled when called plainly,
    and works under `jit` and `vmap`. `curvature.top_eigenpairs` has the residuals, and `escape_directions` the
    eigenvectors of the other end of the spectrum.

    **Raises** `TypeError` for an objective that is not a function or parameters that are not real; `ValueError` for a
    `count` below 1 or above the number of parameters.

    Source: Yao, Gholami, Keutzer & Mahoney 2020, 1912.07145.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 8.0, 4.0]) * x**2)
    >>> jf.landscape.eigen_directions(loss, jnp.zeros(3))
    Directions(2 directions, of the eigenvalues 8, 4)
    """
    _check.require_integer("count", count, 1)
    pairs = top_eigenpairs(objective, params, count, trainable=trainable)
    size = jnp.abs(pairs.values)
    reach = jnp.sqrt(2 / jnp.where(size > 0, size, 1))
    return Directions(pairs.vectors, "eigen", pairs.values, span=jnp.stack([-reach, reach], 1))
