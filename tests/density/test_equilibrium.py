"""The law at rest of an equation and the way to it: Gibbs' law, times of passage, rates, free energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from equations import NOISE, WELL, H, linear, matrix_of

import jaxflow as jf

D = jf.density


def largest_change(chain, density):
    return np.abs(jax.jit(lambda chain, p: chain.apply(p))(chain, density)).max()


@pytest.mark.parametrize("cells", [7, 31, 400])
def test_gibbs_is_exact_for_isotropic_noise(cells):
    grid = D.Grid(-2.0, 2.5, cells)
    chain = D.chain(D.fokker_planck(jf.dynamics.langevin(WELL, 0.15), grid))
    gibbs = np.exp(-WELL(np.asarray(grid.centers(0))) / 0.15)
    assert largest_change(chain, gibbs) <= 1e-13 * np.max(chain.leaving * gibbs)
    np.testing.assert_allclose(D.stationary(chain), gibbs / grid.mass(gibbs), rtol=1e-11)


def test_gibbs_is_exact_in_two_coordinates():
    loss = lambda x: (x[0] ** 2 - 1) ** 2 + 0.5 * (x[1] - x[0] ** 2) ** 2
    grid = D.Grid((-2.0, -2.0), (2.0, 3.0), (20, 25))
    chain = D.chain(D.fokker_planck(jf.dynamics.langevin(loss, 0.2), grid))
    assert chain.offsets == ((0, 1), (1, 0))
    gibbs = np.exp(-loss(np.moveaxis(np.asarray(grid.points), -1, 0)) / 0.2)
    assert largest_change(chain, gibbs) <= 1e-13 * np.max(chain.leaving * gibbs)
    np.testing.assert_allclose(D.stationary(chain), gibbs / grid.mass(gibbs), rtol=1e-10)  # down to e^{−110}
    assert D.entropy_production(D.stationary(chain), chain) < 1e-12


@pytest.mark.parametrize("T", [0.3, 0.15])
def test_first_passage_by_quadrature(T):
    """τ(x) = 1/T ∫ₓ⁰ e^{L(y)/T} ∫^y e^{−L(z)/T} dz dy from a reflecting wall at −2.2 to one that absorbs at 0."""
    grid = D.Grid(-2.2, 0.0, 400)
    equation = D.fokker_planck(jf.dynamics.langevin(WELL, T), grid, walls=("reflecting", "absorbing"))
    x = np.linspace(-2.2, 0, 200_001)
    inner = scipy.integrate.cumulative_trapezoid(np.exp(-WELL(x) / T), x, initial=0)
    outer = scipy.integrate.cumulative_trapezoid(np.exp(WELL(x) / T) * inner / T, x, initial=0)
    exact = outer[-1] - np.interp(grid.centers(0), x, outer)
    found = D.mean_first_passage_time(equation)
    np.testing.assert_allclose(np.asarray(found)[200], exact[200], rtol=1e-4)
    # The same time from the mass that is left: ∫ mass dt.
    times = np.linspace(0, 12 * exact[200], 400)
    start = np.eye(400)[200] / float(grid.volume)
    mass = jf.integrate(equation, start, times, record=grid.mass).values
    assert (np.diff(mass) < 0).all()
    np.testing.assert_allclose(scipy.integrate.trapezoid(mass, times), exact[200], rtol=0.01)


def test_relaxation_tends_to_kramers():
    ratios = []
    for T in (0.2, 0.1, 0.05, 0.01):
        equation = D.fokker_planck(jf.dynamics.langevin(WELL, T), D.Grid(-2.2, 2.2, 800))
        kramers = np.sqrt(4 * 8) / np.pi * np.exp(-1 / T)
        ratios.append(float(D.spectral_gap(equation)) / kramers)
    assert (np.diff(ratios) > 0).all()
    assert abs(ratios[-1] - 1) < 0.004
    chain = D.chain(D.fokker_planck(jf.dynamics.langevin(WELL, 0.3), D.Grid(-2.2, 2.2, 60)))
    exact = np.sort(-np.linalg.eigvals(matrix_of(chain)).real)[1]
    np.testing.assert_allclose(D.spectral_gap(chain), exact, rtol=1e-9)
    grid = D.Grid((-5.0, -3.2), (5.0, 3.2), (40, 40))
    np.testing.assert_allclose(D.spectral_gap(D.fokker_planck(linear(H, 0.5 * NOISE), grid)), 1, rtol=0.03)


def parabola(x):
    return x**2


@pytest.mark.parametrize("friction", [0.1, 0.5, 2.0, 4.0])
def test_the_slowest_mode_may_swing(friction):
    """At little friction its pair of eigenvalues is farther from 0 than those of faster modes that do not swing."""
    grid = D.Grid((-1.5, -2.0), (1.5, 2.0), (24, 24))
    dynamics = jf.dynamics.underdamped_langevin(parabola, 0.1, friction=friction)
    chain = D.chain(D.fokker_planck(dynamics, grid))
    values = np.linalg.eigvals(matrix_of(chain))
    slowest = values[np.argsort(-values.real)[1]]
    assert (abs(slowest.imag) > 0.9) == (friction < 2**1.5)
    np.testing.assert_allclose(D.spectral_gap(chain), -slowest.real, rtol=1e-6)


def at_rest(matrix):
    """The law at rest, every entry to its last digits: elimination without a subtraction (Grassmann et al. 1985)."""
    rates = matrix.T.copy()
    for n in range(len(rates) - 1, 0, -1):
        rates[:n, n] /= rates[n, :n].sum()
        rates[:n, :n] += np.outer(rates[:n, n], rates[n, :n])
    law = np.ones(len(rates))
    for n in range(1, len(rates)):
        law[n] = law[:n] @ rates[:n, n]
    return law / law.sum()


def test_free_energy_never_rises():
    """Random equations with any drift and noise: KL to the law at rest falls at every step. (200 were tried once.)"""
    keys = jax.random.split(jax.random.key(0), 60)
    grid = D.Grid((-1.5, -1.5), (1.5, 1.5), (10, 10))

    @jf.dynamics.traceable
    def random_equation(linear_part, cubic, root):
        drift = lambda t, x: linear_part @ x + cubic @ jnp.sin(2 * x) - x**3
        diffusion = lambda t, x, xi: (1 + 0.3 * jnp.sin(x[0])) * root @ xi
        return jf.dynamics.Field(
            drift, diffusion=diffusion, brownian=lambda x: jax.ShapeDtypeStruct((2,), x.dtype)
        )

    def chain_and_path(key):
        a, b, c, d = jax.random.split(key, 4)
        spread = jax.random.normal(c, (2, 2))
        root = jnp.linalg.cholesky(0.6 * jnp.eye(2) + spread @ spread.T)
        dynamics = random_equation(jax.random.normal(a, (2, 2)), jax.random.normal(b, (2, 2)), root)
        equation = D.fokker_planck(dynamics, grid)
        start = jax.random.exponential(d, grid.shape)
        path = jf.integrate(equation, start / grid.mass(start), jnp.linspace(0, 1, 12))
        return path.state.chain, path.values

    chains, paths = jax.jit(jax.vmap(chain_and_path))(keys)
    fine = np.isfinite(np.asarray(paths)).all((1, 2, 3))
    assert fine.sum() > 45  # the others have noise that needs longer jumps than are known under a vmap
    largest = -np.inf
    for i in np.flatnonzero(fine):
        rest = at_rest(matrix_of(jax.tree.map(lambda leaf, i=i: leaf[i], chains))).reshape(grid.shape)
        rest = rest / grid.mass(rest)
        divergence = [float(D.kl(p, rest, grid)) for p in np.asarray(paths[i])[[0, 1, 2, 5, 11]]]
        largest = max(largest, np.diff(divergence).max())
    assert largest <= 1e-12


def test_functionals_of_gaussians():
    grid = D.Grid((-7.0, -7.0), (7.0, 7.0), (80, 80))
    S = np.array([[0.8, 0.3], [0.3, 0.5]])
    p, q = D.gaussian(grid, jnp.array([0.3, -0.2]), S), D.gaussian(grid, 0.0, 1.0)
    np.testing.assert_allclose(
        D.entropy(p, grid), 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * S)), rtol=1e-9
    )
    exact = 0.5 * (np.trace(S) - 2 - np.log(np.linalg.det(S)) + 0.3**2 + 0.2**2)
    np.testing.assert_allclose(D.kl(p, q, grid), exact, rtol=1e-9)
    well = np.asarray(D.potential(q, 0.7, grid))
    square = (np.asarray(grid.points) ** 2).sum(-1)
    np.testing.assert_allclose(well - well[40, 40], 0.35 * (square - square[40, 40]), atol=1e-9)
    rise = D.free_energy(p, well, 0.7, grid) - D.free_energy(q, well, 0.7, grid)
    np.testing.assert_allclose(rise, 0.7 * exact, rtol=1e-9)
    p, q = (np.where(np.arange(len(x))[:, None] < n, 0, x) for x, n in ((p, 50), (q, 5)))
    assert D.kl(q, p, grid) == np.inf
