"""Densities that `integrate` moves: closed forms, an independent exponential, the order in the size of a cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
from equations import NOISE, WELL, H, linear, matrix_of

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.density.stepping.implicit import radau
from jaxflow.density.stepping.uniformization import uniformize

D = jf.density
GRID = D.Grid(-2.2, 2.2, 400)
START = D.gaussian(GRID, -1.0, 0.05)
AT_REST = np.array([[0.5, 0.2], [0.2, 0.2]])  # of H and NOISE at temperature .5


@jf.dynamics.traceable
def multiplicative(temperature):
    """dx = −x dt + √(2T(1 + x²)) dW."""
    return jf.dynamics.Field(
        drift=lambda t, x: -x,
        diffusion=lambda t, x, xi: jnp.sqrt(2 * temperature * (1 + x * x)) * xi,
        brownian=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
    )


def test_the_double_well_against_a_converged_reference():
    """The reference moments are those of another scheme, converged (MATH section 10)."""
    equation = D.fokker_planck(jf.dynamics.langevin(WELL, 0.15), GRID)
    path = jf.integrate(equation, START, [0.0, 1.0])
    p, x = np.asarray(path.params), np.asarray(GRID.centers(0))
    assert abs(GRID.mass(p) - 1) < 1e-12
    assert p.min() >= 0
    h = float(GRID.volume)
    np.testing.assert_allclose((p * x).sum() * h, -0.9639186, atol=1e-6)
    np.testing.assert_allclose((p * x * x).sum() * h, 0.9556016, atol=1e-6)
    np.testing.assert_allclose(p[x > 0].sum() * h, 0.00126667, atol=5e-7)
    assert path.observed.at_walls[-1] < 1e-12


@pytest.mark.parametrize("start", ["normal", "spike"])
def test_both_ways_of_stepping_against_scipys_exponential(start):
    chain = D.chain(D.fokker_planck(jf.dynamics.langevin(WELL, 0.15), D.Grid(-2.2, 2.2, 150)))
    grid = chain.grid
    p = (
        D.gaussian(grid, -1.0, 0.05)
        if start == "normal"
        else jnp.asarray(np.eye(150)[40] / float(grid.volume))
    )
    exact = scipy.sparse.linalg.expm_multiply(scipy.sparse.csr_matrix(matrix_of(chain)), np.asarray(p))
    by_terms = uniformize(chain, p, 1.0)
    assert np.min(by_terms) >= 0
    assert D.l1_distance(by_terms, exact, grid) < 1e-12
    for tolerance, error in ((1e-4, 1e-6), (1e-6, 1e-8)):
        by_steps = radau(chain, p, 1.0, tolerance)
        assert np.min(by_steps) >= 0
        assert abs(grid.mass(by_steps) - 1) < 1e-12
        assert D.l1_distance(by_steps, exact, grid) < error
    np.testing.assert_array_equal(radau(chain, p, 0.0), p)
    np.testing.assert_array_equal(uniformize(chain, p, 0.0), p)


def orders(errors):
    return np.diff(-np.log2(np.abs(errors)))


def test_noise_that_depends_on_the_place():
    """p ∝ (1 + x²)^{−(1 + 1/2T)}; m' = −m, (x²)' = −(2 − 2T)x² + 2T."""
    T, means, squares = 0.1, [], []
    for cells in (100, 200):
        grid = D.Grid(-8.0, 8.0, cells)
        equation = D.fokker_planck(multiplicative(T), grid)
        chain = D.chain(equation)
        law = (1 + np.asarray(grid.centers(0)) ** 2) ** -(1 + 1 / (2 * T))
        assert D.l1_distance(D.stationary(chain), law / grid.mass(law), grid) < 1e-12
        p = jf.integrate(equation, D.gaussian(grid, 1.0, 0.1), [0.0, 0.7]).params
        means.append(grid.mean(p)[0] - np.exp(-0.7))
        decay = np.exp(-(2 - 2 * T) * 0.7)
        squares.append(
            grid.mean(p, grid.points[..., 0] ** 2) - (1.1 * decay + T / (1 - T) * (1 - decay)),
        )
    assert abs(grid.covariance(D.stationary(chain))[0, 0] - T / (1 - T)) < 1e-8
    np.testing.assert_allclose(orders(means), 2, atol=0.1)
    np.testing.assert_allclose(orders(squares), 2, atol=0.1)


@jf.dynamics.traceable
def turning(law, turn):
    """Noise A whose axes turn from place to place, and the drift that has the law N(0, S) and the current p·ΩS⁻¹x."""
    inverse = jnp.linalg.inv(law)

    def noise(x):
        c, s = jnp.cos(0.7 * x[0] + 0.4 * x[1]), jnp.sin(0.7 * x[0] + 0.4 * x[1])
        axes = jnp.array([[c, -s], [s, c]])
        return axes @ jnp.diag(jnp.array([0.5, 0.1])) @ axes.T

    def drift(t, x):
        return -noise(x) @ inverse @ x + jnp.einsum("ijj->i", jax.jacfwd(noise)(x)) + turn @ inverse @ x

    return jf.dynamics.Field(
        drift=drift,
        diffusion=lambda t, x, xi: jnp.linalg.cholesky(2 * noise(x)) @ xi,
        brownian=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        observe=noise,
    )


def test_anisotropic_noise_that_turns_from_place_to_place():
    """Entropy production ∫ p vᵀA⁻¹v with v = ΩS⁻¹x, 2.42908; a sum over edges tends to another number."""
    law, turn = np.array([[0.5, 0.15], [0.15, 0.4]]), np.array([[0.0, 0.3], [-0.3, 0.0]])
    equation, apart, production, turns = turning(law, turn), [], [], []
    noise = equation.build().observe
    for cells in (32, 64):
        grid = D.Grid((-4.0, -4.0), (4.0, 4.0), (cells, cells))
        chain = D.chain(D.fokker_planck(equation, grid))
        assert len(chain.offsets) > 2
        p, exact = D.stationary(chain), D.gaussian(grid, 0.0, law)
        apart.append(D.l1_distance(p, exact, grid))
        production.append(float(D.entropy_production(p, chain)))
        turns.append(float(D.circulation(p, chain)) + 0.6)  # 2Ω₁₂
    v = np.asarray(grid.points) @ np.linalg.inv(law) @ turn.T
    inverses = np.linalg.inv(jax.jit(jax.vmap(jax.vmap(noise)))(grid.points))
    expected = np.sum(np.asarray(exact) * np.einsum("xyi,xyij,xyj->xy", v, inverses, v)) * float(grid.volume)
    np.testing.assert_allclose(orders(apart), 2, atol=0.2)
    np.testing.assert_allclose(orders(turns), 2, atol=0.2)
    np.testing.assert_allclose(orders(np.array(production) - expected), 2, atol=0.2)
    np.testing.assert_allclose(production[-1], expected, rtol=0.03)


def test_anisotropic_noise_in_two_coordinates():
    errors, production, turns = [], [], []
    for cells in (32, 64):
        grid = D.Grid((-5.0, -3.2), (5.0, 3.2), (cells, cells))
        chain = D.chain(D.fokker_planck(linear(H, 0.5 * NOISE), grid))
        p = D.stationary(chain)
        errors.append(np.abs(np.asarray(grid.covariance(p)) - AT_REST).max())
        production.append(float(D.entropy_production(p, chain)))
        turns.append(float(D.circulation(p, chain)))
    np.testing.assert_allclose(orders(errors), 2, atol=0.2)
    assert errors[-1] < 1.5e-3  # 3.4e-4 at 128 cells
    np.testing.assert_allclose(production[-1], 8 / 7, rtol=3e-3)  # 3e-4 at 128 cells
    np.testing.assert_allclose(turns[-1], -2 * 0.2, rtol=0.02)  # −2W₁₂
    exact = D.gaussian(grid, 0.0, AT_REST)
    turn = np.array([[0, 0.2], [-0.2, 0]]) @ np.linalg.inv(AT_REST)
    flow = np.einsum("ij,xyj->xyi", turn, grid.points) * np.asarray(exact)[..., None]
    assert np.abs(np.asarray(D.current(p, chain)) - flow).max() < 0.03 * np.abs(flow).max()
    # An equation that moves, in the mean and on the way to rest.
    start = D.gaussian(grid, jnp.array([1.0, 0.5]), 0.1)
    path = jf.integrate(D.fokker_planck(linear(H, 0.5 * NOISE), grid), start, [0.0, 0.5])
    decay = scipy.linalg.expm(-0.5 * np.asarray(H))
    np.testing.assert_allclose(grid.mean(path.params), decay @ [1.0, 0.5], atol=8e-3)
    covariance = AT_REST + decay @ (0.1 * np.eye(2) - AT_REST) @ decay
    np.testing.assert_allclose(grid.covariance(path.params), covariance, atol=8e-3)
    assert np.min(path.params) >= 0
    assert abs(grid.mass(path.params) - 1) < 1e-12


def test_corners_that_no_jump_reaches_spoil_nothing():
    """All vectors but those along the axes, whose weights are 0, lead from two of the corners out of the grid."""
    noise = jnp.array([[0.2, 0.3], [0.3, 0.5]])  # = (1, 1)(1, 1)ᵀ/10 + (1, 2)(1, 2)ᵀ/10
    grid = D.Grid((-2.5, -4.0), (2.5, 4.0), (60, 96))
    chain = D.chain(D.fokker_planck(linear(jnp.eye(2), noise), grid))
    assert np.asarray(chain.leaving == 0).sum() == 2
    law = D.stationary(chain)
    np.testing.assert_allclose(grid.covariance(law), noise, atol=2e-3)  # HS + SH = 2A
    assert np.abs(jax.jit(chain.apply)(law)).max() < 1e-12
    np.testing.assert_allclose(D.spectral_gap(chain), 1, rtol=0.02)


def test_sgd_with_its_own_noise():
    """One weight, losses ½aᵢ(w − cᵢ)²: the moments of dw = −L' dt + √(η/B Σ(w)) dW close."""
    a, c = jnp.array([1.0, 2.0, 0.5, 1.5]), jnp.array([-1.0, 0.3, 1.0, 0.5])
    objective = jf.Objective(lambda w, d: 0.5 * d["a"] * (w - d["c"]) ** 2, {"a": a, "c": c})
    rate, batch = 0.2, 2
    slope = np.polynomial.Polynomial([float(-(a * c).mean()), float(a.mean())])
    each = [np.polynomial.Polynomial([-float(x * y), float(x)]) - slope for x, y in zip(a, c, strict=True)]
    spread = rate / batch * sum(g * g for g in each) / 4

    def moving(t, moments):
        raw = [1, *moments]
        of = lambda f: sum(k * raw[i] for i, k in enumerate(f.coef))
        x = np.polynomial.Polynomial([0, 1])
        return [-of(slope), of(spread - 2 * x * slope)]

    exact = scipy.integrate.solve_ivp(moving, (0, 0.6), [1.0, 1.05], rtol=1e-10, atol=1e-12).y[:, -1]
    errors = []
    for cells in (150, 300):
        grid = D.Grid(-3.0, 3.0, cells)
        equation = D.fokker_planck(jf.dynamics.sgd(objective, rate, batch), grid)
        p = jf.integrate(equation, D.gaussian(grid, 1.0, 0.05), [0.0, 0.6]).params
        errors.append([grid.mean(p)[0] - exact[0], grid.mean(p, grid.points[..., 0] ** 2) - exact[1]])
    assert np.abs(errors[-1]).max() < 1.5e-3
    np.testing.assert_allclose(np.log2(np.divide(*errors)), 2, atol=0.1)


