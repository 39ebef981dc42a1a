"""Half precision: sums over data run in float32, so that they are right to the rounding of one number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow import dynamics

N = 100_000
UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
DTYPES = pytest.mark.parametrize("dtype", list(UNIT))


def linear(w, x):
    return w * x


@DTYPES
def test_means_and_slopes_of_many_examples_are_exact(dtype):
    """The mean of w·x over equal x is x at w = 1, and so is its slope: whole, in chunks, with a rest."""
    x = jnp.asarray([1.0, 0.1, 3e-3, 300.0], dtype)
    one, indices = jnp.asarray(1, dtype), jnp.arange(N)

    @jax.jit
    @jax.vmap
    def each(x):
        data = jnp.full(N, x)
        objectives = [jf.Objective(linear, data, chunk) for chunk in (None, 100, 33_333)]
        found = [jax.value_and_grad(f)(one) for f in objectives]
        found += [jax.value_and_grad(f.weighted)(one, jnp.full(N, 1 / N)) for f in objectives[:2]]
        return [*found, jax.value_and_grad(objectives[0].minibatch)(one, indices)]

    for value, slope in each(x):
        assert value.dtype == slope.dtype == dtype
        np.testing.assert_allclose(value.astype(float), x.astype(float), rtol=UNIT[dtype])
        np.testing.assert_allclose(slope.astype(float), x.astype(float), rtol=UNIT[dtype])


@DTYPES
@pytest.mark.parametrize("slope", [1.0, 3e-3])
def test_descent_moves(dtype, slope):
    """Five steps of .1, from 1 to .5, each rounded; over a stream too. A share 1/N of 3e-3 is below float16."""
    data, start, optimizer = jnp.full(N, slope, dtype), jnp.asarray(1, dtype), jf.optim.gd(0.1 / slope)
    paths = [
        jf.iterate(optimizer, jf.Objective(linear, data, chunk), start, steps=5) for chunk in (None, 100)
    ]
    paths.append(jf.iterate(optimizer, jf.Objective(linear), start, steps=5, estimator=[data] * 5))
    for path in paths:
        np.testing.assert_allclose(float(path.params), 0.5, atol=3 * UNIT[dtype])


def network(params, batch):
    """A layer, one with a batch axis of its own, a bias, and parameters after the sum over examples."""
    x = jnp.tanh(batch["x"] @ params["first"])
    x = jnp.tanh(
        jnp.einsum("nhp,hpc->nhc", x.reshape(-1, 2, 2), params["heads"]) + params["bias"][None, :, None]
    )
    return params["scale"] ** 2 * jnp.sum(x**2, axis=(1, 2)) * batch["y"].astype(x.dtype)


def test_derivatives_of_any_mode_are_those_of_double_precision():
    """200 examples of a network, 70 at a time, against float64; each example is rounded some tens of times."""
    dtype, chunk, rng = "float16", 70, np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    shapes = {"first": (3, 4), "heads": (2, 2, 3), "bias": (2,), "scale": ()}
    params, v = ({k: normal(*shape) for k, shape in shapes.items()} for _ in range(2))
    data, weights = (
        {"x": normal(200, 3), "y": jnp.asarray(rng.integers(1, 4, 200))},
        jnp.asarray(rng.random(200)),
    )

    @jax.jit
    def derivatives(data, params, v):
        f = jf.Objective(network, data, chunk)
        slope = jax.grad(f)
        like = lambda x: jnp.asarray(x, params["scale"].dtype)
        along = lambda p: jax.jvp(f, (p,), (v,))[1]
        scaled = lambda a: jf.Objective(lambda p, batch: like(a) * network(p, batch), data, chunk)
        by_data = lambda x: jf.Objective(network, {**data, "x": x}, chunk)(params)
        return {
            "slope": slope(params),
            "forward": along(params),
            "forward over reverse": jax.jvp(slope, (params,), (v,))[1],
            "reverse over forward": jax.grad(along)(params),
            "third": jax.jvp(lambda p: jax.jvp(slope, (p,), (v,))[1], (params,), (v,))[1],
            "weighted": jax.grad(f.weighted)(params, weights),
            "in the weights": jax.grad(f.weighted, 1)(params, weights),
            "in the data": like(200) * jax.grad(by_data)(data["x"]),
            "in a closure": jax.grad(lambda a: scaled(a)(params))(1.0),
            "mapped": jax.vmap(lambda a: jax.grad(scaled(a))(params))(jnp.arange(1.0, 3.0)),
        }

    wide = lambda tree: jax.tree.map(lambda x: x.astype(float), tree)
    double = {"x": wide(data["x"]), "y": data["y"]}
    ours, exact = derivatives(data, params, v), derivatives(double, wide(params), wide(v))
    for name in exact:
        pairs = zip(jax.tree.leaves(ours[name]), jax.tree.leaves(exact[name]), strict=True)
        gap = max(np.abs(np.asarray(a, float) - b).max() / np.abs(b).max() for a, b in pairs)
        assert gap <= 30 * UNIT[dtype], (name, gap)


def test_single_precision_is_left_alone():
    f = jf.Objective(linear, jnp.ones(7, jnp.float32), 3)
    assert "custom_jvp" not in str(jax.make_jaxpr(f)(jnp.float32(1)))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), f)
    assert "custom_jvp" in str(jax.make_jaxpr(half)(jnp.bfloat16(1)))


def test_second_moments_of_flows_hold_small_squares():
    """A constant gradient g of 3e-3, whose square float16 does not hold: |θ'| = g/√v, in closed form."""
    dtype = "float16"
    loss, start = lambda w: jnp.asarray(3e-3, w.dtype) * w, jnp.zeros((), dtype)
    g, eta = float(jnp.asarray(3e-3, dtype)), 0.01
    first = 100 * g**2
    adagrad = dynamics.adagrad(loss, eta, initial_accumulator=first)
    path = jf.integrate(adagrad, start, [0.0, 1.0])
    assert path.state.accumulator.dtype == jnp.float32
    last = first + g**2 / eta
    np.testing.assert_allclose(path.state.accumulator, last, rtol=2 * UNIT[dtype])
    exact = -2 * eta / g * (np.sqrt(last) - np.sqrt(first))
    np.testing.assert_allclose(float(path.params), exact, rtol=4 * UNIT[dtype])
    adam, rmsprop = dynamics.adam(loss, eta), dynamics.rmsprop(loss, eta)
    path = jf.integrate(adam, start, [0.0, 1.0])
    assert path.params.dtype == dtype
    assert {leaf.dtype for leaf in path.state[1:]} == {jnp.dtype("float32")}
    np.testing.assert_allclose(float(path.params), -1, rtol=4 * UNIT[dtype])
    settled = dynamics.RMSPropState(start, jnp.float32(g**2))
    np.testing.assert_allclose(float(rmsprop.drift(0.0, settled).params), -1, rtol=UNIT[dtype])
    assert rmsprop.init(start).second_moment.dtype == jnp.float32


