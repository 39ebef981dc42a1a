"""Leaving a saddle: known directions, and times against runs, SciPy's integrals and a Fokker–Planck chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import jaxflow as jf
from jaxflow.landscape import escape_directions, escape_time, mean_exit_time

pytestmark = pytest.mark.promotes


def test_escape_directions():
    """Repeated eigenvalues by the dense form; the iteration finds the lowest ones of a large spectrum."""
    scales = jnp.concatenate([jnp.array([-5.0, -5.0, -3.0]), jnp.linspace(0.1, 40, 60)])
    loss = lambda x: 0.5 * jnp.sum(scales[:20] * x["a"] ** 2) + 0.5 * jnp.sum(scales[20:] * x["b"] ** 2)
    at = {"a": jnp.zeros(20), "b": jnp.zeros(43)}
    dense = escape_directions(loss, at, 4)
    np.testing.assert_allclose(dense.values, [-5, -5, -3, 0.1], atol=1e-12)
    np.testing.assert_allclose(np.sum(np.asarray(dense.vectors["a"])[:2, :2] ** 2), 2, rtol=1e-12)
    assert dense.vectors["b"].shape == (4, 43)
    other = lambda x: loss(x) - 0.5 * x["a"][1] ** 2
    iterated = escape_directions(other, at, 3, dense=False, products=60)
    np.testing.assert_allclose(iterated.values, [-6, -5, -3], rtol=1e-8)
    np.testing.assert_allclose(abs(np.asarray(iterated.vectors["a"])[0, 1]), 1, rtol=1e-8)
    assert np.max(iterated.residuals) < 1e-5
    assert iterated.products <= 60


def test_flow_and_descent_escape_in_the_time_that_is_said():
    """In the unstable direction of a saddle, on the clock of steps × learning rate."""
    saddle = lambda x: 0.5 * (x[0] ** 2 - 1.7 * x[1] ** 2)
    start, c = jnp.array([0.4, 1e-3]), 1e-3
    t = escape_time(-1.7, 0.5, displacement=c)
    flow = jf.integrate(jf.dynamics.gradient_flow(saddle), start, [0.0, float(t)], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(np.asarray(flow.params)[1], 0.5, rtol=1e-7)
    for rate in (0.01, 0.3):
        run = jf.iterate(jf.optim.gd(rate), saddle, start, steps=20)
        t = escape_time(-1.7, np.asarray(run.values)[1:, 1], displacement=-c, learning_rate=rate)
        np.testing.assert_allclose(t, rate * np.arange(1, 21), rtol=1e-11)
    assert escape_time(-1.7, 0.5) == jnp.inf  # nothing moves it
    assert escape_time(-1.7, 0.5, displacement=0.6) == 0


@pytest.mark.parametrize("seed", range(3))
def test_sgd_escapes_in_the_time_that_is_said(seed):
    """The mean square of 20,000 runs against its law: its logarithm has the standard error √(2/n).

    5 standard errors at three times and two starts, three seeds: a false alarm in 10⁵.
    """
    n, slope, rate, variance = 20_000, -1.3, 0.25, 4e-4
    falling = lambda x: 0.5 * slope * jnp.sum(x**2)
    for k, c in enumerate((0.0, 0.02)):
        noise = jf.optim.gradient_noise(variance, 0.0, key=jax.random.key(10 * seed + k))
        sgd = jf.optim.chain(noise, jf.optim.gd(rate))
        run = jf.iterate(sgd, falling, jnp.full(n, c), steps=16, every=4, time_step=rate)
        size = np.sqrt(np.mean(np.asarray(run.values)[2:] ** 2, 1))
        times, said = np.asarray(run.times)[2:], jax.jit(escape_time)
        warm = {"displacement": c, "temperature": rate * variance / 2}
        t = np.asarray(said(slope, size, learning_rate=rate, **warm))
        growth = np.log1p(-rate * slope) / rate
        assert (abs(t - times) < 5 * np.sqrt(2 / n) / (2 * growth)).all()
        # The SDE is another law at this rate, by far more.
        assert (abs(np.asarray(said(slope, size, **warm)) - times) > 0.1).all()


def test_the_time_of_a_langevin_equation():
    """Its variance by SciPy: v' = 2|λ|v + 2T; the discrete law tends to it at first order in the rate."""
    slope, heat, c, r = -0.8, 0.003, 0.05, 0.6
    reached = lambda t, v: v[0] - r**2
    reached.terminal = True
    by_scipy = scipy.integrate.solve_ivp(
        lambda t, v: 2 * 0.8 * v + 2 * heat, (0, 20), [c**2], events=reached, rtol=1e-11, atol=1e-13
    ).t_events[0][0]
    time = lambda rate: escape_time(slope, r, displacement=c, temperature=heat, learning_rate=rate)
    np.testing.assert_allclose(time(0.0), by_scipy, rtol=1e-9)
    off = np.array([float(time(rate)) - float(time(0.0)) for rate in (0.02, 0.01)])
    assert abs(np.log2(off[0] / off[1]) - 1) < 0.02


