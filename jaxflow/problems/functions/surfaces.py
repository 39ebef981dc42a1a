"""Classical surfaces in two and more dimensions: curved valleys, several minima, saddles between them."""

import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow.problems.problem import Problem


def _eigenvalues_of(hessian) -> jnp.ndarray:
    return jnp.asarray(np.linalg.eigvalsh(hessian), float)


def _rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def rosenbrock(dimension: int = 2) -> Problem:
    r"""A curved valley, $L(x) = \sum_{i<d} 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2$, from (−1.2, 1, −1.2, …).

    The minimum, 0, is at (1, …, 1); in two dimensions its curvatures are .3994 and 1001.6. From four dimensions on
    there is another local minimum, which is not listed: in four dimensions at (−.776, .613, .382, .146), of value
    3.70.

    **Arguments**

    - `dimension` d: an integer at least 2 (static).

    **Returns** a `Problem` with `minimum`, `minima` and `curvature`.

    **Raises** `ValueError` or `TypeError` when `dimension` is not an integer at least 2.

    Source: Rosenbrock (1960); the other minimum: Kok & Sandrock (2009); the start: Moré, Garbow & Hillstrom (1981).

    >>> problem = rosenbrock()
    >>> float(problem.objective(problem.params)), problem.curvature.tolist()
    (24.2, [0.3994, 1001.6006])
    """
    _check.require_integer("dimension", dimension, 2)
    # At (1, …, 1) every residual is 0, so the Hessian is that of the squared linearised residuals.
    hessian = np.diag(np.full(dimension - 1, -400.0), 1)
    hessian += (
        hessian.T + np.diag([802.0] * (dimension - 1) + [0.0]) + np.diag([0.0] + [200.0] * (dimension - 1))
    )
    return Problem(
        objective=_rosenbrock,
        params=jnp.asarray(np.resize([-1.2, 1.0], dimension), float),
        minimum=0.0,
        minima=jnp.ones((1, dimension)),
        curvature=_eigenvalues_of(hessian),
        name="rosenbrock",
    )


def _beale(x):
    residual = lambda k, c: (c - x[0] * (1.0 - x[1] ** k)) ** 2
    return residual(1, 1.5) + residual(2, 2.25) + residual(3, 2.625)


def beale() -> Problem:
    r"""A plateau with sharp corners, $L(x, y) = \sum_{k=1}^3 (c_k - x (1 - y^k))^2$, from (1, 1).

    c = (1.5, 2.25, 2.625); the minimum, 0, is at (3, ½).

    **Returns** a `Problem` with `minimum`, `minima` and `curvature`.

    Source: Beale (1958), in Moré, Garbow & Hillstrom (1981).

    >>> problem = beale()
    >>> float(problem.objective(problem.params)), problem.curvature.tolist()
    (14.203125, [0.3015, 48.9798])
    """
    jacobian = np.array([[-0.5, 3.0], [-0.75, 3.0], [-0.875, 2.25]])
    return Problem(
        objective=_beale,
        params=jnp.ones(2),
        minimum=0.0,
        minima=jnp.asarray([[3.0, 0.5]], float),
        curvature=_eigenvalues_of(2 * jacobian.T @ jacobian),
        name="beale",
    )


def _himmelblau(x):
    return (x[0] ** 2 + x[1] - 11.0) ** 2 + (x[0] + x[1] ** 2 - 7.0) ** 2


def himmelblau() -> Problem:
    """Four equal minima, $L(x, y) = (x^2 + y - 11)^2 + (x + y^2 - 7)^2$, from the origin.

    `minima` holds all four, each of value 0; `saddles` the four passes between them, of heights 13.31, 67.72,
    104.02 and 178.34. The curvatures at (3, 2) are 54 ± 20√2.

    **Returns** a `Problem` with `minimum`, `minima`, `saddles` and `curvature`.

    Source: Himmelblau (1972).

    >>> problem = himmelblau()
    >>> problem.minima.tolist()
    [[3.0, 2.0], [-2.805, 3.131], [-3.779, -3.283], [3.584, -1.848]]
    """
    minima = [
        [3.0, 2.0],
        [-2.805118086952745, 3.131312518250573],
        [-3.779310253377747, -3.283185991286169],
        [3.5844283403304917, -1.8481265269644034],
    ]
    saddles = [
        [3.385154183607021, 0.07385187983774928],
        [0.08667750455539634, 2.884254701174776],
        [-3.0730257507643897, -0.08135304428796751],
        [-0.12796134673068005, -1.9537149802445766],
    ]
    return Problem(
        objective=_himmelblau,
        params=jnp.zeros(2),
        minimum=0.0,
        minima=jnp.asarray(minima, float),
        saddles=jnp.asarray(saddles, float),
        curvature=_eigenvalues_of([[74.0, 20.0], [20.0, 34.0]]),
        name="himmelblau",
    )


# One row a Gaussian: its height, the three coefficients of its exponent, its centre.
_GAUSSIANS = np.array(
    [
        [-200.0, -1.0, 0.0, -10.0, 1.0, 0.0],
        [-100.0, -1.0, 0.0, -10.0, 0.0, 0.5],
        [-170.0, -6.5, 11.0, -6.5, -0.5, 1.5],
        [15.0, 0.7, 0.6, 0.7, -1.0, 1.0],
    ]
)


def _muller_brown(x):
    height, a, b, c, x0, y0 = jnp.asarray(_GAUSSIANS.T, x.dtype)
    dx, dy = x[0] - x0, x[1] - y0
    return jnp.sum(height * jnp.exp(a * dx**2 + b * dx * dy + c * dy**2))


def muller_brown() -> Problem:
    r"""A reaction path over two passes, a sum of four Gaussians $\sum_k A_k e^{q_k(x, y)}$, from (0.3, 1.4).

    | | x | y | L |
    |---|---|---|---|
    | minimum | −0.5582 | 1.4417 | −146.6995 |
    | minimum | 0.6235 | 0.0280 | −108.1667 |
    | minimum | −0.0500 | 0.4667 | −80.7678 |
    | saddle | 0.2125 | 0.2930 | −72.2489 |
    | saddle | −0.8220 | 0.6243 | −40.6648 |

    The surface is meant for −1.5 ≤ x ≤ 1.2, −0.2 ≤ y ≤ 2; its last term grows, so that L is huge far away.

    **Returns** a `Problem` with `minimum`, `minima`, `saddles` and `curvature`.

    Source: Müller & Brown (1979).

    >>> problem = muller_brown()
    >>> problem.minimum, problem.curvature.tolist()
    (-146.6995, [410.53, 4068.20])
    """
    minima = [
        [-0.5582236346330243, 1.4417258418046686],
        [0.6234994049308765, 0.02803775852868566],
        [-0.05001082299820607, 0.4666941048719721],
    ]
    saddles = [[0.21248658200066198, 0.2929883251073678], [-0.8220015587327322, 0.6243128028148713]]
    return Problem(
        objective=_muller_brown,
        params=jnp.asarray([0.3, 1.4], float),
        minimum=-146.69951720995402,
        minima=jnp.asarray(minima, float),
        saddles=jnp.asarray(saddles, float),
        curvature=jnp.asarray([410.53113469, 4068.19895503], float),
        name="muller_brown",
    )
