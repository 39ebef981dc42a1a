"""The eigenvalues of the Dirac-GAN and its largest stable steps, in closed form; and those of a large game."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.curvature import game_stability

ORIGIN = (0.0, 0.0)
root = lambda x: np.sqrt(complex(x))


def of_trace(trace, f):
    """Eigenvalues of the velocity ((0, −f), (f, trace)), which every variant but consensus has."""
    return [trace / 2 + sign * root(trace**2 / 4 - f**2) for sign in (1, -1)]


def penalised(gamma):
    step = gamma / 0.25 if gamma < 1 else min(-2 / value.real for value in of_trace(-gamma, 0.5))
    return of_trace(-gamma, 0.5), step, (np.sqrt(gamma**2 + 1) - gamma) / 0.25


def agreeing(gamma, in_turn):
    return [-gamma / 4 + 0.5j, -gamma / 4 - 0.5j], 2 * gamma / (1 + gamma**2 / 4), in_turn


CASES = [
    ("gan", {}, (of_trace(0, 0.5), 0, 4)),
    ("nonsaturating", {}, (of_trace(0, 0.5), 0, 4)),
    ("wgan", {}, (of_trace(0, 1), 0, 2)),
    *[("r1", {"gamma": gamma}, penalised(gamma)) for gamma in (0.3, 0.9, 1.5)],
    ("r2", {"gamma": 0.9}, penalised(0.9)),
    # In turn: the largest root of (the determinant of the composed step) ± (its trace) = −1, worked out by hand.
    *[("consensus", {"gamma": g}, agreeing(g, None)) for g in (0.3, 2.0, 5.0)],
    ("instance_noise", {"sigma": 1.0}, (of_trace(-0.5, 0.5), 2, None)),
    ("instance_noise", {"sigma": 2.0}, (of_trace(-2, 0.5), 2 / (1 + np.sqrt(0.75)), None)),
]


def in_turn(jacobian):
    """For two players of one number each: det = (1 − ha)(1 − hd), and −1 or a pair on the circle is the boundary."""
    (a, b), (c, d) = jacobian
    # Trace of ((1, 0), (−hc, 1 − hd)) ((1 − ha, −hb), (0, 1)) = 2 − h(a + d) + h²bc; flip: 1 + trace + det = 0.
    flip = [r.real for r in np.roots([b * c + a * d, -2 * (a + d), 4]) if abs(r.imag) < 1e-6 and r.real > 0]
    circle = [(a + d) / (a * d)] if a * d > 0 else []
    return min(flip + circle)


@pytest.mark.parametrize(("kind", "numbers", "known"), CASES)
def test_the_variants_of_the_dirac_gan(kind, numbers, known):
    values, at_once, turns = known
    problem = jf.problems.dirac_gan(kind, **numbers)
    found = game_stability(problem.objective, ORIGIN)
    order = lambda x: sorted(np.asarray(x, complex), key=lambda z: (round(z.real, 9), z.imag))
    np.testing.assert_allclose(order(found.eigenvalues), order(values), atol=1e-12)
    np.testing.assert_allclose(found.simultaneous_step, at_once, atol=1e-8)
    jacobian = np.array(jax.jit(jax.jacfwd(problem.objective))(ORIGIN), float)
    np.testing.assert_allclose(found.alternating_step, in_turn(jacobian), atol=1e-8)
    if turns is not None:
        np.testing.assert_allclose(found.alternating_step, turns, atol=1e-8)
    assert found.stable == (kind not in ("gan", "nonsaturating", "wgan"))
    assert found.residual < 1e-15


@pytest.mark.parametrize(
    ("kind", "numbers", "step"),
    [
        ("r1", {"gamma": 0.3}, 2.9761226),
        ("r1", {"gamma": 0.9}, 1.7814496),
        ("r1", {"gamma": 1.5}, 1.2111026),
        ("consensus", {"gamma": 0.3}, 3.4782609),
        ("consensus", {"gamma": 2.0}, 2.0),
        ("consensus", {"gamma": 5.0}, 1.1428571),
        ("instance_noise", {"sigma": 1.0}, 2.4721360),
        ("instance_noise", {"sigma": 2.0}, 0.9442719),
    ],
)
def test_steps_in_turn_that_were_computed_elsewhere(kind, numbers, step):
    game = jf.problems.dirac_gan(kind, **numbers).objective
    assert abs(game_stability(game, ORIGIN).alternating_step - step) < 1e-7


@pytest.mark.parametrize("times", [(1, 4), (2, 3), (3, 3)])
def test_unequal_numbers_of_steps(times):
    """n_g, n_d steps in turn stay on a circle while √(n_g n_d) h f' ≤ 2."""
    found = game_stability(jf.problems.dirac_gan("gan").objective, ORIGIN, times=times)
    np.testing.assert_allclose(found.alternating_step, 4 / np.sqrt(np.prod(times)), atol=1e-8)