def test_mean_exit_times():
    """Against Gardiner's double integral by SciPy, a Fokker–Planck chain, and the limit of small noise."""
    slope, heat, r = -1.5, 0.05, 0.7
    weight = lambda x, sign: np.exp(sign * 0.5 * -slope * x**2 / heat)
    for c in (0.0, 0.3, -0.6):
        inner = lambda y: weight(y, -1) * scipy.integrate.quad(lambda z: weight(z, 1), 0, y)[0]
        exact = scipy.integrate.quad(inner, abs(c), r, epsabs=1e-12)[0] / heat
        found = mean_exit_time(slope, r, temperature=heat, displacement=c)
        np.testing.assert_allclose(found, exact, rtol=1e-10)
    grid = jf.density.Grid(-r, r, 801)
    hill = jf.dynamics.langevin(lambda x: 0.5 * slope * x**2, heat)
    chain = jf.density.fokker_planck(hill, grid, walls=("absorbing", "absorbing"))
    middle = np.asarray(jf.density.mean_first_passage_time(chain))[400]
    np.testing.assert_allclose(mean_exit_time(slope, r, temperature=heat), middle, rtol=1e-4)
    small = np.array([1e-8, 1e-12, 1e-16])
    euler = 0.5772156649015329
    limit = (np.log(r / np.sqrt(small / -slope)) + 0.5 * (euler + np.log(2))) / -slope
    np.testing.assert_allclose(jax.jit(mean_exit_time)(slope, r, temperature=small), limit, rtol=1e-6)
    assert mean_exit_time(slope, r, temperature=heat, displacement=1.0) == 0
    # Without noise to speak of it is the flow's.
    cold = mean_exit_time(slope, r, temperature=1e-14, displacement=0.1)
    np.testing.assert_allclose(cold, escape_time(slope, r, displacement=0.1), rtol=1e-9)


def test_times_are_traced_and_broadcast():
    traced = jax.jit(escape_time)(-1.0, 1.0, displacement=0.1)
    np.testing.assert_allclose(traced, np.log(10))
    slope = jax.jit(jax.grad(lambda t: mean_exit_time(-1.0, 1.0, temperature=t)))(1e-6)
    np.testing.assert_allclose(slope, -0.5 / 1e-6, rtol=1e-4)  # of −½ log T
    times = jax.jit(mean_exit_time)(-np.ones((2, 1)), np.ones(3), temperature=1)
    assert times.shape == (2, 3)
    np.testing.assert_allclose(
        times, 2 * scipy.integrate.quad(scipy.special.dawsn, 0, 0.5**0.5)[0], rtol=1e-12
    )
    assert mean_exit_time(-1.0, jnp.float32(1.0), temperature=0.1).dtype == jnp.float32


ONE = jnp.ones(2)


def bowl(x):
    return jnp.sum(x**2)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: escape_directions(bowl, ONE, 3), ValueError, "k must be at most 2"),
        (lambda: escape_directions(bowl, ONE, 2, products=1), ValueError, "products must be"),
        (lambda: escape_time(1.0, 1.0), ValueError, "eigenvalue must be below 0"),
        (lambda: escape_time("down", 1.0), TypeError, "eigenvalue must be a number below 0"),
        (lambda: escape_time(-1.0, 0.0), ValueError, "radius must be"),
        (lambda: escape_time(-1.0, 1.0, temperature=-1.0), ValueError, "temperature must be"),
        (lambda: escape_time(-1.0, 1.0, learning_rate=-1.0), ValueError, "learning_rate must be"),
        (lambda: mean_exit_time(0.0, 1.0, temperature=1.0), ValueError, "eigenvalue must be below 0"),
        (lambda: mean_exit_time(-1.0, 1.0, temperature=0.0), ValueError, "temperature must be"),
    ],
)
def test_bad_numbers_are_refused(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
