"""Central flows as the trials of a sweep, over whatever of theirs is a number."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.dynamics import central_flow

pytestmark = pytest.mark.promotes
START, STEPS, RISE = jnp.array([0.01, 16.0, 30.0]), 60, 30.0


def valley(p):
    """Its curvature y is drawn up by z, and held at the edge."""
    return 0.5 * p[1] * p[0] ** 2 + 0.1 * (p[1] - p[2]) ** 2 + 0.025 * (p[2] - 32.0) ** 2


def told(path):
    """What a flow says of itself at every time, and what it cost."""
    names = "loss", "squared_gradient", "covariance", "eigenvalues"
    work = [path.observed.substeps, path.observed.products, path.observed.third_derivatives]
    found = {name: getattr(path.observed, name) for name in names}
    return {"times": path.times, "params": path.values, "work": jnp.stack(work, axis=-1)} | found


def descent(numbers, key):
    """Through a warm-up of `begin` times the rate to the rate."""
    rate, begin = numbers["learning_rate"], numbers["begin"]
    flow = central_flow(jf.optim.gd(jf.optim.warmup(rate, RISE, begin * rate)), valley, modes=2)
    return told(
        jf.integrate(flow, START, jnp.linspace(0.0, 1.0, 31) * (STEPS - RISE * (1 - begin) / 2) * rate)
    )


def rmsprop(numbers, key):
    """RMSProp, whose average has a length of its own."""
    flow = central_flow(jf.optim.rmsprop(numbers["learning_rate"], numbers["decay"]), valley, modes=2)
    return told(jf.integrate(flow, START, jnp.linspace(0.0, 1.0, 31) * STEPS * numbers["learning_rate"]))


AXES = {
    descent: {"learning_rate": [0.05, 0.1, 0.12], "begin": [0.5, 0.9]},
    rmsprop: {"learning_rate": [0.002, 0.02], "decay": [0.8, 0.95]},
}


@pytest.mark.parametrize("trial", AXES)
def test_every_cell_is_the_flow_alone(trial):
    """Rates that stay below the edge and rates that come to it, in one program; and what they cost."""
    axes = AXES[trial]
    table = jf.sweep(trial, axes, progress=False)
    assert not table.diverged.any()
    alone, key = jax.jit(trial), jax.random.key(0)
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        found, expected = table.sel(cell).squeeze("seed"), alone(jax.tree.map(jnp.asarray, cell), key)
        for name in ("params", "loss", "squared_gradient", "covariance", "eigenvalues"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-9, err_msg=name)
        np.testing.assert_array_equal(found["work"], expected["work"])
    assert alone._cache_size() == 1
    last = table.isel(time=-1, seed=0)
    swings = last.covariance.values[..., 0, 0] > 0
    np.testing.assert_allclose(last.eigenvalues.values[swings][:, 0], 2, atol=0.02)
    if trial is descent:
        np.testing.assert_array_equal(swings, [[False] * 2, [True] * 2, [True] * 2])
        rates = np.broadcast_to(table.learning_rate.values[:, None], swings.shape)
        np.testing.assert_allclose(last.params.values[swings][:, 1], 2 / rates[swings], rtol=1e-5)
