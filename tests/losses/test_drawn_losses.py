"""Losses that draw random numbers: a key for each example, the step's own in `iterate`, a mean of draws elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxflow as jf

pytestmark = pytest.mark.promotes
X = jnp.linspace(-1.0, 2.0, 18).reshape(6, 3)
Y = jnp.array([1.0, -1.0, 0.5, 0.0, 2.0, 1.5])
W = jnp.array([0.3, -0.2, 0.5])
P = 0.75  # of what is kept


def losses(w, batch, key):
    """Linear regression with dropout of the inputs."""
    x, y = batch
    kept = jax.vmap(lambda k: jax.random.bernoulli(k, P, (3,)))(key) / P
    return 0.5 * ((x * kept) @ w - y) ** 2


def expected(w):
    """Its expectation: the squared error, and a ridge of the variance of the masks."""
    return 0.5 * jnp.mean((X @ w - Y) ** 2) + 0.5 * (1 - P) / P * jnp.mean(X**2 @ w**2)


DROPOUT = jf.Objective(losses, (X, Y))
run = lambda objective=DROPOUT, steps=50, seed=0, **others: jf.iterate(
    jf.optim.gd(0.05), objective, W, steps=steps, key=jax.random.key(seed), **others
)


@pytest.mark.parametrize("batch", [None, 4])
def test_a_key_is_a_run_and_steps_differ(batch):
    first, again, other = run(batch_size=batch), run(batch_size=batch), run(batch_size=batch, seed=1)
    np.testing.assert_array_equal(first.values, again.values)
    assert (np.asarray(first.params) != np.asarray(other.params)).all()
    if batch is None:  # all data, so that only the masks differ
        slopes = np.diff(first.values, axis=0)
        assert np.unique(slopes[:, 0]).size == 50
    half = run(steps=20, batch_size=batch)
    rest = jf.iterate(jf.optim.gd(0.05), DROPOUT, half.params, steps=30, batch_size=batch, state=half.state)
    np.testing.assert_array_equal(rest.params, first.params)


def test_a_step_is_the_gradient_with_its_masks():
    """Against the same step written out: the keys of all examples are those of their numbers."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 2**31 - 1)
    keys = jax.jit(jax.vmap(lambda i: jax.random.fold_in(key, i)))(np.arange(6))
    slope = jax.jit(jax.grad(lambda w: losses(w, (X, Y), keys).mean()))(W)
    np.testing.assert_allclose(run(steps=1).params, W - 0.05 * np.asarray(slope), rtol=1e-13)


def test_chunks_draw_the_same_masks():
    for chunk in (2, 4):
        chunked = jf.Objective(losses, (X, Y), chunk=chunk)
        np.testing.assert_allclose(run(chunked).values, run().values, rtol=1e-12)


def test_an_example_that_is_drawn_twice_has_two_masks():
    one = jf.Objective(losses, (X[:1], Y[:1])).with_key(jax.random.key(0))
    each = one.per_example(W, one.take(np.zeros(64, int))._replace(number=np.arange(64)))
    assert np.unique(each).size > 4  # of the eight masks of three
    alone, many = (one.minibatch(W, np.zeros(size, int)) for size in (1, 64))
    assert not np.isclose(many, alone)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_iterates_follow_the_expectation(seed):
    """The mean of 400 runs of small steps is gradient descent on the expectation, within 4.5 standard errors.

    Of nine comparisons a false alarm has the probability 6e-5.
    """
    ends = jax.vmap(
        lambda key: jf.iterate(jf.optim.gd(0.02), DROPOUT, W, steps=60, key=key, every=None).params
    )(jax.random.split(jax.random.key(seed), 400))
    descent = jf.iterate(jf.optim.gd(0.02), expected, W, steps=60).params  # linear, so its mean is exact
    error = np.std(ends, 0) / 20
    assert (abs(np.mean(ends, 0) - np.asarray(descent)) < 4.5 * error).all()


def test_elsewhere_a_loss_is_its_mean_over_draws():
    many = jf.Objective(losses, (X, Y), draws=1000)
    np.testing.assert_allclose(many(W), expected(W), rtol=0.04)
    few = jf.Objective(losses, (X, Y), draws=5)
    assert few(W) == few(W)
    np.testing.assert_allclose(
        few(W), np.mean(jax.jit(jax.vmap(few.minibatch, (None, 0)))(W, np.arange(6)[:, None])), rtol=1e-14
    )
    # The covariance of its examples' gradients, and their noise, are those of the same function.
    slopes = jax.jit(jax.vmap(jax.grad(few.minibatch), (None, 0)))(W, np.arange(6)[:, None])
    sigma = np.cov(np.asarray(slopes).T, bias=True)
    np.testing.assert_allclose(jf.gradient_covariance(few, W), sigma, rtol=1e-12)
    np.testing.assert_allclose(jf.noise_scale(few, W).trace, np.trace(sigma), rtol=1e-12)
    times = np.array([0.0, 0.5])
    plain = lambda w: few(w)
    for make in (jf.dynamics.gradient_flow, lambda o: jf.dynamics.modified(jf.optim.gd(0.1), o)):
        a, b = (jf.integrate(make(objective), W, times).params for objective in (few, plain))
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert np.isfinite(
        jf.integrate(jf.dynamics.sgd(few, 0.1, 2), W, times, key=jax.random.key(0)).params
    ).all()
    np.testing.assert_allclose(jf.curvature.hvp(few, W, W), jf.curvature.hvp(plain, W, W), rtol=1e-12)