@DTYPES
def test_noise_of_many_small_gradients(dtype):
    """Half of the gradients are 0 and half 2g with g = 3e-3: mean g, variance g²; a draw is √N/√B g for ξ = ±1."""
    sign = np.where(np.arange(N) % 2 == 0, 1, -1).astype(np.float32)
    g = float(jnp.asarray(3e-3, dtype))
    f, w = jf.Objective(linear, jnp.asarray(g * (1 + sign), dtype), 1000), jnp.asarray(1, dtype)
    scale = jf.noise_scale(f, w, eigenpairs=1)
    for found in (
        scale.trace,
        scale.squared_gradient,
        scale.eigenvalues[0],
        jf.gradient_covariance(f, w)[0, 0],
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, g**2, rtol=4 * UNIT[dtype])
    draw = jax.jit(lambda f, w, xi: jf.dynamics.minibatch_noise(f, w, xi, batch_size=4))(f, w, sign)
    np.testing.assert_allclose(float(draw), g * np.sqrt(N / 4), rtol=4 * UNIT[dtype])
    after = jf.comparison.moment_descent(f, w, learning_rate=0.5, batch_size=4, steps=2)
    np.testing.assert_allclose(after.covariance[0, 0], 2 * 0.25 * g**2 / 4, rtol=8 * UNIT[dtype])


@DTYPES
def test_gauss_newton_products_of_half_precision_outputs(dtype):
    """f = wx in half precision with w in single: G is the mean of x², 1."""
    predict = lambda w, x: w.astype(x.dtype) * x
    losses = jf.problems.PredictionLosses(predict, lambda f, y: 0.5 * (f - y) ** 2)
    for chunk in (None, 1000):
        f = jf.Objective(losses, {"x": jnp.ones(N, dtype), "y": jnp.zeros(N, dtype)}, chunk)
        np.testing.assert_allclose(jf.curvature.ggn_vp(f, jnp.float32(1), jnp.float32(1)), 1, rtol=1e-5)


@DTYPES
def test_scores_count_beyond_the_largest_number_of_float16(dtype):
    sign = np.where(np.arange(N) % 2 == 0, 1, -1).astype(dtype)
    problem = jf.problems.linear_regression(noise=0.0)
    score = lambda y: float(problem.score(jnp.ones(1, dtype), {"x": sign[:, None], "y": y}))
    assert score((sign > 0).astype(np.int32)) == 1
    np.testing.assert_allclose(score(2 * sign), 1 - 1 / 4, rtol=1e-5)
