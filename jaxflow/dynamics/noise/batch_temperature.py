"""The temperature of SGD, and the variance of a mini-batch gradient from which it follows."""

from typing import Any

from jaxflow import _check
from jaxflow.optim.rules.batch_size import compress_schedule


def check_batch(batch_size: Any, size: int | None, replacement: bool) -> None:
    """Refuse a batch size that is not positive, or larger than the data it is drawn from without replacement."""
    if callable(batch_size):
        return
    _check.require_positive(batch_size=batch_size)
    found = None if replacement or size is None else _check.values(batch_size)
    if found is not None:
        rule = f"at most the number of examples, {size}, when drawn without replacement"
        _check.require_each("batch_size", found, found <= size, rule)


def batch_factor(batch_size: Any, size: int | None = None, *, replacement: bool = True) -> Any:
    r"""$s_B$, the covariance of a mini-batch gradient over the per-sample covariance: $C = s_B \Sigma$.

    $s_B = \frac1B$ for independent draws, $\frac1B \frac{N-B}{N-1}$ for a fresh batch without replacement from
    N examples, with $\Sigma = \frac1N \sum_i (g_i - \bar g)(g_i - \bar g)^\top$.

    **Arguments**

    - `batch_size` B: the number of examples per gradient, a number or an array above 0; it may be traced.
    - `size` N: the number of examples in the data, needed (and used) only with `replacement=False`.
    - `replacement`: whether the batches are independent draws.

    **Returns** $s_B$, of the shape of `batch_size`.

    **Raises** `ValueError` for `batch_size` ≤ 0, or > N without replacement, or a missing `size` there; `TypeError`
    for a schedule of batch sizes.

    >>> batch_factor(4), batch_factor(4, 13, replacement=False)
    (0.25, 0.1875)
    """
    _check_number("batch_size", batch_size)
    if size is not None:
        _check.require_count("size", size, 1)
    check_batch(batch_size, size, replacement)
    if replacement:
        return 1 / batch_size
    if size is None:
        raise ValueError("size must be the number of examples when batches are drawn without replacement.")
    # A single example is the whole of its data: its gradient has no variance.
    return (size - batch_size) / (batch_size * max(size - 1, 1))


def _check_number(name: str, value: Any) -> None:
    """Refuse a schedule, which has one value at each step."""
    if callable(value):
        raise TypeError(
            f"{name} must be a number or an array, got the schedule {value!r}; give its value at a step."
        )


def temperature(
    learning_rate: Any,
    batch_size: Any,
    size: int | None = None,
    *,
    replacement: bool = True,
    beta: Any = 0.0,
) -> Any:
    r"""The temperature of SGD, $T = \frac{\eta s_B}{2(1-\beta)}$: learning_rate / (2·batch_size) in the plain case.

    SGD is $d\theta = -\nabla L\,dt + \sqrt{2 T \Sigma(\theta)}\,dW$ on the clock t = kη. If Σ were the identity, it
    would end in the Gibbs law $\propto e^{-L/T}$. T does not depend on the clock. Two settings with one temperature
    have one SDE.

    **Arguments** are numbers or arrays, which may be traced:

    - `learning_rate` η: at least 0.
    - `batch_size` B: the number of examples per gradient, above 0.
    - `size` N: the number of examples in the data, needed (and used) only with `replacement=False`.
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without replacement at
      each step, $s_B = \frac1B\frac{N-B}{N-1}$.
    - `beta` β: the coefficient of heavy-ball momentum, in [0, 1), which multiplies the rate by 1/(1−β). Leave it 0
      for the averaging form of momentum.

    **Returns** T, in units of the loss (for Σ in units of a squared gradient of the mean loss).

    **Raises** `ValueError` for a negative rate, `batch_size` ≤ 0 or (without replacement) > N, `beta` outside [0, 1);
    `TypeError` for a schedule: give its value at a step.

    Other authors' symbols: Smith & Le (2018, 1710.06451) sum the loss, so that their noise scale is g = 2NT;
    Jastrzębski et al. (2017, 1711.04623) use the ratio η/B = 2T; Chaudhari & Soatto (2018, 1710.11029) write β for
    1/T and D for Σ; Mandt, Hoffman & Blei (2017, 1704.04289) use the clock t = k.

    >>> temperature(0.1, 32)
    0.0015625
    >>> temperature(0.1, 32, 32, replacement=False)  # all data in every batch: no noise
    0.0
    """
    _check_number("learning_rate", learning_rate)
    _check_number("beta", beta)
    _check.require_nonnegative(learning_rate=learning_rate)
    _check.require_fraction(beta=beta)
    return learning_rate * batch_factor(batch_size, size, replacement=replacement) / (2 * (1 - beta))


def accumulated_batches(batch_size: Any, size: int, replacement: bool, k: int) -> dict[str, Any]:
    """The batch size, and how batches are drawn, with the covariance of the mean of k mini-batch gradients."""
    if k == 1:
        return {"batch_size": batch_size, "replacement": replacement}
    if replacement:
        larger = compress_schedule(batch_size, k, 1.0) if callable(batch_size) else k * batch_size
        return {"batch_size": larger, "replacement": True}
    # Each batch is fresh, also within the k: the covariance is s_B/k, which independent draws of size k/s_B have.
    return {"batch_size": k / batch_factor(batch_size, size, replacement=False), "replacement": True}