def many_pairs(friction):
    """A bilinear game with friction for its second player: each singular value s is a Dirac-GAN with f' = s."""
    rng = np.random.default_rng(0)
    speeds = np.linspace(0.2, 1.0, friction.size)
    left, right = (np.linalg.qr(rng.standard_normal((friction.size,) * 2))[0] for _ in range(2))
    matrix, damping = left @ np.diag(speeds) @ right.T, right @ np.diag(friction) @ right.T

    def losses(players, matrix, damping):
        x, y = players
        return x @ matrix @ y, 0.5 * y @ damping @ y - x @ matrix @ y

    return jf.game(losses, (jnp.asarray(matrix), jnp.asarray(damping))), speeds


def test_a_large_game_without_its_matrix(monkeypatch):
    monkeypatch.setattr("jaxflow.curvature.stability.game_stability.DENSE", 50)
    friction = np.linspace(0.3, 1.5, 30)[::-1].copy()
    game, speeds = many_pairs(friction)
    found = game_stability(game, (jnp.zeros(30), jnp.zeros(30)))
    assert found.eigenvalues.size == 12
    values = np.array([of_trace(-c, s) for c, s in zip(friction, speeds, strict=True)])
    np.testing.assert_allclose(found.growth, values.real.max(), rtol=1e-8)
    np.testing.assert_allclose(
        found.simultaneous_step, (-2 * values.real / abs(values) ** 2).min(), rtol=1e-8
    )
    in_turn = (np.sqrt(friction**2 + 4 * speeds**2) - friction) / speeds**2
    np.testing.assert_allclose(found.alternating_step, in_turn.min(), rtol=1e-8)


def test_what_is_not_found_without_the_matrix_is_told(monkeypatch):
    """Eigenvalues of one real part are at no end of the spectrum."""
    monkeypatch.setattr("jaxflow.curvature.stability.game_stability.RESTARTS", 1)
    game, _ = many_pairs(np.full(30, 0.3))
    rest = (jnp.zeros(30), jnp.zeros(30))
    with pytest.raises(RuntimeError, match="k=60 computes all of them"):
        game_stability(game, rest, k=1)
    np.testing.assert_allclose(game_stability(game, rest, k=60).simultaneous_step, 0.3, rtol=1e-8)


def test_what_is_no_rest_point_is_told_and_the_rest_goes_on():
    game = jf.problems.dirac_gan("r1", gamma=0.9).objective
    with pytest.warns(UserWarning, match=r"not a rest point of the game: \|V\| = 0\.05"):
        found = game_stability(game, (0.1, 0.0))
    assert "not at rest, |V| = 0.05" in repr(found)
    assert found.stable
    away = jf.game(lambda p: (-(p[0] ** 2),))
    found = game_stability(away, (0.0,))
    assert (found.growth, found.simultaneous_step, found.alternating_step) == (2.0, 0.0, 0.0)
    assert "unstable: the flow grows at the rate 2" in repr(found)


def test_an_eigenvalue_0_bounds_no_step():
    flat = jf.game(lambda p: (p[0][0] ** 2,))
    found = game_stability(flat, (np.zeros(2),))
    assert not found.stable
    np.testing.assert_allclose(found.alternating_step, 1.0, atol=1e-9)


def test_single_precision_tells_a_circle_too():
    game, speeds = many_pairs(np.zeros(6))
    game, rest = jax.tree.map(lambda x: x.astype(np.float32), (game, (jnp.zeros(6), jnp.zeros(6))))
    found = game_stability(game, rest)
    assert "neutral: the flow neither decays nor grows" in repr(found)
    np.testing.assert_allclose(found.alternating_step, 2 / speeds.max(), rtol=1e-4)


def test_bad_arguments_are_refused():
    game = jf.problems.dirac_gan("gan").objective
    for message, make in {
        "game must be a VectorField": lambda: game_stability(lambda p: p, ORIGIN),
        "params must be a tuple or list": lambda: game_stability(game, jnp.zeros(2)),
        "params must be concrete": lambda: jax.jit(lambda p: game_stability(game, p).growth)((1.0, 1.0)),
        "times must hold one number for each of 2 players": lambda: game_stability(game, ORIGIN, times=(1,)),
        "times must be an integer at least 1": lambda: game_stability(game, ORIGIN, times=(1, 0)),
        "game must have finite derivatives": lambda: game_stability(
            jf.game(lambda p: (jnp.sqrt(abs(p[0])),)), (0.0,)
        ),
        "k must be at most 2": lambda: game_stability(game, ORIGIN, k=3),
        "kind must be one of .* Did you mean 'wgan'": lambda: jf.problems.dirac_gan("wgam"),
        "gamma must be left out for the kind 'gan'": lambda: jf.problems.dirac_gan("gan", gamma=1.0),
        "gamma must be a finite number at least 0": lambda: jf.problems.dirac_gan("r1", gamma=-1.0),
        "matrix must be a number or an array": lambda: jf.problems.bilinear(np.zeros(3)),
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            make()
