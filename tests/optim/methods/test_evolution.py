"""The genetic algorithm: what it promises, and the laws its random steps follow.

The statistical tests ask for p-values above 1e-7 each, on fixed seeds; all together raise a false alarm with
probability below 1e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxflow as jf

pytestmark = pytest.mark.promotes
genetic = jf.optim.genetic
LANES = 2000


def bumpy(x):
    """Rastrigin's function moved to 1, not finite on a half space."""
    x = jnp.concatenate([x["a"][None], x["b"][0]])
    y = x - 1
    value = jnp.sum(y**2 + 0.5 * (1 - jnp.cos(2 * jnp.pi * y)))
    return jnp.where(x[0] > 3, jnp.nan, value)


def test_the_loss_never_rises_and_finds_the_least_of_many_minima():
    """Over a pytree, whose structure is kept; there is no learning rate, so the clock is the generation."""
    start = {"a": jnp.asarray(-2.0), "b": jnp.full((1, 2), -2.0)}

    def run(key):
        return jf.iterate(genetic(spread=2.0, key=key), bumpy, start, steps=60, record=bumpy)

    runs = jax.vmap(run)(jax.random.split(jax.random.key(0), 8))
    assert (np.diff(runs.values, axis=1) <= 1e-13).all()  # the rounding of params + (best - params)
    assert np.isfinite(runs.values).all()
    assert jax.tree.map(jnp.shape, runs.params) == {"a": (8,), "b": (8, 1, 2)}
    assert all(np.abs(leaf - 1).max() < 0.1 for leaf in jax.tree.leaves(runs.params))
    assert (np.asarray(runs.times) == np.arange(61)).all()


def generations(steps, value_fn, start, **settings):
    """Populations (lanes, steps + 1, size, d) of independent runs, and their losses."""

    def run(key):
        optimizer = genetic(key=key, **settings)
        state, params, kept = optimizer.init(start), start, []
        for _ in range(steps):
            kept.append(state)
            updates, state = optimizer.update(start, state, params, value_fn=value_fn)
            params = params + updates
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept, state)

    states = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), LANES))
    return np.asarray(states.population), np.asarray(states.losses)


@pytest.fixture(scope="module")
def pairs():
    """Populations of two: the elite, and a child of parents drawn at random, without mutation."""
    settings = {"spread": 2.0, "mutation": 0.0, "alpha": 0.25, "size": 2, "elite": 1, "rounds": 1}
    return generations(1, lambda x: jnp.sum(x**2), jnp.array([3.0, -1.0]), **settings)[0]


def test_the_first_population_is_normal_around_the_parameters(pairs):
    first = pairs[:, 0]
    assert (first[:, 0] == [3.0, -1.0]).all()
    for i, center in enumerate((3.0, -1.0)):
        assert scipy.stats.kstest((first[:, 1, i] - center) / 2, "norm").pvalue > 1e-7


def test_the_elite_survives_and_a_child_is_a_blend_of_its_parents(pairs):
    """Gene by gene a + w(b - a), w uniform on [-α, 1 + α]; with one parent twice (half the draws) it is that."""
    before, after = pairs[:, 0], pairs[:, 1]
    best = np.argmin((before**2).sum(-1), axis=1)
    assert (after[:, 0] == before[np.arange(LANES), best]).all()
    weight = (after[:, 1] - before[:, 0]) / (before[:, 1] - before[:, 0])
    same = np.isclose(weight, 0, atol=1e-9).all(1) | np.isclose(weight, 1, atol=1e-9).all(1)
    assert scipy.stats.binomtest(int(same.sum()), LANES, 0.5).pvalue > 1e-7
    blended = weight[~same]
    for gene in (0, 1):
        assert scipy.stats.kstest(blended[:, gene], "uniform", (-0.25, 1.5)).pvalue > 1e-7
    assert scipy.stats.pearsonr(*blended.T).pvalue > 1e-7


def test_mutations_are_normal_with_a_standard_deviation_that_decays():
    """In tournaments of 60 among 3 both parents are the best, so that a child is its mutation."""
    settings = {"spread": 2.0, "mutation": 0.1, "decay": 0.5, "size": 3, "elite": 1, "rounds": 60}
    population, losses = generations(2, lambda x: jnp.sum(x**2), jnp.array([3.0, -1.0]), **settings)
    for k in (0, 1):
        best = population[np.arange(LANES), k, np.argmin((population[:, k] ** 2).sum(-1), axis=1)]
        children = population[:, k + 1, 1:] - best[:, None]
        assert scipy.stats.kstest(children.ravel() / (2.0 * 0.1 * 0.5**k), "norm").pvalue > 1e-7
    assert np.allclose(losses[:, 1:], (population[:, 1:] ** 2).sum(-1), rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"spread": 0.0}, ValueError, "spread must be"),
        ({"mutation": -0.1}, ValueError, "mutation must be"),
        ({"alpha": float("nan")}, ValueError, "alpha must be"),
        ({"decay": -1}, ValueError, "decay must be"),
        ({"size": 1}, ValueError, "size must be an integer at least 2, got 1"),
        ({"size": 8.0}, TypeError, "size must be an integer"),
        ({"size": 8, "elite": 8}, ValueError, "elite must be below size = 8, got 8"),
        ({"elite": 0}, ValueError, "elite must be"),
        ({"rounds": 0}, ValueError, "rounds must be"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        genetic(key=jax.random.key(0), **settings)