def test_a_stream_draws_too_and_goes_on():
    batches = [(X[i : i + 2], Y[i : i + 2]) for i in (0, 2, 4)]
    drawn = jf.Objective(losses)
    stream = lambda w, batches, **others: jf.iterate(
        jf.optim.gd(0.1), drawn, w, steps=len(batches), estimator=batches, **others
    )
    whole = stream(W, batches, key=jax.random.key(0))
    first = stream(W, batches[:2], key=jax.random.key(0))
    np.testing.assert_array_equal(stream(first.params, batches[2:], state=first.state).params, whole.params)
    assert (stream(W, batches, key=jax.random.key(1)).params != whole.params).all()


def test_whole_models_and_other_numbers_compile_once():
    from jaxflow._compiled import programs

    model = {"w": W, "rate": P, "act": jnp.tanh}
    apply = lambda m, batch, key: m["act"](losses(m["w"], batch, key))
    objective = jf.Objective(apply, (X, Y))
    go = lambda key: jf.iterate(
        jf.optim.gd(0.1), objective, model, steps=3, key=key, trainable=lambda path, _: path == "w"
    )
    go(jax.random.key(0))
    before = programs()["solve.iteration.iterate"]
    assert go(jax.random.key(5)).params["act"] is jnp.tanh
    assert programs()["solve.iteration.iterate"] == before


def test_what_is_missing_is_said():
    for use in (
        lambda: DROPOUT(W),
        lambda: jf.integrate(jf.dynamics.gradient_flow(DROPOUT), W, [0.0, 1.0]),
        lambda: jf.integrate(jf.dynamics.sgd(DROPOUT, 0.1, 2), W, [0.0, 1.0], key=jax.random.key(0)),
        lambda: jf.curvature.top_eigenpairs(DROPOUT, W, 1),
        lambda: jf.noise_scale(DROPOUT, W),
    ):
        with pytest.raises(
            ValueError, match="draws must be given to an Objective whose losses draw random numbers"
        ):
            use()
    with pytest.raises(
        ValueError, match=r"key must be a PRNG key such as .* when losses draw random numbers, got None"
    ):
        jf.iterate(jf.optim.gd(0.1), DROPOUT, W, steps=1)
    with pytest.raises(
        ValueError, match="draws must be None for losses without an argument named key, got 3"
    ):
        jf.Objective(lambda w, x: w * x, X[:, 0], draws=3)
    with pytest.raises(ValueError, match="draws must be an integer at least 1, got 0"):
        jf.Objective(losses, (X, Y), draws=0)


def test_losses_of_an_objective_make_one_of_other_data():
    first = jf.Objective(losses, (X, Y), draws=2)
    fewer = jf.Objective(first.losses, (X[:4], Y[:4]))
    expected = jf.Objective(losses, (X[:4], Y[:4]), draws=2)
    go = lambda o: jf.iterate(jf.optim.gd(0.1), o, W, steps=3, batch_size=2, key=jax.random.key(1)).params
    np.testing.assert_array_equal(go(fewer), go(expected))
    assert float(fewer(W)) == float(expected(W))
    assert float(jf.Objective(first.losses, (X, Y), draws=5)(W)) == float(
        jf.Objective(losses, (X, Y), draws=5)(W)
    )


def whole(w, x, key):
    return x * jax.vmap(lambda k: jax.random.randint(k, (), 0, 1000))(key) + 0.0 * w


value_at_0 = jax.jit(lambda objective: objective(jnp.array(0.0)))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("batch", [None, 8, 6])
def test_the_numbers_drawn_are_those_of_one_device_to_the_bit(kind, batch):
    """Losses of whole numbers, whose sums are exact: any other draw would show."""
    data = jnp.asarray(np.arange(1.0, 13.0))
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",), axis_types=(getattr(AxisType, kind),))
    plain = jf.Objective(whole, data, draws=3)
    laid = jax.device_put(plain, NamedSharding(mesh, PartitionSpec("data")))
    told = {"loss": jf.solve.metrics.loss}
    go = lambda objective: jf.iterate(
        jf.optim.gd(0.1),
        objective,
        jnp.array(0.0),
        steps=4,
        batch_size=batch,
        key=jax.random.key(4),
        metrics=told,
    )
    size = batch or 12
    found, expected = (np.asarray(go(objective).metrics["loss"])[1:] * size for objective in (laid, plain))
    np.testing.assert_array_equal(np.round(found), np.round(expected))
    np.testing.assert_allclose(found, np.round(found), rtol=1e-13)
    assert np.unique(np.round(found)).size == 4
    np.testing.assert_allclose(value_at_0(laid), value_at_0(plain), rtol=1e-14)