def test_phase_space_is_of_first_order():
    """Underdamped Langevin in a quadratic: the law of place and velocity is Gibbs', up to the wind's error."""
    errors = []
    for cells in (16, 32):
        grid = D.Grid((-4.0, -4.0), (4.0, 4.0), (cells, cells))
        dynamics = jf.dynamics.underdamped_langevin(lambda x: 0.5 * jnp.sum(x**2), 0.5)
        p = D.stationary(D.fokker_planck(dynamics, grid))
        errors.append(np.abs(np.asarray(grid.covariance(p)) - 0.5 * np.eye(2)).max())
        assert np.min(p) >= 0
    assert 0.7 < orders(errors)[0] < 1.3
    # A step in time against SciPy's exponential of the same chain.
    grid = D.Grid((-3.0, -3.0), (3.0, 3.0), (12, 12))
    equation = D.fokker_planck(dynamics, grid, walls="reflecting")
    start = D.gaussian(grid, jnp.array([1.0, 0.0]), 0.2)
    moved = jf.integrate(equation, start, [0.0, 0.3]).params
    exact = scipy.linalg.expm(0.3 * matrix_of(D.chain(equation))) @ np.asarray(start).ravel()
    np.testing.assert_allclose(np.ravel(moved), exact, atol=1e-12)


