"""Whether a rest point of a game is stable: for its flow, for players that step at once, and for players in turn."""

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.curvature.products import real_parameters
from jaxflow.games import VectorField
from jaxflow.games.vector_field import require_field, require_players

PyTree = Any
DENSE = 200  # parameters up to which the Jacobian is formed
FEW = 6  # eigenvalues that are looked for without it
# By which a spectral radius may exceed 1, and a ratio of eigenvalues differ from 0: by the bytes of a number.
ROUNDING = {8: 1e-10, 4: 1e-6}
# Steps that are tried in turn, in units of 1/|λ|, and their ratio.
SHORTEST, LONGER, LONGEST = 0.05, 1.125, 1e4
RESTARTS = 500  # of ARPACK
AT_REST = 1e-6  # a residual, relative to the Jacobian, that is taken for 0


@dataclass(frozen=True, eq=False)
class GameStability:
    r"""The eigenvalues of a game at a rest point, and the longest steps with which descent stays there.

    - `eigenvalues`: those of $-V'(\theta)$, the Jacobian of the velocity, in descending order of their real
      parts; complex (k,).
    - `growth`: the largest real part, per unit of time of the flow. `stable`: whether it is below 0.
    - `simultaneous_step`: the largest step h at which every eigenvalue μ has $|1 + h\mu| \le 1$, which is the least
      of $-2\,\mathrm{Re}\,\mu/|\mu|^2$; 0 where no step is stable.
    - `alternating_step`: the same for players in turn, whose step is the product of the players' own; infinite where
      no step is too long.
    - `residual`: $|V(\theta)|$, which is 0 at a rest point.
    - `message`: a sentence about the outcome.
    """

    eigenvalues: np.ndarray
    growth: float
    stable: bool
    simultaneous_step: float
    alternating_step: float
    residual: float
    message: str

    def __repr__(self):
        return f"GameStability({self.message})"


