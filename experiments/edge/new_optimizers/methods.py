"""The optimizers of `discovery`: how each is made, held still and rescaled, and what was derived of it on paper."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxflow as jf

B1, STILL, RAW = 0.9, 1 - 1e-8, 0.999  # second moments that stay, and that do not
LATE = {"count": 2_000_000_000, "t": 2_000_000_000, "weight_sum": 1e9}
MOMENTS = ("nu", "n", "exp_avg_sq")
SLOPE = 3.4445**5 / 1e-8  # of Muon's five steps at 0, over its ε
traceable, contrib = jf.optim.traceable, optax.contrib


@traceable
def smooth_lion(learning_rate, b1=B1, b2=0.99, smoothness=10.0):
    """Lion with tanh(κu) in place of the sign."""
    direction = optax.scale_by_lion(b1, b2, mode="smooth", smooth_beta=smoothness)
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))


@traceable
def lion(learning_rate, b1=B1, b2=0.99):
    return optax.chain(optax.scale_by_lion(b1, b2), optax.scale_by_learning_rate(learning_rate))


@traceable
def sophia(learning_rate, b1, b2):
    """With the diagonal of the Hessian exact and at every step, so that nothing is random."""

    def diagonal(updates, state, params=None, *, grad_fn, **_):
        return jnp.diag(jax.jacfwd(grad_fn)(params)), state

    exact = optax.GradientTransformationExtraArgs(optax.init_empty_state, diagonal)
    chosen = {"gamma": 1.0, "weight_decay": 0.0, "update_interval": 1, "hessian_diagonal_fn": exact}
    return contrib.sophia(learning_rate, b1, b2, **chosen)


@traceable
def prodigy(learning_rate, b1, b2, adapts=1.0):
    """From a length d = 1, which stays where `adapts` is 0."""
    return contrib.prodigy(learning_rate, (b1, b2), estim_lr0=1.0, estim_lr_coef=adapts)


@traceable
def dadapt(learning_rate, b1, b2):
    return contrib.dadapt_adamw(learning_rate, (b1, b2), estim_lr0=1.0)


muon, ademamix = traceable(contrib.muon), traceable(contrib.ademamix)
averaged_sgd, averaged_adam = traceable(contrib.schedule_free_sgd), traceable(contrib.schedule_free_adamw)
simplified = traceable(contrib.simplified_ademamix)


def polynomial(s: float) -> float:
    """What Muon's five steps make of a singular value."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


def sum_of_averages(*parts: tuple[float, float]) -> tuple[float, float]:
    """Threshold and slow rate of an update Σ w·(average of decay b), from (w, b)."""
    return 2 / sum(w * (1 - b) / (1 + b) for w, b in parts), sum(w for w, _ in parts)


def lion_threshold(b1: float, b2: float) -> float:
    """Of u = (1 − β₁)g + β₁m: at −1, or at a pair of eigenvalues for β₁ > β₂."""
    alternating, turning = 1 + b2 - 2 * b1, b1 - b2
    passed = [2 * (1 + b2) / alternating] if alternating > 0 else []
    return min(passed + ([(1 - b2) / turning] if turning > 0 else []))


class Row(NamedTuple):
    """An optimizer.

    - `make(rate, b2, adapts)`: it, with a second moment of decay b2.
    - `threshold`, `slow`: derived, the largest stable a = ηh/P and the slow rate in η/P.
    - `unit`: P in the state in which it is held, with this second `moment`; `start`: the size it starts from.
    - `family(h)`: it at every step size, and `time`, the step at which its decays are those of the default.
    - `matrix`: the size of the square matrix that it moves, 0 for a single number.
    - `adaptive`: whether it divides by the root of a second moment, and so does not diverge on a quadratic.
    - `over`: how far past its edge its pairs are looked at, in relation to it; `None` where there are none.
    - `squash`: what its filter's output goes through, over P.
    """

    make: Callable[[Any, Any, Any], Any]
    threshold: float
    slow: float
    family: Callable[[Any], Any] | None
    unit: float = 1.0
    moment: float = 4.0
    start: float = 1e-5
    time: float = 0.01
    matrix: int = 0
    adaptive: bool = False
    over: float | None = None
    squash: Callable = lambda u: u