def test_a_temperature_that_falls_with_time():
    """dx = −x dt + √(2T(t)) dW with T = ½ − ¼t: v' = −2v + 2T."""
    grid = D.Grid(-5.0, 5.0, 200)
    langevin = jf.dynamics.langevin(lambda x: 0.5 * x**2, lambda t: 0.5 - 0.25 * t)
    equation = D.fokker_planck(langevin, grid)
    start = D.gaussian(grid, 0.0, 0.3)
    exact = scipy.integrate.solve_ivp(lambda t, v: -2 * v + 1 - 0.5 * t, (0, 1), [0.3], rtol=1e-10).y[0, -1]
    error = [
        np.asarray(grid.covariance(jf.integrate(equation, start, [0.0, 1.0], substeps=n).params))[0, 0]
        - exact
        for n in (2, 4)
    ]
    assert abs(error[1]) < 3e-3
    assert 3 < error[0] / error[1] < 5  # the temperature in the middle of a step is of second order
    assert jf.integrate(equation, start, [0.0, 1.0]).state.chain is None


def test_temperatures_in_one_program():
    grid = D.Grid(-2.2, 2.2, 58)  # a size that no other test has compiled for
    start = D.gaussian(grid, -1.0, 0.05)
    move = jax.jit(
        lambda T: jf.integrate(D.fokker_planck(jf.dynamics.langevin(WELL, T), grid), start, [0.0, 0.3]).params
    )
    temperatures = np.linspace(0.1, 0.4, 4)
    together = np.asarray(jax.vmap(move)(temperatures))
    for T, p in zip(temperatures, together, strict=True):
        np.testing.assert_allclose(p, move(T), rtol=1e-9, atol=1e-12)
    before = programs()
    for T in (0.2, 0.3):
        equation = D.fokker_planck(jf.dynamics.langevin(WELL, T), grid, walls="reflecting")
        jf.integrate(equation, start, [0.0, 0.3])
    made = {name: count - before.get(name, 0) for name, count in programs().items()}
    assert {name: count for name, count in made.items() if count} == {
        "solve.one_step_map.follow": 1,
        "density.density_dynamics.chain_of": 1,
        "density.jumps.rates.has_noise": 1,
    }


