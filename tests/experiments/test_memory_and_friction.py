"""What memory amounts to, and the best friction: quick forms once each, and their parts against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from experiment_files import check_files

from experiments.limits import memory_measurements

pytestmark = pytest.mark.promotes
NAMES = ("memory",)


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_reached(run, name):
    lines = run(name)[0]["headlines"]
    assert any(line["reached"] for line in lines.values())
    assert not [told for told, line in lines.items() if line["reached"] is False]


MATRIX = np.array([[1.0, 0.4], [0.4, 2.0]])


def adam_by_hand(rate, b1, b2, eps, warm, steps):
    """Adam on ½θᵀMθ in NumPy: the iterate at which the comparison begins, and the last."""
    theta, m, v, places = np.array([2.0, -1.5]), np.zeros(2), np.zeros(2), []
    for k in range(1, warm + steps + 1):
        g = MATRIX @ theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - rate * (m / (1 - b1**k)) / np.sqrt(v / (1 - b2**k) + eps**2)
        places.append(theta)
    return places[warm - 1], places[-1]


def test_adam_settles_to_its_penalty_and_reward():
    """A loop in NumPy against the closed form solved by SciPy: of second order in η; and the flow is SciPy's."""
    b1, b2, eps, time, gaps = 0.8, 0.9, memory_measurements.EPS, 0.4, []
    weights = np.array([memory_measurements.remembers(b) for b in (b1, b2)])

    def drift(t, theta, penalty, reward):
        g = MATRIX @ theta
        size = np.sqrt(g**2 + eps**2)
        return -g / size - (penalty - reward * (g / size) ** 2) * (MATRIX @ (g / size)) / size

    for rate in (1.25e-4, 6.25e-5):
        begin, end = adam_by_hand(rate, b1, b2, eps, 200, round(time / rate))
        chosen = tuple(rate / 2 * weights)
        known = scipy.integrate.solve_ivp(drift, (0, time), begin, args=chosen, rtol=1e-11, atol=1e-13)
        gaps.append(np.linalg.norm(known.y[:, -1] - end))
    assert gaps[0] / gaps[1] == pytest.approx(4, abs=0.2)
    loss = jax.tree_util.Partial(lambda theta: 0.5 * theta @ MATRIX @ theta)
    field = memory_measurements.recalled(loss, eps, *chosen)
    found = memory_measurements.flow(field, jnp.asarray(begin), time)
    np.testing.assert_allclose(found, known.y[:, -1], rtol=1e-9)