def decay(b: float, h: Any, time: float = 0.01) -> Any:
    """A decay that forgets the same per unit of time at every step h."""
    return b ** (h / time)


MUON = lion_threshold(0.95**2, 0.95), 1.0
ADAM = sum_of_averages((1.0, B1))
ROWS = {
    "Lion, tanh": Row(
        lambda rate, b2, adapts: smooth_lion(rate),
        lion_threshold(B1, 0.99),
        1.0,
        jf.family_of(smooth_lion(0.02, B1, 0.98, 0.5)),
        time=0.02,
        unit=0.1,
        start=1e-9,
        over=0.01,
        squash=jnp.tanh,
    ),
    "Lion, tanh, β₁ > β₂": Row(
        lambda rate, b2, adapts: smooth_lion(rate, b2=0.5),
        lion_threshold(B1, 0.5),
        1.0,
        None,
        0.1,
        start=1e-9,
    ),
    "Muon, below ε": Row(
        lambda rate, b2, adapts: muon(rate),
        *MUON,
        lambda h: muon(h, beta=decay(0.9, h)),
        unit=1 / SLOPE,
        start=1e-20,
        matrix=2,
    ),
    "Muon, adaptive": Row(
        lambda rate, b2, adapts: muon(rate, adaptive=True),
        *MUON,
        lambda h: muon(h, beta=decay(0.9, h, 3e-4), adaptive=True),
        time=3e-4,
        unit=1 / (2 * polynomial(0.5**0.5) ** 2),
        start=1e6,
        matrix=2,
    ),
    "schedule-free SGD": Row(
        lambda rate, b2, adapts: averaged_sgd(rate, b1=B1, weight_lr_power=0.0),
        2 / (1 - B1),
        1 - B1,
        lambda h: averaged_sgd(h, b1=B1),
        time=0.05,
        over=0.025,
    ),
    "schedule-free AdamW": Row(
        lambda rate, b2, adapts: averaged_adam(rate, b1=B1, b2=b2, weight_lr_power=0.0),
        2 / (1 - B1),
        1 - B1,
        jf.family_of(averaged_adam(0.01, b1=B1, b2=0.98)),
        over=0.025,
        unit=2.0,
        adaptive=True,
    ),
    "AdEMAMix": Row(
        lambda rate, b2, adapts: ademamix(rate, B1, b2, 0.99, 5.0),
        *sum_of_averages((1.0, B1), (5.0, 0.99)),
        jf.family_of(ademamix(0.01, B1, 0.98, 0.99, 5.0)),
        over=0.0015,
        unit=2.0,
        adaptive=True,
    ),
    "AdEMAMix, simplified": Row(
        lambda rate, b2, adapts: simplified(rate, B1, b2, 2.0),
        *sum_of_averages((10.0, B1), (2.0, 0.0)),
        lambda h: simplified(h**2 / 0.003, decay(B1, h, 0.003), decay(0.98, h, 0.003), 0.006 / h),
        time=0.003,
        over=0.02,
        unit=2.0,
        adaptive=True,
    ),
    "Sophia": Row(
        lambda rate, b2, adapts: contrib.sophia(rate, weight_decay=0.0),
        *sum_of_averages((1.0, 0.965)),
        jf.family_of(sophia(0.01, B1, 0.9)),
        unit=0.01,
        moment=1.0,
        start=1e-9,
    ),
    "Prodigy": Row(
        lambda rate, b2, adapts: prodigy(rate, B1, b2, adapts),
        *ADAM,
        lambda h: prodigy(h, decay(B1, h, 0.03), decay(0.98, h, 0.03)),
        time=0.03,
        over=0.0015,
        unit=2.0,
        adaptive=True,
    ),
    "D-Adapt AdamW": Row(
        lambda rate, b2, adapts: dadapt(rate, B1, b2),
        *ADAM,
        lambda h: dadapt(h, decay(B1, h, 0.03), decay(0.98, h, 0.03)),
        time=0.03,
        over=0.0015,
        unit=2.0,
        adaptive=True,
    ),
}
