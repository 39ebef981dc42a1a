"""Games with known answers: the Dirac-GAN in the variants of the literature, and bilinear games."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow.games import (
    VectorField,
    consensus,
    game,
    gauss_hermite,
    gradient_penalty,
    instance_noise,
)
from jaxflow.problems.problem import Problem, as_floats

KINDS = ("gan", "nonsaturating", "wgan", "r1", "r2", "wgan_gp", "consensus", "instance_noise")
POINTS = 40  # of the quadrature over instance noise
RADIUS = 0.7  # where a run starts


def _logistic(t):
    return -jax.nn.softplus(-t)


def _gan(players):
    theta, psi = players
    return _logistic(psi * theta), -_logistic(psi * theta)


def _nonsaturating(players):
    theta, psi = players
    return -_logistic(-psi * theta), -_logistic(psi * theta)


def _wgan(players):
    theta, psi = players
    return psi * theta, -psi * theta


def _noisy(players, noise):
    """The datum 0 is noisy too, and only the discriminator's loss depends on what it says of it."""
    theta, psi = players
    generated, real = _logistic(psi * (theta + noise)), _logistic(-psi * noise)
    return generated, -generated - real


def _linear(psi, x):
    return psi * x


def _generated(players):
    return players[0][None]


def dirac_gan(kind: str = "gan", *, gamma: Any = None, target: Any = None, sigma: Any = None) -> Problem:
    r"""The Dirac-GAN: the data are a point at 0, the generator is a point θ, the discriminator is $D(x) = \psi x$.

    The generator descends $f(\psi\theta)$ and the discriminator $-f(\psi\theta)$, with $f(t) = -\log(1 + e^{-t})$,
    from θ = .7, ψ = 0. The rest point is (0, 0), where $f' = \frac12$, $f'' = -\frac14$. Eigenvalues there, of the
    flow:

    - `"gan"` and `"nonsaturating"` (the generator descends $-f(-\psi\theta)$): $\pm if'$: the flow circles.
    - `"wgan"`, f(t) = t: $\pm i$.
    - `"r1"`, `"r2"`, the gradient penalty on the datum, or on the generated point, with the weight γ/2, which for a
      linear discriminator is the same: $-\gamma/2 \pm \sqrt{\gamma^2/4 - f'^2}$.
    - `"wgan_gp"`, f(t) = t with the penalty $\frac\gamma2(|\psi| - g_0)^2$: it converges to a cycle only. Its θ
      reaches $\gamma g_0 (1 + \rho)/(1 - \rho)$, $\rho = \exp(-\pi\gamma/(2\sqrt{1 - \gamma^2/4}))$, for γ < 2. The
      field jumps at ψ = 0, so that derivatives at (0, 0), as in `game_stability`, do not tell this.
    - `"consensus"`, with the strength γ: $-\gamma f'^2 \pm if'$.
    - `"instance_noise"` on the datum and on the generated point, of the standard deviation σ, by a quadrature of 40
      points: the trace of the Jacobian is $2f''\sigma^2$.

    **Arguments**

    - `kind`: one of the names above (static).
    - `gamma` γ: a number at least 0, for `"r1"`, `"r2"`, `"wgan_gp"` and `"consensus"`, by default 1.
    - `target` $g_0$: a number at least 0, for `"wgan_gp"`, by default 1.
    - `sigma` σ: a number at least 0, for `"instance_noise"`, by default 1.

    **Returns** a `Problem` whose objective is a `VectorField`. The numbers are its leaves, so that all games of one
    kind share a compilation.

    **Raises** `ValueError` for an unknown kind, a negative number or one that the kind does not have; `TypeError`
    for anything that is not a number.

    >>> import jaxflow as jf
    >>> problem = jf.problems.dirac_gan("wgan")
    >>> run = jf.iterate(jf.optim.gd(0.1), problem.objective, problem.params, steps=100)
    >>> round(float(run.params[0] ** 2 + run.params[1] ** 2) ** 0.5 / 0.7, 4)  # √1.01 to the power 100
    1.6446

    Source: Mescheder, Geiger & Nowozin (2018, 1801.04406).
    """
    _check.require_choice("kind", kind, KINDS)
    numbers = {"gamma": gamma, "target": target, "sigma": sigma}
    taken = {"wgan_gp": ("gamma", "target"), "instance_noise": ("sigma",)}
    taken |= dict.fromkeys(("r1", "r2", "consensus"), ("gamma",))
    for name, value in numbers.items():
        if value is not None and name not in taken.get(kind, ()):
            raise ValueError(f"{name} must be left out for the kind {kind!r}, got {value!r}.")
    chosen = {name: 1.0 if numbers[name] is None else numbers[name] for name in taken.get(kind, ())}
    params = (jnp.asarray(RADIUS, float), jnp.asarray(0.0, float))
    return Problem(objective=_dirac(kind, **chosen), params=params, name=f"dirac_gan, {kind}")


def _dirac(kind, **numbers) -> VectorField:
    if kind in ("r1", "wgan_gp"):
        plain = game(_gan if kind == "r1" else _wgan)
        return gradient_penalty(plain, _linear, jnp.zeros(1), player=1, **numbers)
    if kind == "r2":
        return gradient_penalty(game(_gan), _linear, _generated, player=1, **numbers)
    if kind == "consensus":
        return consensus(game(_gan), **numbers)
    if kind == "instance_noise":
        draws, weights = gauss_hermite(POINTS)
        return instance_noise(game(_noisy, (jnp.zeros(()),)), draws=draws, weights=weights, **numbers)
    return game({"gan": _gan, "nonsaturating": _nonsaturating, "wgan": _wgan}[kind])


def _product(players, matrix):
    value = players[0] @ matrix @ players[1]
    return value, -value


def bilinear(matrix: Any = 1.0) -> Problem:
    r"""The bilinear game: one player descends $x^\top A y$, the other $-x^\top A y$, from ones.

    It rests where $Ay = 0$ and $A^\top x = 0$. With the singular values s of A the flow turns at the speeds s, and a
    step h of players at once multiplies radii by $\sqrt{1 + h^2 s^2}$. Players in turn stay near for $hs \le 2$.

    **Arguments**

    - `matrix` A: a number, which is a matrix of one entry, or an array (m, n).

    **Returns** a `Problem` whose objective is a `VectorField`, with `params` of shapes (m,) and (n,).

    **Raises** `ValueError` when `matrix` is not a matrix of finite numbers; `TypeError` for anything that is not a
    number.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> problem = jf.problems.bilinear([[1.0, 0.0], [0.0, 2.0]])
    >>> rest = jax.tree.map(jnp.zeros_like, problem.params)
    >>> jf.curvature.game_stability(problem.objective, rest).alternating_step
    1.0
    """
    array = as_floats("matrix", matrix)
    array = array.reshape(1, 1) if array.ndim == 0 else array
    if array.ndim != 2 or not array.size:
        raise ValueError(f"matrix must be a number or an array (m, n), got shape {array.shape}.")
    x, y = (jnp.ones(size, array.dtype) for size in array.shape)
    return Problem(objective=game(_product, (array,)), params=(x, y), name="bilinear")
