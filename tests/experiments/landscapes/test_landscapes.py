"""Experiments on the shape of losses in their quick form, once each: headline numbers against theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from experiment_files import check_files
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from experiments.batches import flat_minima
from experiments.landscapes import loss_landscape

pytestmark = pytest.mark.promotes

NAMES = ("flat_minima", "loss_landscape")


@pytest.fixture(scope="module", autouse=True)
def seen():
    """The losses that `loss_landscape` looks at, and what it sees, kept as it runs."""
    kept, look = [], loss_landscape.look

    def looking(loss, *rest):
        kept.append((loss, look(loss, *rest)))
        return kept[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_landscape, "look", looking)
        yield kept


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


def cross_entropy(logits, labels):
    """The mean, written out."""
    chances = jnp.exp(logits) / jnp.exp(logits).sum(1, keepdims=True)
    return -jnp.log(chances[jnp.arange(len(labels)), labels]).mean()


@pytest.fixture(scope="module")
def views(run, seen):
    """The plain and the residual network, of 12 layers."""
    run("loss_landscape")
    return dict(zip(("plain", "residual"), seen, strict=True))


# Of what a layer is given, and of what it makes of it.
SHARES = {"plain": (0.0, 1.0), "residual": (1.0, 12**-0.5)}


@jax.jit
def whole_hessian(params, x, y, skip, branch):
    """That of a network of our own."""
    flat, unravel = ravel_pytree(params)

    def loss(flat):
        params = unravel(flat)
        layer = lambda h, w: (skip * h + branch * jnp.tanh(h @ w), None)
        h = jax.lax.scan(layer, jnp.tanh(x @ params["first"]), params["layers"])[0]
        return cross_entropy(h @ params["last"], y)

    return jax.hessian(loss)(flat)


@pytest.mark.parametrize("name", SHARES)
def test_ratio_is_of_the_whole_hessian(run, views, name):
    """At the middle, and off it."""
    loss, view = views[name]
    curved = view.nonconvexity
    kept = np.array(run("loss_landscape")[0]["ratios"][name])[0, 0]
    assert kept.shape == (5, 5)
    for i, j in ((2, 2), (1, 4)):
        there = curved[curved.coordinates[0][i], curved.coordinates[1][j]]
        values = np.linalg.eigvalsh(whole_hessian(there, loss.x, loss.y, *SHARES[name]))
        exact = -values[0] / values[-1]
        # Lanczos iteration hardly sees a lowest eigenvalue that is almost 0, as it is at the minimum.
        assert kept[i, j] == pytest.approx(exact, abs=5e-3 * max(1, exact))


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_networks_reach_one_loss_and_directions_have_the_norms_of_filters(views, name):
    loss, view = views[name]
    assert 0.045 < float(loss(view.losses.center)) <= 0.05
    assert view.steps < 4000
    for leaf, drawn in zip(
        jax.tree.leaves(view.losses.center), jax.tree.leaves(view.losses.directions.vectors), strict=True
    ):
        for vector in np.asarray(drawn):
            assert np.linalg.norm(vector, axis=-2) == pytest.approx(np.linalg.norm(leaf, axis=-2), rel=1e-12)


def test_the_residual_network_is_nearer_to_convex_and_trains_faster(run, measured):
    numbers = measured("loss_landscape")
    share, median = "share of −λ_min/λ_max > ½, median", "steps to a loss of 0.05"
    plain, residual = (numbers[f"{name}, 12 layers: {share}"] for name in ("plain", "residual"))
    assert residual[0] < plain[0] - 0.2
    assert residual[1] < 0.5 * plain[1]
    for name, pair in (("plain", plain), ("residual", residual)):
        kept = np.array(run("loss_landscape")[0]["ratios"][name])
        assert pair == pytest.approx([np.mean(kept > 0.5), np.median(kept)])
    plain, residual = (numbers[f"{name}, 12 layers: {median}"][0] for name in ("plain", "residual"))
    assert residual < 0.5 * plain


def relu(params, x):
    """The outputs, by NumPy."""
    for layer in params[:-1]:
        x = np.maximum(x @ np.asarray(layer["w"]) + np.asarray(layer["b"]), 0)
    return x @ np.asarray(params[-1]["w"]) + np.asarray(params[-1]["b"])


def test_filter_normalised_lines_do_not_see_factors_of_layers(run, measured):
    numbers = measured("loss_landscape")
    assert numbers["layers rescaled, filter: largest change of the loss"] < 1e-12
    for name in ("layers rescaled, raw", "units rescaled, raw", "units rescaled, filter"):
        assert numbers[f"{name}: largest change of the loss"] > 1
    objective, networks = loss_landscape.relu_network()
    x = np.asarray(objective.data["x"])
    trained, *others = (relu(params, x) for params in networks.values())
    assert len(others) == 2
    for outputs in others:
        assert outputs == pytest.approx(trained, rel=1e-9, abs=1e-9)
    # Rescaled units are no rescaled layers: the columns of the second layer are multiplied unevenly.
    before, after = (np.asarray(networks[name][1]["w"]) for name in ("as trained", "units rescaled"))
    assert np.ptp(np.linalg.norm(after, axis=0) / np.linalg.norm(before, axis=0)) > 0.5


def test_networks_of_one_training_loss_are_the_flatter_the_larger_the_ratio(run, measured):
    """Correlations by SciPy. Those found have p < .005; shuffles give it to a factor 2 (20,000 of them)."""
    networks = {name: np.array(values) for name, values in run("flat_minima")[0]["networks"].items()}
    assert networks["train_loss"] == pytest.approx(np.full(len(networks["rate"]), 0.2), rel=0.02)
    assert len(networks["rate"]) >= 14
    numbers, ratio = measured("flat_minima"), networks["rate"] / networks["batch_size"]
    for name, shown in (("sharpness", "sharpness λ_max"), ("trace", "trace of the Hessian")):
        rho, p = numbers[f"{shown} and η/B: rank correlation, p"]
        assert rho == pytest.approx(scipy.stats.spearmanr(networks[name], ratio).statistic, abs=1e-12)
        assert rho < -0.6
        assert p < 0.005
        high, low = numbers[f"{shown}: mean at η/B = 0.0031, 0.025"]
        assert high > 1.1 * low
    for name, shown in (("test_loss", "test loss"), ("test_error", "test error")):
        found = numbers[f"sharpness λ_max and {shown}: rank correlation, p"]
        theirs = scipy.stats.spearmanr(networks["sharpness"], networks[name])
        assert found[0] == pytest.approx(theirs.statistic, abs=1e-12)
        assert found[1] == pytest.approx(theirs.pvalue, rel=0.5, abs=0.02)


def test_shuffles_within_groups_see_no_difference_between_groups():
    """Groups apart in both numbers, independent inside: of 20 seeds p < .01 on four and more by chance 5 in 10⁵."""
    groups, low = np.repeat([0, 1, 2], 12), 0
    for seed in range(20):
        a, b = 5 * groups + np.random.default_rng(seed).normal(size=(2, 36))
        assert flat_minima.rank_correlation(a, b)[1] < 1e-3
        low += flat_minima.rank_correlation(a, b, groups)[1] < 0.01
        assert flat_minima.rank_correlation(a, a**3, groups)[0] == pytest.approx(1)
    assert low <= 3


def test_width_of_a_parabola():
    """½h|θ + x d|² has risen by .1 where x θ·d + ½x²|d|² = .1/h, both ways, and |d| = |θ|."""
    with jax.numpy_dtype_promotion("standard"):
        theta = np.random.default_rng(0).normal(0, 0.1, 40)
        params, key, h = {"w": jnp.asarray(theta)[:, None]}, jax.random.key(4), 2.0
        found = float(flat_minima.width(lambda p: 0.5 * h * jnp.sum(p["w"] ** 2), params, key))
        drawn = jf.landscape.random_directions(params, key, count=8)
    square, ends = theta @ theta, []
    for d in np.asarray(drawn.vectors["w"])[..., 0]:
        roots = np.roots([0.5 * square, theta @ d, -0.1 / h])
        ends += list(abs(roots))
    assert found == pytest.approx(np.mean(ends), rel=5e-3)  # straight lines between points .05 apart


def test_rescaling_moves_sharpness_and_trace_at_will(run, measured):
    """The trace is A/α² + Bα² + C, by blocks; the eigenvalue tends to the same powers. |z| < 4.5: 1 in 10⁴."""
    numbers, content = measured("flat_minima"), run("flat_minima")[0]
    assert numbers["ReLU rescaled: sharpness / that of T⁻¹HT⁻¹, largest error"] < 1e-6
    assert numbers["ReLU rescaled: trace less that of T⁻¹HT⁻¹, in standard errors, largest"] < 4.5
    assert min(numbers["ReLU rescaled: largest / least sharpness, trace"]) > 1e3
    assert max(numbers["ReLU rescaled: relative spread of the width, of the test loss"]) < 1e-12
    factors = np.array(content["factors"])
    rescaled = {name: np.array(values) for name, values in content["rescaled"].items()}
    powers = np.stack([factors**-2, factors**2, np.ones_like(factors)], 1) / rescaled["exact trace"][:, None]
    fitted, *_ = np.linalg.lstsq(powers, np.ones(len(factors)), rcond=None)
    assert powers @ fitted == pytest.approx(np.ones(len(factors)), rel=1e-9)
    assert min(fitted[:2]) > 0
    slopes = np.diff(np.log(rescaled["sharpness"])) / np.diff(np.log(factors))
    assert slopes[[0, -1]] == pytest.approx([-2, 2], abs=0.05)
