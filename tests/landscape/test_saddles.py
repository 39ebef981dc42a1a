"""Critical points and their indices against closed forms, SciPy's roots and the theory of deep linear networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.landscape import CriticalPoint, IndexAgainstLoss, find_critical_point, index_against_loss

pytestmark = pytest.mark.promotes

MB, HIMMELBLAU = jf.problems.muller_brown(), jf.problems.himmelblau()
SADDLES = {
    -40.664843508657: (-0.822001558733, 0.624312802815),
    -72.248940112325: (0.212486582001, 0.292988325107),
}


@pytest.mark.parametrize(
    ("start", "height"),
    [
        ((-0.8, 0.6), -40.664843508657),
        ((-0.6, 0.8), -40.664843508657),
        ((0.2, 0.3), -72.248940112325),
        ((0.6, 0.6), -72.248940112325),
    ],
)
def test_both_saddles_of_muller_brown(start, height):
    """To all digits, from starts as far as .5 off."""
    found = find_critical_point(MB.objective, jnp.array(start))
    np.testing.assert_allclose(found.params, SADDLES[height], atol=2e-12)
    assert abs(found.loss - height) < 1e-12
    assert found.converged
    assert found.gradient_norm < 1e-10
    assert found.products == 2 * found.steps + 1
    assert "converged in" in repr(found)
    assert jf.landscape.saddle_index(MB.objective, found.params).value == 1


def test_all_nine_critical_points_of_himmelblau():
    """Those bundled, and the maximum by SciPy's root of the gradient; SciPy's Newton steps end at the same ones."""
    slope = lambda x: np.array(
        [
            4 * x[0] * (x[0] ** 2 + x[1] - 11) + 2 * (x[0] + x[1] ** 2 - 7),
            2 * (x[0] ** 2 + x[1] - 11) + 4 * x[1] * (x[0] + x[1] ** 2 - 7),
        ]
    )
    top = scipy.optimize.root(slope, [-0.3, -0.9], tol=1e-14).x
    known = np.concatenate([HIMMELBLAU.minima, HIMMELBLAU.saddles, top[None]])
    starts = np.random.default_rng(0).uniform(-4, 4, (80, 2))
    found = index_against_loss(HIMMELBLAU.objective, jnp.array(starts))
    assert isinstance(found, IndexAgainstLoss)
    assert found.message == repr(found)[len("IndexAgainstLoss(") : -1]
    distances = np.linalg.norm(np.asarray(found.points.params)[:, None] - known, axis=-1)
    assert (distances.min(1) < 1e-9)[found.converged].all()
    assert set(distances.argmin(1)[found.converged]) == set(range(9))
    assert found.converged.mean() > 0.85
    index = np.repeat([0, 1, 2], [4, 4, 1])[distances.argmin(1)]
    np.testing.assert_array_equal(found.index[found.converged], index[found.converged])
    np.testing.assert_array_equal(found.share, found.index / 2)
    moved = np.linalg.norm(np.asarray(found.points.params) - starts, axis=1)
    np.testing.assert_allclose(found.distance, moved, atol=1e-12)
    # Where it does not converge, a search says why: the squared gradient has minima that are not 0.
    assert (found.points.flatness[~found.converged] < 1e-4).all()
    assert (found.points.gradient_norm[~found.converged] > 1).all()
    many = jax.vmap(lambda x: find_critical_point(HIMMELBLAU.objective, x))(jnp.array(starts[:6]))
    np.testing.assert_allclose(many.loss, found.points.loss[:6], rtol=1e-9, atol=1e-20)
    assert "of 6 searches converged" in many.message


TURN = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
CURVATURES = np.concatenate([-np.geomspace(0.1, 10, 4), np.geomspace(0.1, 30, 8)])


def bent(x):
    """A saddle of index 4 at 0 in twelve dimensions, of height 2, with third derivatives."""
    y = jnp.asarray(TURN) @ x
    return 2 + 0.5 * y @ (jnp.asarray(CURVATURES) * y) + jnp.sum(y[1:] ** 2 * y[:-1]) + 0.1 * jnp.sum(y) ** 3


def test_convergence_is_quadratic():
    """log e' / log e of successive distances to the saddle tends to 2."""
    start = jnp.array(TURN.T @ (0.02 * np.cos(np.arange(12.0))))
    searches = [find_critical_point(bent, start, max_steps=k, tolerance=0.0) for k in range(1, 9)]
    off = np.array([float(jnp.linalg.norm(found.params)) for found in searches])
    assert off.min() < 1e-15
    near = off[(off < 0.05) & (off > 1e-14)]
    orders = np.log(near[2:] / near[1:-1]) / np.log(near[1:-1] / near[:-2])
    assert orders.max() > 1.8, (off, orders)
    end = searches[-1]
    np.testing.assert_allclose(end.loss, 2, rtol=1e-15)
    found = index_against_loss(bent, start[None])
    assert found.index[0] == 4
    assert found.share[0] == 4 / 12


