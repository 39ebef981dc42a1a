"""Theory of dynamics: experiments in their quick form, once each, and their parts against loops and other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_files import check_files
from jax.flatten_util import ravel_pytree

from experiments.noise import without_replacement

pytestmark = pytest.mark.promotes
NAMES = ("without_replacement",)


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_reached(run, name):
    """Most have an interval from theory, which the quick version is in too; those with noise have fixed keys."""
    lines = run(name)[0]["headlines"]
    assert any(line["reached"] for line in lines.values())
    assert not [told for told, line in lines.items() if line["reached"] is False]


def network(params, x):
    first, last = params
    return jnp.tanh(x @ first["w"] + first["b"][None]) @ last["w"] + last["b"][None]


def test_an_epoch_is_a_loop_over_its_batches():
    """The mean over two orders, with a cross-entropy written out."""
    objective, params, batches = without_replacement.setting()
    flat, unravel = ravel_pytree(params)
    data, labels = objective.data["x"], objective.data["y"]

    def loss(theta, index):
        outputs = network(unravel(theta), data[index])
        return (jax.nn.logsumexp(outputs, 1) - outputs[jnp.arange(len(index)), labels[index]]).mean()

    slope, ends = jax.jit(jax.grad(loss)), []
    for order in ([2, 0, 3, 1], [1, 1, 0, 2]):
        theta = flat
        for k in order:
            theta = theta - 0.1 * slope(theta, batches[k])
        ends.append(theta)
    found = without_replacement.mean_end(
        objective, params, batches, 0.1, jnp.array([[2, 0, 3, 1], [1, 1, 0, 2]])
    )
    np.testing.assert_allclose(found, np.mean(ends, 0), rtol=1e-10, atol=1e-13)
