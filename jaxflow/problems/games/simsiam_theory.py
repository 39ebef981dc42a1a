"""The linear theory of SimSiam in closed form: which modes live, where they end, and the best predictor."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow.games import VectorField
from jaxflow.problems.games.two_branches import BranchDescent, BYOLPlayers, ExpectedLoss
from jaxflow.problems.problem import as_floats


class SimSiamModes(NamedTuple):
    r"""What the linear theory says of modes, arrays of the shape of their variances.

    - `threshold`: the weight decay η* at which a mode's two points of rest meet and vanish.
    - `survives`: whether η < η*. Any start collapses where it is false.
    - `collapses_below`: $p_-$, the predictor below which a balanced mode collapses all the same; NaN for η > η*.
    - `predictor`: $p_+$, where the predictor ends otherwise; NaN for η > η*.
    - `strength`: $s_+ = p_+^2/\alpha_p$, where the squared weight ends; NaN for η > η*.
    """

    threshold: jax.Array
    survives: jax.Array
    collapses_below: jax.Array
    predictor: jax.Array
    strength: jax.Array


def simsiam_modes(
    variances: Any,
    *,
    augmentation: Any,
    weight_decay: Any,
    predictor_speed: Any = 1.0,
    teacher_scale: Any = 1.0,
) -> SimSiamModes:
    r"""Which principal components a linear SimSiam keeps under weight decay, and how strongly.

    Where W and $W_p$ have the principal components of the data as singular vectors, each follows, with the variance
    λ, the squared weight s, the predictor p and κ = λ + σ²,

    $$\dot s = 2s(p\,(\tau\lambda - p\kappa) - \eta), \quad \dot p = \alpha_p s(\tau\lambda - p\kappa) - \eta p.$$

    The difference $s - p^2/\alpha_p$ decays as $e^{-2\eta t}$. (Its sign differs from the published one.) On
    $s = p^2/\alpha_p$ the points of rest are 0, which attracts for η > 0, and

    $$p_\pm = \frac{\tau\lambda \pm \sqrt{\tau^2\lambda^2 - 4\eta\kappa}}{2\kappa}, \qquad
    \eta^* = \frac{\tau^2\lambda^2}{4\kappa}.$$

    For η < η* a balanced mode, one with $s = p^2/\alpha_p$, that starts above $p_-$ ends at $p_+$, and for η > η*
    every mode collapses. The same points of rest are those of BYOL, with τ = 1.

    **Arguments**

    - `variances` λ: the variances of the principal components, a number or an array of numbers at least 0.
    - `augmentation` σ: the standard deviation of the augmentation's noise, a number at least 0.
    - `weight_decay` η: a number at least 0. At η = 0 the strength is that of a balanced mode.
    - `predictor_speed` $\alpha_p$: how much faster the predictor learns, a number above 0.
    - `teacher_scale` τ: what the target is multiplied by, a number at least 0.

    All may be arrays, which broadcast with the variances, and traced.

    **Returns** `SimSiamModes`, of the floating dtype of the variances.

    **Raises** `ValueError` for a number out of range, or a variance of 0 without augmentation; `TypeError` for
    anything that is not a number.

    >>> import jaxflow as jf
    >>> modes = jf.problems.simsiam_modes([1.0, 3.0], augmentation=0.2**0.5, weight_decay=0.5)
    >>> modes.threshold.round(6).tolist(), modes.survives.tolist(), modes.predictor.round(4).tolist()
    ([0.208333, 0.703125], [False, True], [nan, 0.7207])

    Source: Tian, Chen & Ganguli (2021, 2102.06810).
    """
    variances = as_floats("variances", variances)
    _check.require_nonnegative(
        variances=variances,
        augmentation=augmentation,
        weight_decay=weight_decay,
        teacher_scale=teacher_scale,
    )
    _check.require_positive(predictor_speed=predictor_speed)
    numbers = (augmentation, weight_decay, predictor_speed, teacher_scale)
    sigma, decay, speed, scale = (jnp.asarray(n).astype(variances.dtype) for n in numbers)
    variances, sigma, decay, speed, scale = jnp.broadcast_arrays(variances, sigma, decay, speed, scale)
    drive, total = scale * variances, variances + sigma**2
    if (found := _check.values(total)) is not None:
        _check.require_each("variances", found, found > 0, "above 0 where there is no augmentation")
    gap = drive**2 - 4 * decay * total
    root = jnp.sqrt(jnp.where(gap > 0, gap, 1.0)) * (gap > 0)
    p = jnp.where(gap >= 0, (drive + root) / (2 * total), jnp.nan)
    # Not (drive − root)/2κ, which loses all digits where the decay is small.
    low = jnp.where(gap >= 0, 2 * decay / jnp.where(drive > 0, drive + root, 1.0), jnp.nan)
    threshold = drive**2 / (4 * total)
    return SimSiamModes(threshold, decay < threshold, low, p, p**2 / speed)


def optimal_predictor(objective: VectorField, params: Any) -> jax.Array:
    r"""The predictor that minimises the loss of a linear two-branch model while the online network stands still.

    $W_p^* = \tau G(G + G')^{-1}$, $G = WXW^\top$, $G' = WX'W^\top$; in BYOL $\tau G$ is $W_{teacher}XW^\top$. Where
    G + G' is singular it is the one of smallest norm. With it the flow keeps $e^{2\eta t}WW^\top$ constant, so that
    without weight decay nothing collapses. A predictor of speed $\alpha_p$ stays nearer to it the larger $\alpha_p$
    is; so does one that takes several steps for each of the online network, by `optim.alternating` and
    `optim.repeated`.

    **Arguments**

    - `objective`: the objective of a linear problem that `self_supervised` made.
    - `params`: its `SimSiamPlayers` or `BYOLPlayers`; their predictor is not used.

    **Returns** an array (k, k), to be put in place by `params._replace(predictor=…)`.

    **Raises** `TypeError` for another objective, such as that of a network.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> digits = jf.problems.self_supervised("digits", 8)
    >>> best = digits.params._replace(predictor=jf.problems.optimal_predictor(digits.objective, digits.params))
    >>> bool(jnp.abs(digits.objective(best).predictor).max() < 1e-5)
    True

    Source: Tian, Chen & Ganguli (2021, 2102.06810).
    """
    field = getattr(objective, "field", None)
    if not isinstance(field, BranchDescent) or not isinstance(field.loss, ExpectedLoss):
        raise TypeError(f"objective must be that of a linear self_supervised problem, got {objective!r}.")
    covariance, settings = objective.data
    target = params.teacher if isinstance(params, BYOLPlayers) else params.online
    across, own = field.loss.correlations(params.online, target, covariance, settings)
    return across @ jnp.linalg.pinv(own, hermitian=True)
