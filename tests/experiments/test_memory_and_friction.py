"""What memory amounts to, and the best friction: quick forms once each, and their parts against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.sparse as sparse
import scipy.sparse.linalg
from experiment_files import check_claims, check_files

from experiments.limits import memory_measurements
from experiments.noise import friction

pytestmark = pytest.mark.promotes
NAMES = ("friction", "memory")


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_reached(run, name):
    check_claims(run(name)[0])


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


def kramers_gap(gamma, temperature, positions=40, velocities=40):
    """The gap in polynomials of x that are orthonormal under Gibbs' law, times Hermite's in u: no grid, no steps."""
    x, weight = np.polynomial.legendre.leggauss(400)
    x = 2.4 * x
    weight = weight * np.exp(-((x**2 - 1) ** 2) / 4 / temperature)
    basis, _ = np.linalg.qr(
        np.sqrt(weight)[:, None] * np.polynomial.chebyshev.chebvander(x / 2.4, positions - 1)
    )
    raw = np.polynomial.chebyshev.chebvander(x / 2.4, positions - 1)
    coefficients = np.linalg.lstsq(np.sqrt(weight)[:, None] * raw, basis)[0]
    slopes = np.polynomial.chebyshev.chebder(coefficients) / 2.4
    derived = np.sqrt(weight)[:, None] * (raw[:, :-1] @ slopes)
    gradient = basis.T @ derived
    up = np.diag(np.sqrt(temperature * np.arange(1, velocities)), -1)
    friction_part = np.kron(np.diag(-gamma * np.arange(velocities)), np.eye(positions))
    matrix = sparse.csc_matrix(friction_part + np.kron(up, gradient) - np.kron(up.T, gradient.T))
    values = sparse.linalg.eigs(matrix, k=4, sigma=1e-3, return_eigenvectors=False)
    return np.sort(-values.real)[1]


def test_the_gap_between_wells_is_that_of_a_basis_of_polynomials(run):
    found = run("friction")[0]["data"]["escape"]["gaps"][0]
    assert found == pytest.approx(kramers_gap(1.0, friction.TEMPERATURE), rel=0.01)


def test_the_numbers_of_the_double_well():
    """The action of the orbit that touches the barrier, and the time to its top, by quadrature."""
    speed = lambda x: np.sqrt(np.maximum(0.5 - (x**2 - 1) ** 2 / 2, 0))
    action = 2 * scipy.integrate.quad(speed, 0, np.sqrt(2))[0]
    assert pytest.approx(action, rel=1e-6) == friction.ACTION
    inner = lambda y: scipy.integrate.quad(lambda z: np.exp(-((z**2 - 1) ** 2) / 0.4), -3, y)[0]
    time = scipy.integrate.quad(lambda y: np.exp((y**2 - 1) ** 2 / 0.4) * inner(y) / 0.1, -1, 0)[0]
    assert friction.passage() == pytest.approx(time, rel=1e-3)