def from_start(density):
    return jf.integrate(D.fokker_planck(jf.dynamics.langevin(WELL, 0.15), GRID), density, [0.0, 1.0])


def test_a_grid_that_the_density_leaves_is_told_of_unless_its_walls_are_meant():
    spread, narrow = jf.dynamics.langevin(lambda x: 0.0 * x, 0.5), D.gaussian(GRID, 0.0, 0.01)
    with pytest.warns(
        UserWarning, match=r"walls of its grid: 0\.00.* in the outermost cells at time 2\. A larger"
    ):
        jf.integrate(D.fokker_planck(spread, GRID), narrow, [0.0, 1.0, 2.0])
    for walls in ("reflecting", "absorbing"):  # a warning is an error here
        jf.integrate(D.fokker_planck(spread, GRID, walls=walls), narrow, [0.0, 1.0, 2.0])
    # Mass below 1, as walls that absorb and members outside the grid leave it, is a start.
    jf.integrate(D.fokker_planck(spread, GRID, walls="absorbing"), 0.5 * narrow, [0.0, 0.1])


def test_an_equation_of_concrete_numbers_is_checked_and_solved_where_something_else_is_traced():
    plane = D.Grid([-2.0, -2.0], [2.0, 2.0], [10, 10])
    turned = jf.dynamics.langevin(lambda x: 0.5 * jnp.sum(x**2) + 0.3 * x[0] * x[1], 0.4)
    for dynamics, grid in ((jf.dynamics.langevin(WELL, 0.15), D.Grid(-2.2, 2.2, 40)), (turned, plane)):
        start = D.gaussian(grid, 0.0, 0.05)
        solve = lambda dynamics=dynamics, grid=grid, start=start: (
            jf.integrate(D.fokker_planck(dynamics, grid, walls="reflecting"), start, [0.0, 0.2]).params
        )
        np.testing.assert_allclose(jax.jit(lambda scale, solve=solve: scale * solve())(2.0), 2.0 * solve())
    with pytest.raises(ValueError, match="temperature 0"):
        jax.jit(lambda _: D.fokker_planck(jf.dynamics.langevin(WELL, 0.0), GRID))(1.0)


