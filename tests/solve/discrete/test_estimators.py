"""Gradient estimators: their laws, measured, and streams of batches.

The loss ⟨w, x⟩ has the example itself as its gradient, so that one step of descent at rate 1 shows the mean of
the batch. Each statistic below is compared at z = 6.5 standard errors (two-sided 8e-11) or at a p-value of
1e-9; there are fewer than 500 of them, so that a false alarm has probability below 1e-6.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxflow as jf

pytestmark = pytest.mark.promotes

Z = 6.5
DRAWS = 20_000
N, B = 7, 3
X = np.random.default_rng(0).normal(size=(N, 3)) * [1, 2, 0.5] + [1, 0, -1]
SIGMA = np.cov(X.T, bias=True)
LINEAR = jf.Objective(lambda w, x: x @ w, jnp.asarray(X))


def gradients(estimator, objective, steps, draws, seed):
    """The gradient estimates of independent runs; shape (draws, steps, d)."""
    start = jnp.zeros(objective.data.shape[1])
    run = lambda key: jf.iterate(
        jf.optim.gd(1.0), objective, start, steps=steps, estimator=estimator, key=key
    )
    return -np.diff(jax.vmap(run)(jax.random.split(jax.random.key(seed), draws)).values, axis=1)


def z_score(samples, expected):
    """Of the mean over the first axis, in its standard errors."""
    error = samples.std(axis=0) / np.sqrt(len(samples))
    return np.abs(samples.mean(axis=0) - expected) / np.maximum(error, 1e-12)


R = lambda l: np.sqrt(2 * l - 1)
LAWS = {
    "with_replacement": (jf.solve.with_replacement(B), 1 / B),
    "without_replacement": (jf.solve.without_replacement(B), (N - B) / (N - 1) / B),
    "svag, l = 1": (jf.solve.svag(B, 1.0), 1 / B),
    "svag, l = 3": (jf.solve.svag(B, 3.0), ((1 + R(3)) ** 2 + (1 - R(3)) ** 2) / 4 / B),
    "svag, l = 8": (jf.solve.svag(B, 8), 8 / B),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("law", LAWS)
def test_mean_and_covariance_are_exact_and_steps_independent(law, seed):
    estimator, scale = LAWS[law]
    noise = gradients(estimator, LINEAR, 2, DRAWS, seed) - X.mean(axis=0)
    assert (z_score(noise, 0) < Z).all()
    outer = noise[:, :, :, None] * noise[:, :, None, :]
    assert (z_score(outer, scale * SIGMA) < Z).all()
    across = noise[:, 0, :, None] * noise[:, 1, None, :]
    assert (z_score(across, 0) < Z).all()


ONE_HOT = jf.Objective(lambda w, x: x @ w, jnp.eye(40))  # the gradient holds each example's weight


@pytest.mark.parametrize("l", [1.0, 2.5, 10.0])
def test_svags_weights_sum_to_one_and_their_squares_to_l_over_b(l):
    weights = gradients(jf.solve.svag(B, l), ONE_HOT, 1, 200, 0)[:, 0]
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    distinct = weights[(weights != 0).sum(axis=1) == (B if l == 1 else 2 * B)]  # no example drawn twice
    assert len(distinct) > 20
    np.testing.assert_allclose((distinct**2).sum(axis=1), l / B, rtol=1e-12)
    values = {(1 + R(l)) / (2 * B), (1 - R(l)) / (2 * B)} - {0}
    found = np.unique(distinct[distinct != 0].round(12))
    np.testing.assert_allclose(found, sorted(values), rtol=1e-10)


def test_batches_without_replacement_hold_distinct_examples_all_equally_often():
    weights = gradients(jf.solve.without_replacement(B), ONE_HOT, 1, DRAWS, 3)[:, 0]
    assert set(np.unique(weights.round(12))) == {0, round(1 / B, 12)}
    counts = (weights > 0).sum(axis=0)
    # Draws without replacement: variances are those of a multinomial times (N - B)/(N - 1).
    statistic = ((counts - counts.mean()) ** 2).sum() / (counts.mean() * (40 - B) / (40 - 1))
    assert scipy.stats.chi2.sf(statistic, 39) > 1e-9


@pytest.mark.parametrize("size", [8, 11])
def test_epochs_visit_every_example_once_a_pass_in_a_new_order(size):
    """With 11 examples and batches of 4, two batches a pass and three examples left out."""
    objective = jf.Objective(lambda w, x: x @ w, jnp.eye(size))
    passes = 6
    drawn = gradients(jf.solve.epochs(4), objective, 2 * passes, 50, 0) > 0
    assert (drawn.sum(axis=2) == 4).all()
    by_pass = drawn.reshape(50, passes, 2, size)
    assert (by_pass.sum(axis=2) <= 1).all()
    assert (by_pass.sum(axis=(2, 3)) == 8).all()
    same_as_before = (by_pass[:, 1:] == by_pass[:, :-1]).all(axis=(2, 3)).mean()
    assert same_as_before < 0.2  # by chance 1 in 70, or fewer


def test_the_order_of_an_epoch_is_uniform():
    objective = jf.Objective(lambda w, x: x @ w, jnp.eye(4))
    drawn = gradients(jf.solve.epochs(1), objective, 8, 6000, 1).argmax(axis=2)
    for epoch in (drawn[:, :4], drawn[:, 4:]):
        codes = epoch @ 4 ** np.arange(4)
        orders = [np.array(order) @ 4 ** np.arange(4) for order in itertools.permutations(range(4))]
        assert scipy.stats.chisquare([(codes == order).sum() for order in orders]).pvalue > 1e-9


def test_svag_runs_at_a_traced_and_vmapped_l():
    key, start = jax.random.key(0), jnp.zeros(3)
    run = lambda l: jf.iterate(
        jf.optim.gd(0.1 / l), LINEAR, start, steps=4, estimator=jf.solve.svag(2, l), key=key
    )
    lanes = jax.vmap(run)(jnp.array([1.0, 4.0]))
    np.testing.assert_allclose(lanes.values[1], run(4.0).values, rtol=1e-12)
    np.testing.assert_allclose(lanes.times[:, -1], [0.4, 0.1], rtol=1e-14)


def test_a_users_estimator_is_a_traceable_constructor():
    @jf.optim.traceable
    def in_turn(weight):
        def draw(objective, state, step, key):
            del key
            index = step % objective.size
            return (lambda w: objective.minibatch(w, index[None], weight * jnp.ones(1))), state + 1

        return jf.solve.Draws(draw, lambda objective, key: jnp.zeros((), int))

    run = jf.iterate(jf.optim.gd(1.0), LINEAR, jnp.zeros(3), steps=N, estimator=in_turn(2.0))
    np.testing.assert_allclose(-np.diff(run.values, axis=0), 2 * X, rtol=1e-12)
    assert int(run.state.estimator) == N