def game_stability(
    game: VectorField,
    params: PyTree,
    *,
    times: tuple[int, ...] | None = None,
    k: int | None = None,
) -> GameStability:
    r"""The eigenvalues of a game's Jacobian at a rest point, and the largest stable steps of descent around it.

    Players who step at once multiply a small displacement by $I - hJ$, with $J = V'(\theta)$; players in turn, the
    first player first, by $\prod_i (I - h E_i J)^{n_i}$, where $E_i$ keeps the rows of player i. Descent with the
    step h is stable where no eigenvalue of its matrix is outside the unit circle. For players at once this is
    $h \le \min 2\,\mathrm{Re}\,\lambda/|\lambda|^2$ over the eigenvalues λ of J. For players in turn ever longer
    steps are tried, each an eighth longer than the last, until one is unstable, and the boundary between these two is
    found to 1e-10 (in single precision 1e-6). An eigenvalue 0 belongs to a direction of further rest points, and
    bounds no step.

    **Arguments**

    - `game`: a `VectorField` $V$, with the velocity −V, such as `jaxflow.game` makes.
    - `params` θ: a rest point: a tuple or a list with one entry (any pytree of real arrays) for each player.
    - `times`: the number of steps $n_i$ that each player takes in its turn. By default 1 each.
    - `k`: the number of eigenvalues to look for by ARPACK, from products with J alone, at either end of the
      spectrum: these decide whether it is stable. By default all are computed from J up to 200 parameters, and 6
      are looked for in larger games. If k is the number of parameters, or one less, all are computed from J at any
      size.

    **Returns** `GameStability`. It computes on the host: it is not for use under `jit` or `vmap`. It warns where
    `params` is not a rest point.

    **Raises** `TypeError` for a game that is not a `VectorField`, or parameters that are traced or not real;
    `ValueError` for parameters that are not a tuple or list, another number of `times` than of players, or k < 1 or
    above the number of parameters, or derivatives that are not finite; `RuntimeError` where ARPACK does not
    converge, as where many eigenvalues share a real part.

    >>> import jaxflow as jf
    >>> problem = jf.problems.dirac_gan("r1", gamma=0.9)
    >>> found = jf.curvature.game_stability(problem.objective, (0.0, 0.0))
    >>> found
    GameStability(stable: the flow decays at the rate 0.45; ... steps up to 3.6 at once and 1.78145 in turn)

    Source: Mescheder, Geiger & Nowozin (2018, 1801.04406); ARPACK: Lehoucq, Sorensen & Yang (1998).
    """
    params, times = _check_arguments(game, params, times)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(own)) for own in params]
    if k is not None:
        _check.require_integer("k", k, 1)
        _check.require("k", k, k <= sum(sizes), f"at most {sum(sizes)}, the number of parameters")
    if k is None:
        k = sum(sizes) if sum(sizes) <= DENSE else FEW
    # ARPACK finds at most two fewer than there are.
    dense = k > sum(sizes) - 2
    rounding = ROUNDING[ravel_pytree(params)[0].dtype.itemsize]
    step = _Dense(game, params, sizes, times) if dense else _Sparse(game, params, sizes, times, k, rounding)
    values = step.eigenvalues()
    scale = max(np.abs(values).max(initial=0.0), np.finfo(float).tiny)
    growth = float(np.real(values).max())
    # A real part that is 0 but for rounding is that of a circle.
    stable, neutral = growth < -rounding * scale, abs(growth) <= rounding * scale
    at_once = step.simultaneous(values, rounding * scale) if stable else 0.0
    in_turn = _longest_stable_step(step.radius_in_turn, scale, rounding) if stable or neutral else 0.0
    residual = float(np.linalg.norm(ravel_pytree(game(params))[0]))
    at_rest = residual <= AT_REST * scale * max(float(np.linalg.norm(ravel_pytree(params)[0])), 1.0)
    message = _message(growth, stable, neutral, at_once, in_turn)
    if not at_rest:
        message = f"not at rest, |V| = {residual:.3g}; {message}"
        warnings.warn(
            f"params is not a rest point of the game: |V| = {residual:.3g}. The eigenvalues are those of the "
            "Jacobian there.",
            stacklevel=2,
        )
    return GameStability(
        eigenvalues=values[np.argsort(-np.real(values), kind="stable")],
        growth=growth,
        stable=stable,
        simultaneous_step=at_once,
        alternating_step=in_turn,
        residual=residual,
        message=message,
    )


def _message(growth, stable, neutral, at_once, in_turn) -> str:
    if stable:
        outcome = f"stable: the flow decays at the rate {-growth:.6g}"
    else:
        outcome = (
            "neutral: the flow neither decays nor grows"
            if neutral
            else f"unstable: the flow grows at the rate {growth:.6g}"
        )
    return f"{outcome}; descent is stable for steps up to {at_once:.6g} at once and {in_turn:.6g} in turn"


def _check_arguments(game, params, times) -> tuple[Any, tuple[int, ...]]:
    require_field(game)
    require_players(params)
    _check.refuse_traced("game_stability", (game, params))
    times = (1,) * len(params) if times is None else tuple(times)
    if len(times) != len(params):
        raise ValueError(f"times must hold one number for each of {len(params)} players, got {times!r}.")
    for count in times:
        _check.require_integer("times", count, 1)
    return real_parameters(params), times


@compiled
def _jacobian(game, params):
    flat, unravel = ravel_pytree(params)
    return jax.jacfwd(lambda x: ravel_pytree(game(unravel(x)))[0])(flat)


@compiled
def _product(game, params, vector):
    flat, unravel = ravel_pytree(params)
    field = lambda x: ravel_pytree(game(unravel(x)))[0]
    return jax.jvp(field, (flat,), (vector.astype(flat.dtype),))[1]


def _turns(sizes: list[int], times: tuple[int, ...]) -> list[slice]:
    """The rows of each player, in the order in which they move."""
    ends = np.cumsum([0, *sizes])
    rows = [slice(a, b) for a, b in itertools.pairwise(ends)]
    return [own for own, count in zip(rows, times, strict=True) for _ in range(count)]