def test_fewer_products_than_parameters():
    """Convergence is linear only, and the counts are what is said."""
    start = jnp.array(TURN.T @ (0.02 * np.cos(np.arange(12.0))))
    found = find_critical_point(bent, start, products=10, max_steps=500, tolerance=1e-9)
    assert found.converged
    assert found.products == 10 * found.steps + 1
    assert found.steps > find_critical_point(bent, start, tolerance=1e-9).steps
    np.testing.assert_allclose(found.loss, 2, rtol=1e-12)


def cubic(x, lift):
    """lift > 0: no critical point, but a minimum of the gradient at x = 0 (that of x² + lift is not 0)."""
    return x["a"] ** 3 / 3 + lift * x["a"] + jnp.sum((x["b"] - 0.3) ** 2) - x["b"][0] ** 2 * 2


def test_gradient_flat_points_are_told_apart():
    """L = a³/3 + a ℓ: where ℓ > 0 the gradient a² + ℓ has its minimum ℓ at a = 0, where H of it is 0."""
    start = {"a": jnp.array(1.3), "b": jnp.ones(2)}
    flat = find_critical_point(lambda x: cubic(x, 0.25), start)
    assert abs(flat.params["a"]) < 1e-4
    np.testing.assert_allclose(flat.gradient_norm, 0.25, rtol=1e-6)
    assert not flat.converged
    assert flat.flatness < 1e-4
    assert flat.gradient_flat
    assert "gradient-flat" in flat.message
    assert "gradient-flat" in repr(flat)
    real = find_critical_point(lambda x: cubic(x, -0.25), start)
    np.testing.assert_allclose(real.params["a"], 0.5, rtol=1e-10)
    np.testing.assert_allclose(real.params["b"], [-0.3, 0.3], rtol=1e-10)
    assert real.converged
    assert not real.gradient_flat
    plane = find_critical_point(lambda x: jnp.sum(x), jnp.ones(2))  # H = 0
    assert "gradient-flat" in plane.message
    np.testing.assert_allclose(plane.params, 1)


def test_singular_hessians():
    """(xy − 1)²/2 has a curve of minima and a saddle at 0; x⁴ has a minimum without curvature, met linearly."""
    product = lambda x: 0.5 * (x[0] * x[1] - 1) ** 2
    curve = find_critical_point(product, jnp.array([2.0, 0.9]))
    assert curve.converged
    assert abs(curve.params[0] * curve.params[1] - 1) < 1e-9
    assert jnp.linalg.norm(curve.params - jnp.array([2.0, 0.9])) < 0.6  # no long way along the flat direction
    saddle = find_critical_point(product, jnp.array([0.2, 0.1]))
    np.testing.assert_allclose(saddle.params, 0, atol=1e-9)
    np.testing.assert_allclose(saddle.loss, 0.5)
    quartic = find_critical_point(lambda x: jnp.sum(x**4), jnp.array([0.2, -0.1]))
    assert quartic.converged
    assert abs(quartic.params).max() <= (1e-10 / 4) ** (1 / 3) * 1.0001
    rest = find_critical_point(lambda x: 0.0 * x.sum(), jnp.ones(2))
    assert rest.converged
    assert rest.steps == 0
    assert rest.flatness == 1