def test_histograms():
    grid = D.Grid((0.0, 0.0), (2.0, 3.0), (2, 3))
    points = jnp.array([[0.5, 0.5], [1.5, 2.5], [1.9, 2.9], [jnp.nan, 1.0], [5.0, 1.0]])
    counts = D.histogram(points, grid)
    np.testing.assert_allclose(counts, [[0.2, 0, 0], [0, 0, 0.4]])
    shared = D.histogram(jnp.array([[1.0, 1.5]]), grid, spread=True)
    np.testing.assert_allclose(shared, [[0, 0.5, 0], [0, 0.5, 0]])
    sample = jax.random.normal(jax.random.key(0), (20_000,))
    fine = D.Grid(-6.0, 6.0, 24)
    for spread in (False, True):
        p = D.histogram(sample, fine, spread=spread)
        np.testing.assert_allclose(fine.mass(p), 1, rtol=1e-12)
        np.testing.assert_allclose(fine.mean(p), [sample.mean()], atol=2e-12 if spread else 0.01)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: D.Grid(0.0, 1.0, (2, 2, 2)),
            ValueError,
            "one or two coordinates, got .2, 2, 2.: beyond two",
        ),
        (lambda: D.Grid(1.0, 0.0, 4), ValueError, "high must be finite and above low"),
        (lambda: D.Grid(0.0, 1.0, 4.5), TypeError, "shape must be an integer"),
        (lambda: D.fokker_planck(WELL, GRID), TypeError, "dynamics must be a Dynamics"),
        (
            lambda: D.fokker_planck(jf.dynamics.gradient_flow(WELL), GRID),
            ValueError,
            "integrate a gradient flow",
        ),
        (lambda: D.fokker_planck(jf.dynamics.langevin(WELL, 0.0), GRID), ValueError, "temperature 0"),
        (
            lambda: D.fokker_planck(jf.dynamics.langevin(lambda x: jnp.sqrt(x), 0.1), D.Grid(-1.0, 1.0, 5)),
            ValueError,
            "finite drift and noise on the grid, but they are not finite at",
        ),
        (
            lambda: D.fokker_planck(jf.dynamics.langevin(WELL, 0.1), GRID, walls="soft"),
            ValueError,
            "walls must be",
        ),
        (
            lambda: D.fokker_planck(jf.dynamics.langevin(WELL, 0.1), GRID, method="cn"),
            ValueError,
            "method must be",
        ),
        (
            lambda: D.fokker_planck(jf.dynamics.langevin(lambda x: x @ x, 0.1), GRID, params=jnp.zeros(3)),
            ValueError,
            "as many numbers as the grid has coordinates, 1",
        ),
        (
            lambda: jf.integrate(
                D.fokker_planck(jf.dynamics.langevin(WELL, 0.1), GRID), jnp.ones(3), [0.0, 1.0]
            ),
            ValueError,
            "density must have the shape of the grid",
        ),
        (lambda: D.chain(jf.dynamics.langevin(WELL, 0.1)), TypeError, "what fokker_planck returned"),
        (
            lambda: D.stationary(D.fokker_planck(jf.dynamics.langevin(WELL, 0.1), GRID, walls="absorbing")),
            ValueError,
            "reflecting walls to have a law at rest",
        ),
        (
            lambda: D.stationary(D.fokker_planck(jf.dynamics.langevin(WELL, 1e-6), GRID)),
            ValueError,
            "noise that its cells resolve",
        ),
        (
            lambda: D.mean_first_passage_time(D.fokker_planck(jf.dynamics.langevin(WELL, 0.1), GRID)),
            ValueError,
            "a wall that absorbs",
        ),
        (lambda: D.gaussian(GRID, 0.0, -1.0), ValueError, "positive definite"),
        (lambda: D.gaussian(GRID, 2.5, 1.0), ValueError, r"mean must be inside the grid, .*, got \[2.5\]"),
        (lambda: from_start(jnp.ones(400)), ValueError, "a mass above 0 and at most 1 on its grid, got 4.4;"),
        (lambda: from_start(jnp.zeros(400)), ValueError, "a mass above 0 and at most 1 on its grid, got 0;"),
        (
            lambda: from_start(START.at[3].set(-0.25)),
            ValueError,
            r"at least 0 in every cell, got -0.25 around \[-2.1615\], the first of 1 such",
        ),
        (lambda: from_start(START.at[3].set(jnp.nan)), ValueError, "finite in every cell, got nan around"),
        (lambda: D.histogram(jnp.ones((3, 2)), GRID), ValueError, r"values must have shape \(n, 1\)"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