class _Dense:
    """The eigenvalues of steps from the Jacobian itself."""

    def __init__(self, game, params, sizes, times):
        self.jacobian = np.asarray(_jacobian(game, params), float)
        if not np.isfinite(self.jacobian).all():
            raise ValueError("game must have finite derivatives at params, got a NaN or an infinity.")
        self.turns = _turns(sizes, times)

    def eigenvalues(self) -> np.ndarray:
        return -np.linalg.eigvals(self.jacobian).astype(complex)

    def simultaneous(self, values: np.ndarray, least: float) -> float:
        return _bound(values, least).min(initial=np.inf)

    def radius_in_turn(self, h: float) -> float:
        step = np.eye(len(self.jacobian))
        for own in self.turns:
            step[own] -= h * self.jacobian[own] @ step
        return float(np.abs(np.linalg.eigvals(step)).max())


class _Sparse:
    """The eigenvalues of steps from products with the Jacobian, by ARPACK."""

    def __init__(self, game, params, sizes, times, k, rounding):
        self.apply = lambda v: np.asarray(_product(game, params, jnp.asarray(v)), float)
        self.turns, self.size, self.k, self.rounding = _turns(sizes, times), sum(sizes), k, rounding

    def _largest(self, apply: Callable, which: str) -> np.ndarray:
        import scipy.sparse.linalg  # here, as it is slow to import

        arpack: Any = scipy.sparse.linalg  # whose annotations are wrong
        matrix = arpack.LinearOperator((self.size, self.size), matvec=apply, dtype=float)
        start = np.random.default_rng(0).standard_normal(self.size)
        basis = min(self.size, max(2 * self.k + 2, 40))
        try:
            return arpack.eigs(
                matrix,
                self.k,
                which=which,
                v0=start,
                ncv=basis,
                maxiter=RESTARTS,
                tol=self.rounding,
                return_eigenvectors=False,
            )
        except arpack.ArpackNoConvergence as error:
            raise RuntimeError(
                f"{self.k} eigenvalues at the end of the spectrum were not found in {RESTARTS} restarts of ARPACK; "
                f"k={self.size} computes all of them from the Jacobian."
            ) from error

    def eigenvalues(self) -> np.ndarray:
        ends = [self._largest(lambda v: -self.apply(v), which) for which in ("LR", "LM")]
        return np.concatenate(ends)

    def simultaneous(self, values: np.ndarray, least: float) -> float:
        """The farthest eigenvalue from 1/h decides about h: it gives the next h, until none is farther."""
        h = _bound(values, least).min(initial=np.inf)
        while np.isfinite(h):
            farthest = self._largest(lambda v, h=h: v - h * self.apply(v), "LM")
            shorter = _bound((farthest - 1) / h, least).min(initial=np.inf)
            if shorter >= h * (1 - self.rounding):
                break
            h = shorter
        return h

    def radius_in_turn(self, h: float) -> float:
        def step(v):
            v = np.array(v, float).ravel()
            for own in self.turns:
                v[own] -= h * self.apply(v)[own]
            return v

        return float(np.abs(self._largest(step, "LM")).max())


def _bound(values: np.ndarray, least: float) -> np.ndarray:
    """The largest step for each eigenvalue of the velocity that is larger than `least`."""
    moving = values[np.abs(values) > least]
    return np.maximum(-2 * np.real(moving) / np.abs(moving) ** 2, 0.0)


def _longest_stable_step(radius: Callable[[float], float], scale: float, rounding: float) -> float:
    """The first step, from short to long, at which a spectral radius passes 1."""
    from scipy import optimize  # here, as it is slow to import

    brentq: Any = optimize.brentq  # whose annotations are wrong
    excess = lambda h: radius(h) - 1 - rounding
    before, h = 0.0, SHORTEST / scale
    while excess(h) <= 0:
        before, h = h, LONGER * h
        if h > LONGEST / scale:
            return float("inf")
    return brentq(lambda x: excess(x) if x else -rounding, before, h, xtol=1e-13 * h, rtol=1e-14)
