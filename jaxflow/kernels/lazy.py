"""Training in function space: what a fixed tangent kernel makes of the predictions, without any parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._traceable import traceable
from jaxflow.dynamics import Field

PyTree = Any


class Predictions(NamedTuple):
    """Outputs at the training examples, and at others: what moves in function space.

    - `train`: (N,) or (N, C), along times (T, N) or (T, N, C).
    - `test`: the same for M other examples; `None` where there are none.
    """

    train: Any
    test: Any = None


def lazy_predictions(
    kernel: jax.Array,
    start: Predictions,
    targets: jax.Array,
    times: Any,
    *,
    test_kernel: jax.Array | None = None,
) -> Predictions:
    r"""The predictions along gradient flow of the mean squared error with a fixed tangent kernel, in closed form.

    With the loss $\frac1{2N}\sum_i |f_i - Y_i|^2$ the flow is $\dot f = -\frac1N K(f - Y)$, so that
    $f(t) = Y + e^{-Kt/N}(f_0 - Y)$. At other points $f_*(t) = f_*(0) - K_*\,\varphi(K)(f_0 - Y)$, where
    $\varphi(\lambda) = (1 - e^{-\lambda t/N})/\lambda$, which is $t/N$ where the kernel is singular.

    **Arguments**

    - `kernel` K: the tangent kernel of the N training examples, (N, N, C, C) as `tangent_kernel` makes it, or (N, N)
      for all outputs alike; symmetric, with no negative eigenvalue.
    - `start` f₀: the `Predictions` at time 0, (N,) or (N, C), and (M,) or (M, C) at the test points.
    - `targets` Y: shaped like the outputs.
    - `times` (T,): times from the start, on the clock t = k·learning_rate.
    - `test_kernel` K_*: the kernel of test points and training examples, (M, N, C, C) or (M, N).

    **Returns** `Predictions` with a leading axis T. It costs an eigendecomposition of K. It is compiled when called
    plainly, and works under `jit` and `vmap`.

    **Raises** `ValueError` for shapes that do not fit together; `TypeError` for a `start` that is not
    `Predictions`.

    Source: Jacot, Gabriel & Hongler 2018, 1806.07572; Lee, Xiao, Schoenholz et al. 2019, 1902.06720.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> K = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    >>> start = jf.kernels.Predictions(jnp.zeros(2))
    >>> print(jf.kernels.lazy_predictions(K, start, jnp.ones(2), jnp.array([0.0, 2.0])).train.round(4))
    [[0.     0.    ]
     [0.6321 0.    ]]
    """
    start = _as_predictions(kernel, start, test_kernel)
    if jnp.shape(targets) != start.train.shape:
        raise ValueError(
            f"targets must be shaped like the outputs, {start.train.shape}, got {jnp.shape(targets)}."
        )
    times = jnp.asarray(times, start.train.dtype)
    if times.ndim != 1:
        raise ValueError(f"times must have shape (T,), got {times.shape}.")
    return _closed_form(kernel, start, jnp.asarray(targets, start.train.dtype), times, test_kernel)


@compiled
def _closed_form(kernel, start, targets, times, test_kernel):
    """The solution in the eigenvectors of the kernel, whose coefficients decay each by itself."""
    shared = kernel.ndim == 2
    size = start.train.shape[0]
    columns = lambda f: f.reshape(f.shape[0], -1) if shared else f.reshape(-1, 1)
    rates, vectors = jnp.linalg.eigh(_as_matrix(kernel))
    rates = jnp.maximum(rates, 0)  # rounding makes some of the zeros negative
    error = vectors.T @ columns(start.train - targets)
    decay = -jnp.expm1(-times[:, None] * rates[None] / size)  # (T, n)

    def predict_over_time(weights, basis, first):
        moved = jnp.einsum("pk,tk,kc->tpc", basis, weights, error)
        return first[None] - moved.reshape(times.size, *first.shape)

    train = predict_over_time(decay, vectors, start.train)
    if test_kernel is None:
        return Predictions(train)
    safe = jnp.where(rates > 0, rates, 1)
    growth = jnp.where((rates > 0)[None], decay / safe[None], times[:, None] / size)
    return Predictions(train, predict_over_time(growth, _as_matrix(test_kernel) @ vectors, start.test))


@traceable
def lazy_flow(kernel: Any, loss: Callable[[Any, Any], Any], y: Any, test_kernel: Any = None) -> Field:
    r"""Gradient flow in function space with a fixed tangent kernel: $\dot f = -\frac1N K\,\nabla_f \ell(f, y)$.

    It is how the predictions of the `linearized` model move under gradient flow, for any loss. Those at other points
    move by $-\frac1N K_* \nabla_f\ell$, which the training examples drive too.

    **Arguments**

    - `kernel` K: the tangent kernel of the N training examples, (N, N, C, C) or (N, N) for all outputs alike.
    - `loss`: a function `loss(outputs, y) -> (N,)` of the loss of each example, such as
      `jaxflow.problems.losses.cross_entropy`.
    - `y`: the targets or labels of the training examples, with a leading axis N.
    - `test_kernel` K_*: the kernel of test points and training examples, (M, N, C, C) or (M, N).

    **Returns** a `Dynamics` whose state is `Predictions`: what `integrate` starts from, and its values over time.

    **Raises** `TypeError` when `loss` is not callable; `ValueError`, in `integrate`, for shapes that do not fit.

    Source: Lee, Xiao, Schoenholz et al. 2019, 1902.06720, section 2.2.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.kernels.lazy_flow(jnp.eye(1), lambda f, y: 0.5 * (f - y) ** 2, jnp.ones(1))
    >>> path = jf.integrate(flow, jf.kernels.Predictions(jnp.zeros(1)), jnp.array([0.0, 2.0]))
    >>> print(path.params.train.round(4))
    [0.8647]
    """
    if not callable(loss):
        raise TypeError(f"loss must be a function (outputs, y) -> (N,), got {loss!r}.")

    def drift(t, state):
        del t
        slope = jax.grad(lambda f: loss(f, y).sum())(state.train) / state.train.shape[0]
        return Predictions(*(None if k is None else -_apply(k, slope) for k in (kernel, test_kernel)))

    def check(start):
        _as_predictions(kernel, start, test_kernel)

    return Field(drift=drift, check=check)


def _apply(kernel: jax.Array, slope: jax.Array) -> jax.Array:
    """The kernel times a vector of outputs."""
    kernel = kernel.astype(slope.dtype)
    return jnp.einsum("ijcd,jd->ic", kernel, slope) if kernel.ndim == 4 else kernel @ slope


def _as_matrix(kernel: jax.Array) -> jax.Array:
    """A block of pairs of outputs as a matrix whose rows are the outputs of one example after another."""
    if kernel.ndim == 2:
        return kernel
    n, m, outputs, _ = kernel.shape
    return kernel.swapaxes(1, 2).reshape(n * outputs, m * outputs)


def _as_predictions(kernel: Any, start: Any, test_kernel: Any) -> Predictions:
    """The start as arrays, refused where the kernels do not act on it."""
    if not isinstance(start, Predictions):
        raise TypeError(f"The start must be Predictions(train, test), got {type(start).__name__}.")
    if (start.test is None) != (test_kernel is None):
        raise ValueError("test_kernel and the predictions at the test points must be given together.")
    start = Predictions(*(None if f is None else jnp.asarray(f) for f in start))
    for name, k, outputs in (("kernel", kernel, start.train), ("test_kernel", test_kernel, start.test)):
        if k is None:
            continue
        _check.require(
            f"The shape of {name}'s predictions", outputs.shape, 1 <= outputs.ndim <= 2, "(n,) or (n, C)"
        )
        pair = (outputs.shape[0], start.train.shape[0])
        allowed = {pair, (*pair, *outputs.shape[1:] * 2)}
        if jnp.shape(k) not in allowed:
            raise ValueError(
                f"{name} must have shape {' or '.join(map(str, sorted(allowed)))}, got {jnp.shape(k)}."
            )
    return start
