"""Training networks: experiments in their quick form, and their parts against loops and made-up grids."""

import jax.numpy as jnp
import numpy as np
import pytest
from experiment_files import check_files

import jaxflow as jf
from experiments.training import weight_decay

pytestmark = pytest.mark.promotes
NAMES = ("weight_decay",)


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_reached(run, name):
    lines = run(name)[0]["headlines"]
    assert any(line["reached"] for line in lines.values())
    assert not [told for told, line in lines.items() if line["reached"] is False]


@pytest.mark.parametrize("name", list(weight_decay.METHODS))
def test_decay_is_where_a_loop_puts_it(name):
    """Five steps on a quadratic with Adam and SGD written out: in the gradient, or beside the step."""
    rate, decay, bends = 0.1, 0.3, np.array([1.0, 20.0])
    run = jf.iterate(
        weight_decay.METHODS[name][0](rate, decay),
        lambda x: 0.5 * jnp.sum(bends * x**2),
        jnp.ones(2),
        steps=5,
    )
    theta, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    for k in range(1, 6):
        g = bends * theta + (0 if name == "AdamW" else decay * theta)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        theta = theta - rate * (g if name == "SGD + L2" else step + (decay * theta if name == "AdamW" else 0))
    np.testing.assert_allclose(run.params, theta, rtol=1e-12)


@pytest.mark.parametrize("power", [0, -1])
def test_the_price_of_one_decay_is_zero_where_the_best_has_that_form(power):
    """A bowl whose best decay is 6.3 − power · i on the grid, plus what differs between seeds."""
    i, j, seed = np.meshgrid(np.arange(4), np.arange(12), np.arange(3), indexing="ij")
    losses = 0.1 * (j - 6.3 - power * i) ** 2 + i + 0.01 * seed
    told, error = weight_decay.jackknife(weight_decay.slope, losses)
    assert told == pytest.approx(power, abs=1e-9)
    assert error < 1e-9
    assert weight_decay.price(losses, steps=power == -1) == pytest.approx(0, abs=1e-9)
    assert weight_decay.price(losses, steps=power == 0) > 0.1
