"""The Dynamics type: leaves, arithmetic, a user's own, and gradient flow's drift."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.dynamics import Field

pytestmark = pytest.mark.promotes
CURVATURE = jnp.array([1.0, 3.0])
TIMES = jnp.array([0.0, 0.5, 1.0])


def loss(x):
    return 0.5 * jnp.sum(CURVATURE * x**2)


@jf.dynamics.traceable
def rotation(rate) -> Field:
    return Field(drift=lambda t, x: rate * jnp.array([-x[1], x[0]]))


@jf.dynamics.traceable
def heavy(mass) -> Field:
    return Field(
        drift=lambda t, z: (z[1], -z[0] / mass),
        init=lambda params: (params, jnp.zeros_like(params)),
        params=lambda z: z[0],
        time_step=0.5,
    )


@jf.dynamics.traceable
def brownian(scale) -> Field:
    return Field(
        drift=lambda t, x: 0 * x,
        diffusion=lambda t, x, xi: scale * xi,
        brownian=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
    )


def test_leaves_are_objective_data_and_hyperparameters_once():
    data = {"x": jnp.ones((7, 2))}
    objective = jf.Objective(lambda w, b: b["x"] @ w, data)
    assert [leaf.shape for leaf in jax.tree.leaves(jf.dynamics.gradient_flow(objective))] == [(7, 2)]
    assert jax.tree.leaves(rotation(2)) == [2.0]


def test_gradient_flow_drift_is_minus_the_gradient():
    x = jnp.array([2.0, -1.0])
    np.testing.assert_allclose(jf.dynamics.gradient_flow(loss).drift(0.0, x), -CURVATURE * x, rtol=1e-15)


def test_complex_parameters_flow_downhill_to_the_closed_form():
    flow = jf.dynamics.gradient_flow(lambda z: 0.5 * jnp.sum(jnp.abs(z - 1j) ** 2))
    np.testing.assert_allclose(flow.drift(0.0, jnp.array([2.0 + 0j])), [-2 + 1j], rtol=1e-15)


def test_sum_and_multiple_against_the_matrix_exponential():
    from scipy.linalg import expm

    dynamics = 2.0 * jf.dynamics.gradient_flow(loss) + rotation(0.5) * 3
    x0 = jnp.array([1.0, 2.0])
    path = jf.integrate(dynamics, x0, TIMES, rtol=1e-11, atol=1e-11)
    matrix = -2 * np.diag(CURVATURE) + 1.5 * np.array([[0, -1.0], [1, 0]])
    exact = np.stack([expm(t * matrix) @ x0 for t in TIMES])
    np.testing.assert_allclose(path.values, exact, atol=1e-9)


def test_multiple_scales_noise_by_the_root_and_time_step_inversely():
    xi = jnp.array([1.0, -2.0])
    four = 4.0 * brownian(0.5)
    np.testing.assert_allclose(four.diffusion(0.0, xi, xi), 2 * 0.5 * xi, rtol=1e-15)
    assert (2.0 * heavy(1.0)).time_step == 0.25


def test_sum_draws_independent_noise_for_each_term():
    both = brownian(1.0) + brownian(2.0)
    shape_a, shape_b = both.brownian(jnp.zeros(2))
    assert shape_a.shape == shape_b.shape == (2,)
    a, b = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    np.testing.assert_allclose(both.diffusion(0.0, a, (a, b)), [1.0, 2.0])
    one = jf.dynamics.gradient_flow(loss) + brownian(2.0)
    np.testing.assert_allclose(one.diffusion(0.0, a, b), 2 * b)


def test_state_with_velocity_reaches_the_closed_form():
    path = jf.integrate(heavy(4.0), jnp.ones(1), TIMES, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(path.values[:, 0], np.cos(np.asarray(TIMES) / 2), atol=1e-8)
    assert isinstance(path.state, tuple)


def test_one_compilation_for_any_numbers():
    before = programs()["solve.ode.flow.follow"]
    for rate in (1, 2.0, np.float64(3)):
        jf.integrate(rotation(rate) + rotation(0.1), jnp.ones(2), TIMES * rate, rtol=1e-6 * rate)
    assert programs()["solve.ode.flow.follow"] == before + 1


def test_goes_through_vmap_and_grad():
    final = lambda dynamics: jf.integrate(dynamics, jnp.ones(2), TIMES, rtol=1e-9).params
    stack = jax.vmap(rotation)(jnp.array([0.3, 0.7]))
    ends = jax.vmap(final)(stack)
    angle = np.pi / 4 + np.array([0.3, 0.7])
    np.testing.assert_allclose(ends, np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1), atol=1e-7)
    slope = jax.grad(lambda dynamics: final(dynamics)[0])(rotation(0.3))
    np.testing.assert_allclose(slope.hyperparameters["rate"], -np.sqrt(2) * np.sin(angle[0]), atol=1e-6)


def test_pickles():
    again = pickle.loads(pickle.dumps(2.0 * rotation(0.5)))
    np.testing.assert_allclose(again.drift(0.0, jnp.array([1.0, 0.0])), [0.0, 1.0])


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="objective must be"):
        jf.dynamics.gradient_flow(3.0)
    with pytest.raises(ValueError, match="factor must be"):
        -1.0 * brownian(1.0)
    with pytest.raises(ValueError, match="one structure"):
        (heavy(1.0) + rotation(1.0)).drift(0.0, (jnp.ones(2), jnp.ones(2)))
    with pytest.raises(TypeError):
        rotation(1.0) * rotation(1.0)
    with pytest.raises(TypeError, match="must return"):
        jf.dynamics.traceable(lambda rate: rate)(1.0)
