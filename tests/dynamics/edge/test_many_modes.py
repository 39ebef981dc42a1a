"""Central flows of sixteen modes, from below the edge until all are at it; what they hold and what they compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.dynamics import central_flow
from jaxflow.dynamics.edge.methods import method_of
from jaxflow.dynamics.edge.oscillation_covariance import oscillate

pytestmark = pytest.mark.promotes
MODES, ETA, EDGE = 16, 0.1, 20.0
RISE, PULL = np.linspace(0.15, 0.3, MODES), np.linspace(0.2, 0.1, MODES)
TOP, HIGH, LOW = np.linspace(26, 29, MODES), np.linspace(25, 27, MODES), np.linspace(17.0, 19.9, MODES)
TURN = np.linalg.qr(np.random.default_rng(0).standard_normal((3 * MODES, 3 * MODES)))[0]


def sixteen(w):
    """Sixteen valleys, whose curvatures rise at rates of their own, in coordinates in which none can be seen."""
    x, y, z = jnp.split(jnp.asarray(TURN.T) @ w, 3)
    return jnp.sum(0.5 * y * x**2 + 0.5 * RISE * (y - z) ** 2 + 0.5 * PULL * (z - TOP) ** 2)


def closed_form(steps):
    """Curvature, what draws it up, and mean x² of each valley: two linear equations, then one."""
    curvature, drawn, swing = np.empty((3, MODES, len(steps)))
    reached = np.empty(MODES)
    for i in range(MODES):
        matrix = -ETA * np.array([[RISE[i], -RISE[i]], [-RISE[i], RISE[i] + PULL[i]]])
        values, vectors = np.linalg.eigh(matrix)
        share = vectors.T @ (np.array([LOW[i], HIGH[i]]) - TOP[i])
        free = lambda k, values=values, vectors=vectors, share=share, i=i: (
            TOP[i] + vectors @ (np.exp(np.multiply.outer(values, k)) * share.reshape(2, *[1] * np.ndim(k)))
        )
        early, late = 0.0, 200.0
        for _ in range(60):
            middle = (early + late) / 2
            early, late = (early, middle) if free(middle)[0] > EDGE else (middle, late)
        reached[i], before = early, steps < early
        end = (EDGE * RISE[i] + PULL[i] * TOP[i]) / (RISE[i] + PULL[i])
        fall = np.exp(-ETA * (RISE[i] + PULL[i]) * np.maximum(steps - early, 0))
        held = end + (free(early)[1] - end) * fall
        curvature[i] = np.where(before, free(steps)[0], EDGE)
        drawn[i] = np.where(before, free(steps)[1], held)
        swing[i] = np.where(before, 0, 2 * RISE[i] * (held - EDGE))
    return reached, curvature.T, drawn.T, swing.T


def test_sixteen_modes_come_to_the_edge_one_after_another():
    """Curvatures, what draws them up, and every mean square against the closed form; iterates against the end."""
    steps = np.arange(0, 81, 2.0)
    reached, curvature, drawn, swing = closed_form(steps)
    assert reached.min() < 5
    assert 20 < reached.max() < 60
    start = jnp.asarray(TURN @ np.concatenate([np.zeros(MODES), LOW, HIGH]))
    path = jf.integrate(central_flow(jf.optim.gd(ETA), sixteen, modes=MODES), start, steps * ETA)
    x, y, z = np.split(np.asarray(path.values) @ TURN, 3, axis=1)
    np.testing.assert_allclose(x, 0, atol=1e-10)
    np.testing.assert_allclose(y, curvature, atol=5e-3)
    np.testing.assert_allclose(z, drawn, atol=5e-3)
    modes = np.asarray(path.state.vectors) * ETA**0.5 @ TURN  # P^{-1/2} of the eigenvectors
    covariance = modes.T @ np.asarray(path.observed.covariance[-1]) @ modes
    np.testing.assert_allclose(np.diag(covariance)[:MODES], swing[-1], rtol=0.01)
    np.testing.assert_allclose(np.diag(covariance)[MODES:], 0, atol=1e-9)
    np.testing.assert_allclose(path.observed.eigenvalues[-1], 2, atol=1e-3)
    assert path.observed.complementarity_residual[-1] < 1e-9
    assert path.observed.eigenvector_residual[-1] < 1e-3
    # Iterates that swing as far as the closed form says at the end keep to its averages.
    begin = np.concatenate([np.sqrt(swing[-1]), np.full(MODES, EDGE), drawn[-1]])
    run = jf.iterate(jf.optim.gd(ETA), sixteen, jnp.asarray(TURN @ begin), steps=40)
    square = (np.split(np.asarray(run.values) @ TURN, 3, axis=1)[0] ** 2).mean(0)
    _, _, _, later = closed_form(np.arange(80, 121.0))
    np.testing.assert_allclose(square, later.mean(0), rtol=0.03)


@pytest.mark.parametrize("optimizer", [jf.optim.gd(0.1), jf.optim.rmsprop(0.1)], ids=["gd", "rmsprop"])
def test_the_oscillation_holds_one_vector_for_each_pair(optimizer):
    """The compiled program's own count of its memory, in vectors like the parameters: 136 pairs of 16 modes."""
    size = 20_000
    loss, method = lambda w: jnp.sum(w**4) + jnp.sum(w[1:] ** 2 * w[:-1]), method_of(optimizer)
    vector, small = jnp.ones(size), jnp.zeros((MODES, MODES))

    def find(flat, modes, room, guess):
        return oscillate(
            method=method,
            loss=loss,
            flat=flat,
            gradient=jax.grad(loss)(flat),
            nu=flat if method.kind == "each" else jnp.zeros(1),
            rate=0.1,
            room=room,
            modes=modes,
            guess=guess,
            h=jnp.asarray(0.5),
        )

    compiled = jax.jit(find).lower(vector, jnp.ones((MODES, size)), small[0], small).compile()
    told = compiled.memory_analysis()
    assert told is not None
    held = told.temp_size_in_bytes / (8 * size)
    pairs = MODES * (MODES + 1) // 2
    assert pairs <= held < pairs + 4 * MODES
    # Where no mode is near the edge there are no third derivatives.
    found = compiled(vector, jnp.ones((MODES, size)), small[0] + 0.5, small)
    assert found.thirds == 0
    assert not found.push.any()
    assert not found.covariance.any()