def test_what_is_not_finite_is_recorded():
    lost = find_critical_point(lambda x: jnp.log(x[0]) + x[1] ** 2, jnp.array([-1.0, 1.0]))
    assert "lost" in repr(lost)
    assert lost.steps == 0
    assert np.isnan(lost.loss)
    np.testing.assert_array_equal(lost.params, [-1.0, 1.0])
    cusp = find_critical_point(lambda x: x + x**1.5, 0.0)  # its second derivative is infinite
    assert "its Hessian is not finite" in cusp.message
    places = jnp.array([[0.2, 0.3], [jnp.nan, 0.3], [-0.8, 0.6]])
    many = jax.vmap(lambda x: find_critical_point(MB.objective, x))(places)
    np.testing.assert_allclose(many.loss, [-72.248940112325, np.nan, -40.664843508657], rtol=1e-12)
    assert many.status.tolist() == [0, 4, 0]
    assert "2 of 3 searches converged, 1 of 3 searches lost" in repr(many)
    # From x = 3 a first step would leave the domain of the logarithm; damping keeps it inside.
    kept = find_critical_point(lambda x: x - 20 * jnp.log(x - 2.9) + 0.01 * x**2, 3.0)
    exact = scipy.optimize.brentq(lambda x: 1 - 20 / (x - 2.9) + 0.02 * x, 3, 40)
    np.testing.assert_allclose(kept.params, exact, rtol=1e-9)
    rough = find_critical_point(bent, 0.1 * jnp.ones(12), max_steps=1)
    assert "ran out of steps" in rough.message


def test_single_precision():
    found = find_critical_point(HIMMELBLAU.objective, jnp.array([0.1, 2.9], jnp.float32))
    assert found.converged
    assert found.params.dtype == found.loss.dtype == jnp.float32
    np.testing.assert_allclose(found.params, HIMMELBLAU.saddles[1], atol=1e-5)
    assert (
        "rounding"
        in find_critical_point(MB.objective, jnp.array([0.2, 0.3], jnp.float32), tolerance=0).message
    )


def deep(weights, sigma):
    """½|W_N … W₁ − Σ|², the loss of a deep linear network on white inputs but for a constant."""
    product = weights[0]
    for weight in weights[1:]:
        product = weight @ product
    return 0.5 * jnp.sum((product - sigma) ** 2)


VALUES = np.array([3.0, 2.0, 1.0])
LEFT = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0][:, :3]
RIGHT = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0][:, :3]
SIGMA = jnp.array(LEFT @ np.diag(VALUES) @ RIGHT.T)  # (5, 4), of rank 3


def saddle_of(kept, hidden, layers):
    """Balanced weights of a critical point whose product has the modes `kept` of Σ: hidden unit j passes the j-th."""
    r, root = len(kept), VALUES[list(kept)] ** (1 / layers)
    inner = np.zeros((hidden, hidden))
    inner[range(r), range(r)] = root
    first, last = np.zeros((hidden, 4)), np.zeros((5, hidden))
    first[:r], last[:, :r] = root[:, None] * RIGHT[:, list(kept)].T, LEFT[:, list(kept)] * root
    return [jnp.array(x) for x in (first, *[inner] * (layers - 2), last)]


SUBSETS = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_saddles_of_deep_linear_networks(layers):
    """The index of the saddle that keeps the modes K, and its lowest eigenvalue.

    Two layers: a unit that passes no mode and a mode j left out have the eigenvalues ±λ_j, and the modes i kept and
    j left out λ_i ± λ_j. More layers: the former do not exist, as the layers between are 0 for such a unit; the
    latter are λ_i^{(N−2)/N} (λ_i ± λ_j). The numbers of negative ones are found by NumPy's eigenvalues as well.
    """
    loss = lambda weights: deep(weights, SIGMA)
    for hidden in (3, 4):
        for kept in SUBSETS:
            weights, left = saddle_of(kept, hidden, layers), [j for j in range(3) if j not in kept]
            negative = [
                VALUES[i] ** ((layers - 2) / layers) * (VALUES[i] - VALUES[j])
                for i in kept
                for j in left
                if VALUES[j] > VALUES[i]
            ]
            if layers == 2:
                negative += [-VALUES[j] for j in left] * (hidden - len(kept))
                assert len(negative) == (hidden - len(kept)) * len(left) + sum(
                    i > j for i in kept for j in left
                )
            assert jf.landscape.saddle_index(loss, weights).value == len(negative)
            found = jf.landscape.escape_directions(loss, weights, max(len(negative), 1))
            assert np.max(found.residuals) < 1e-12
            np.testing.assert_allclose(
                np.asarray(found.values)[: len(negative)], sorted(negative), atol=1e-12
            )
    slope = jax.jit(jax.grad(loss))(weights)
    assert max(np.abs(x).max() for x in slope) < 1e-13


