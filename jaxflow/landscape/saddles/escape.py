"""Leaving a saddle: in which directions the loss falls, and how long descent takes to be gone."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import open_real, operator
from jaxflow.curvature.spectrum.eigenpairs import Eigenpairs, find_pairs, pairs_of
from jaxflow.curvature.spectrum.krylov import Block
from jaxflow.curvature.spectrum.traces import DENSE, matrix

PyTree = Any
POINTS = 600  # of the trapezoid rule, whose error is then below rounding


def escape_directions(
    objective: Any,
    params: PyTree,
    k: int = 1,
    *,
    dense: bool | None = None,
    products: int | None = None,
    trainable: Trainable = None,
) -> Eigenpairs:
    r"""The k lowest eigenvalues of the Hessian, most negative first, and their unit eigenvectors.

    At a saddle, gradient flow leaves along those with an eigenvalue λ < 0: a displacement in one of them grows as
    $e^{|\lambda| t}$. `escape_time` says how long it takes. Where fewer than k eigenvalues are negative, the last
    ones returned are positive or 0.

    **Arguments**

    - `objective`: an `Objective` or any twice differentiable function `loss(params) -> scalar`.
    - `params`: a pytree whose real arrays are trained, P numbers in all, such as the `params` of a `CriticalPoint`.
    - `k`: the number of eigenpairs, at most P (static).
    - `dense`: `True` forms the Hessian, by P products and P³ operations, and is exact, also where an eigenvalue is
      repeated; `False` finds them by Lanczos iteration as `top_eigenpairs` does (static). By default it is dense for
      at most 2,000 parameters.
    - `products`: the number of Hessian products allowed to the iteration (static), default 20 + 8k. Eigenvalues near
      0 need more where the positive ones are much larger.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** `Eigenpairs`, the lowest first, with their residuals. It is compiled when called plainly, and works
    under `jit` and `vmap`.

    **Raises** `TypeError` for an objective that is not a function, or parameters that are not real floats;
    `ValueError` for k < 1 or above P, or products < k.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> found = jf.landscape.escape_directions(lambda x: x[0] ** 2 - 2 * x[1] ** 2, jnp.zeros(2))
    >>> print(found.values, abs(found.vectors))
    [-4.] [[0. 1.]]
    """
    objective, params = open_real(objective, params, trainable)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    _check.require_integer("k", k, 1)
    _check.require("k", k, k <= size, f"at most {size}, the number of parameters")
    if products is not None:
        _check.require_integer("products", products, k)
        products = int(products)
    dense = size <= DENSE if dense is None else bool(dense)
    return _escape_directions(objective, params, k=int(k), dense=dense, products=products)


@compiled(static=("k", "dense", "products"))
def _escape_directions(objective, params, k: int, dense: bool, products: int | None):
    warn_unless_twice_differentiable(objective, params)
    hessian = operator(objective, params)
    if dense:
        square = matrix(hessian)
        values, columns = jnp.linalg.eigh(square)
        vectors = columns[:, :k].T
        images = vectors @ square
        residuals = jnp.linalg.norm(images - values[:k, None] * vectors, axis=1)
        spent = jnp.asarray(hessian.size, jnp.int32)
        return pairs_of(hessian, Block(values[:k], vectors, images, residuals, jnp.abs(values).max(), spent))
    downward = hessian._replace(apply=lambda v: -hessian.apply(v))
    block = find_pairs(downward, k, products)
    return pairs_of(hessian, block._replace(values=-block.values))


def escape_time(
    eigenvalue: Any,
    radius: Any,
    *,
    displacement: Any = 0.0,
    temperature: Any = 0.0,
    learning_rate: Any = 0.0,
) -> jax.Array:
    r"""The time in which the root mean square of a component grows from $|c|$ to r along an eigenvalue λ < 0.

    Where the loss is quadratic, a component x obeys, exactly,

    - gradient flow, $x = e^{|\lambda| t} c$: $t = \ln(r/|c|)/|\lambda|$;
    - its Langevin equation $dx = -\lambda x\,dt + \sqrt{2T}\,dW$: $t = \frac{1}{2|\lambda|}
      \ln \frac{r^2 + T/|\lambda|}{c^2 + T/|\lambda|}$;
    - k steps of gradient descent at the rate η, $x_k = (1 + \eta|\lambda|)^k c$, and of SGD,
      $E x_{k+1}^2 = (1 + \eta|\lambda|)^2 E x_k^2 + 2 \eta T$.

    All four are $t = \frac{1}{2\gamma} \ln\frac{r^2 + q}{c^2 + q}$ with the growth rate $\gamma = \ln(1 +
    \eta|\lambda|)/\eta$, which is |λ| for η = 0, and $q = \frac{T}{|\lambda| (1 + \eta|\lambda|/2)}$. For small
    noise and c = 0 it is $\frac{1}{2\gamma} \ln\frac{r^2}{q}$.

    **Arguments** are numbers, or arrays that broadcast:

    - `eigenvalue` λ: below 0, in units of a curvature.
    - `radius` r: above 0, the distance at which the component has left. The quadratic must hold up to there.
    - `displacement` c: the component at the start.
    - `temperature` T: of the component's noise, at least 0. For SGD it is $\eta s^2/2$, where $s^2$ is the variance
      of the mini-batch gradient's component.
    - `learning_rate` η: of the discrete method, at least 0; 0 for the flow and the SDE.

    **Returns** the time t, on the clock of steps × learning rate; k = t/η steps, not rounded. It is infinite without
    noise and displacement, and 0 for a start beyond r. It may be traced and differentiated.

    **Raises** `ValueError` for an eigenvalue that is not negative, a radius that is not positive, or a temperature or
    rate below 0; `TypeError` for arguments that are not real numbers.

    Source: Kramers 1940 for the linear equation; for descent: Du, Jin, Lee, Jordan, Póczos & Singh 2017,
    1705.10412.

    >>> import jaxflow as jf
    >>> print(jf.landscape.escape_time(-2.0, 1.0, displacement=0.01).round(4))  # ln(100)/2
    2.3026
    >>> print(jf.landscape.escape_time(-2.0, 1.0, temperature=1e-4, learning_rate=0.1).round(4))
    2.7421
    """
    _check_downward(eigenvalue)
    _check.require_positive(radius=radius)
    _check.require_nonnegative(temperature=temperature, learning_rate=learning_rate)
    slope, r, c, heat, rate = _floats(eigenvalue, radius, displacement, temperature, learning_rate)
    slope = jnp.abs(slope)
    growth = jnp.where(rate > 0, jnp.log1p(rate * slope) / jnp.where(rate > 0, rate, 1), slope)
    spread = heat / (slope * (1 + rate * slope / 2))
    return jnp.maximum(jnp.log((r**2 + spread) / (c**2 + spread)) / (2 * growth), 0)


def mean_exit_time(eigenvalue: Any, radius: Any, *, temperature: Any, displacement: Any = 0.0) -> jax.Array:
    r"""The mean time at which $dx = -\lambda x\,dt + \sqrt{2T}\,dW$ with λ < 0 first leaves $|x| < r$.

    It is exact, $\tau = \frac{2}{|\lambda|} \int_{z_c}^{z_r} F(u)\,du$, with Dawson's function F and $z = |x|
    \sqrt{|\lambda|/2T}$ at the start c and at r. For c = 0 and small noise it tends to
    $\frac{1}{|\lambda|} (\ln\frac{r}{\sqrt{T/|\lambda|}} + \frac{\gamma + \ln 2}{2})$ with Euler's
    γ = .5772: by (γ + ln 2)/2|λ| = .6352/|λ| more than `escape_time`. SGD at a small rate leaves in this time.

    **Arguments** are numbers, or arrays that broadcast:

    - `eigenvalue` λ: below 0, in units of a curvature.
    - `radius` r: above 0.
    - `temperature` T: of the noise, above 0. For SGD it is $\eta s^2/2$, with the variance $s^2$ of the mini-batch
      gradient's component.
    - `displacement` c: the start.

    **Returns** the mean time, on the clock of steps × learning rate, 0 for a start beyond r. The relative accuracy is
    1e-12 in float64. It may be traced and differentiated.

    **Raises** `ValueError` for an eigenvalue that is not negative, or a radius or temperature that is not positive;
    `TypeError` for arguments that are not real numbers.

    Source: the double integral of Gardiner 1985, section 5.2; as one integral over Dawson's function it is derived
    in the tests of this library.

    >>> import jaxflow as jf
    >>> print(jf.landscape.mean_exit_time(-2.0, 1.0, temperature=1e-4).round(6))
    2.79345
    """
    _check_downward(eigenvalue)
    _check.require_positive(radius=radius, temperature=temperature)
    slope, r, heat, c = _floats(eigenvalue, radius, temperature, displacement)
    slope = jnp.abs(slope)
    scale = slope / (2 * heat)
    left = _integral_of_dawson(scale * r**2) - _integral_of_dawson(scale * jnp.minimum(jnp.abs(c), r) ** 2)
    return 2 / slope * left


@compiled
def _integral_of_dawson(square: jax.Array) -> jax.Array:
    """∫₀ᶻ F(u) du by the trapezoid rule, of z².

    It is ½ ∫₀^∞ (1 − exp(−z² sech² s)) ds, of a function even and analytic: the rule converges exponentially.
    """
    end = 0.5 * jnp.log1p(square) + 20
    s = jnp.linspace(jnp.zeros_like(end), end, POINTS, axis=-1)
    heights = -jnp.expm1(-square[..., None] / jnp.cosh(s) ** 2)
    return 0.5 * end / (POINTS - 1) * (jnp.sum(heights, -1) - 0.5 * heights[..., 0])


def _check_downward(eigenvalue: Any) -> None:
    found = _check.values(eigenvalue)
    if found is None and not isinstance(eigenvalue, jax.Array):
        raise TypeError(f"eigenvalue must be a number below 0, got {eigenvalue!r}.")
    if found is not None and found.dtype.kind in "bc":
        raise TypeError(f"eigenvalue must be a real number below 0, got dtype {found.dtype}.")
    if found is not None:
        _check.require_each("eigenvalue", found, found < 0, "below 0")


def _floats(*numbers: Any) -> tuple[jax.Array, ...]:
    """Real numbers of one type and shape."""
    arrays = [jnp.asarray(x) for x in numbers]
    given = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating) and not x.weak_type]
    dtype = max(given, key=lambda one: one.itemsize, default=jnp.result_type(float))
    return tuple(jnp.broadcast_arrays(*(x.astype(dtype) for x in arrays)))