@pytest.mark.parametrize("kept", [(0,), (1, 2), (0, 2)])
def test_a_search_returns_to_the_saddle_of_a_deep_linear_network(kept):
    """It is one of a manifold, of the loss ½Σλ² over the modes left out, where the Hessian is singular."""
    key = iter(jax.random.split(jax.random.key(len(kept)), 2))
    start = [
        np.asarray(x) + 0.02 * np.asarray(jax.random.normal(next(key), x.shape))
        for x in saddle_of(kept, 3, 2)
    ]
    found = find_critical_point(lambda weights: deep(weights, SIGMA), start)
    left = [j for j in range(3) if j not in kept]
    assert found.converged
    np.testing.assert_allclose(found.loss, 0.5 * np.sum(VALUES[left] ** 2), rtol=1e-12)
    assert [x.shape for x in found.params] == [(3, 4), (5, 3)]


def test_models_stay_what_they_are():
    make = lambda seed: eqx.nn.MLP(2, "scalar", 3, 1, jnp.tanh, key=jax.random.key(seed))
    x = jax.random.normal(jax.random.key(5), (10, 2))
    # The penalty gives it critical points at finite distances.
    penalty = lambda model: (
        0.01 * sum(jnp.sum(w**2) for w in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    )
    data = jf.Objective(lambda model, x: (jax.vmap(model)(x) - x[:, 0]) ** 2 + penalty(model), x)
    model = make(0)
    found = find_critical_point(data, model, max_steps=20, trainable=lambda name, leaf: "layers/1" in name)
    assert isinstance(found.params, eqx.nn.MLP)
    assert found.params.activation is model.activation
    np.testing.assert_array_equal(found.params.layers[0].weight, model.layers[0].weight)
    assert found.converged  # a convex function of the last layer
    np.testing.assert_allclose(eqx.filter_jit(data.__call__)(found.params), found.loss, rtol=1e-12)
    assert "converged" in repr(found)
    run = jf.iterate(jf.optim.gd(0.1), data, model, steps=4)
    many = index_against_loss(data, run.values, model=run.params, max_steps=3)
    np.testing.assert_array_equal(many.distance.shape, [5])
    whole = find_critical_point(data, model, max_steps=3)
    np.testing.assert_allclose(np.asarray(many.points.loss)[0], whole.loss, rtol=1e-9)


def test_other_numbers_compile_nothing():
    count = lambda: sum(n for name, n in programs().items() if "saddles" in name)
    places = [jnp.array([0.2, 0.3]), jnp.array([-0.8, 0.6])]
    tolerances, steps = (1e-9, 1e-6), (50, 60)

    def ask(i):
        numbers = {"tolerance": tolerances[i], "max_steps": steps[i]}
        find_critical_point(MB.objective, places[i], **numbers)
        index_against_loss(MB.objective, jnp.stack(places) + 0.01 * i, negative=tolerances[i], **numbers)
        jf.landscape.escape_directions(MB.objective, places[i])

    ask(0)
    before = count()
    assert before >= 3
    ask(1)
    assert count() == before
    inside = jax.jit(lambda x, t: find_critical_point(MB.objective, x, tolerance=t))(places[0], 1e-9)
    assert isinstance(inside, CriticalPoint)
    assert inside.converged
    assert "traced" in repr(jax.eval_shape(lambda: inside))


def test_the_same_index():
    assert jf.landscape.saddle_index is jf.curvature.saddle_index


ONE = jnp.ones(2)
find = find_critical_point


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: find(3.0, ONE), TypeError, "objective must be"),
        (lambda: find(bent, ONE * 1j), TypeError, "params must be a pytree of real"),
        (lambda: find(bent, ONE, tolerance=-1.0), ValueError, "tolerance must be"),
        (lambda: find(bent, ONE, max_steps=0), ValueError, "max_steps must be"),
        (lambda: find(bent, ONE, products=0), ValueError, "products must be an integer at least 1"),
        (lambda: find(bent, ONE, products=3), ValueError, "products must be at most 2"),
        (
            lambda: index_against_loss(bent, jnp.ones(())),
            ValueError,
            "starts must have leaves with one leading",
        ),
        (lambda: index_against_loss(bent, {"a": ONE, "b": jnp.ones(3)}), ValueError, "starts must have"),
        (lambda: index_against_loss(bent, ONE[None], negative=-1.0), ValueError, "negative must be"),
        (lambda: index_against_loss(bent, jnp.ones((1, 2001))), ValueError, "key must be given"),
        (lambda: index_against_loss(bent, ONE[None], key=0), TypeError, "key must be"),
    ],
)
def test_bad_requests_are_refused(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
