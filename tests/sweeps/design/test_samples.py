"""Points of a random search: their marginals, how evenly they lie, and what is refused.

Kolmogorov–Smirnov and χ² tests are held against p = 1e-9, and there are fewer than 100 of them: a false alarm
has probability below 1e-7.
"""

import numpy as np
import pytest
import scipy.stats

from jaxflow.sweeps.design import samples
from jaxflow.sweeps.design.samples import METHODS, sample

P = 1e-9
SPREADS = {
    "uniform": ((-2.0, 5.0), scipy.stats.uniform(-2, 7)),
    "loguniform": (scipy.stats.loguniform(1e-4, 1), scipy.stats.loguniform(1e-4, 1)),
    "norm": (scipy.stats.norm(3, 2), scipy.stats.norm(3, 2)),
    "expon": (scipy.stats.expon(scale=0.1), scipy.stats.expon(scale=0.1)),
}
RANGES = {name: spread for name, (spread, _) in SPREADS.items()}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_independent_points_have_the_distributions_and_are_independent(seed):
    points = sample(RANGES, 5000, method="random", seed=seed)
    ranks = []
    for name, (_, distribution) in SPREADS.items():
        assert points[name].dtype == np.float64
        assert scipy.stats.kstest(points[name], distribution.cdf).pvalue > P
        ranks.append(distribution.cdf(points[name]))
    # Of independent uniform numbers the correlation is about normal with standard deviation 1/√n.
    correlations = np.corrcoef(ranks)[np.triu_indices(4, 1)]
    assert (np.abs(correlations) * np.sqrt(5000) < 6.5).all()
    following = [scipy.stats.spearmanr(rank[1:], rank[:-1]).statistic for rank in ranks]
    assert (np.abs(following) * np.sqrt(5000) < 6.5).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", [0, 4])
def test_every_point_by_itself_is_uniform_for_any_n(method, place):
    """Over seeds: what makes means over the points unbiased, at n = 5 as well, which is no power of two."""
    points = [sample({"a": (0, 1), "b": (0, 1)}, 5, method=method, seed=seed)[place] for seed in range(1000)]
    for name in ("a", "b"):
        assert scipy.stats.kstest([point[name] for point in points], "uniform").pvalue > P


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("method", "n"), [("latin_hypercube", 64), ("latin_hypercube", 37), ("sobol", 64)])
def test_one_point_in_every_stratum_of_every_hyperparameter(method, n, seed):
    points = sample(RANGES, n, method=method, seed=seed)
    for name, (_, distribution) in SPREADS.items():
        strata = np.floor(distribution.cdf(points[name]) * n)
        np.testing.assert_array_equal(np.sort(strata), np.arange(n))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sobol_points_are_balanced_in_dyadic_boxes_of_two_dimensions(seed):
    points = sample({"a": (0, 1), "b": (0, 1)}, 64, seed=seed)
    for k in range(7):
        boxes = np.floor(points["a"] * 2**k) * 2 ** (6 - k) + np.floor(points["b"] * 2 ** (6 - k))
        np.testing.assert_array_equal(np.sort(boxes), np.arange(64))


@pytest.mark.parametrize("n", [1, 3, 37, 100])
def test_sobol_points_of_any_number_are_the_first_of_the_sequence(n):
    """Without SciPy's warning, which here would be an error."""
    np.testing.assert_array_equal(sample(RANGES, n), sample(RANGES, 128)[:n])


def test_integers_are_integers_in_their_range():
    sizes = scipy.stats.randint(1, 129)
    drawn = sample({"batch_size": sizes}, 12_800, method="random", seed=1)["batch_size"]
    assert drawn.dtype == np.int64
    counts = np.bincount(drawn, minlength=129)
    assert len(counts) == 129
    assert counts[0] == 0
    assert scipy.stats.chisquare(counts[1:]).pvalue > P
    for method in ("sobol", "latin_hypercube"):  # 128 strata, 128 integers
        points = sample({"batch_size": sizes, "x": (0, 1)}, 128, method=method)
        np.testing.assert_array_equal(np.sort(points["batch_size"]), np.arange(1, 129))
        assert points.dtype == [("batch_size", "i8"), ("x", "f8")]
        assert isinstance(points[0]["batch_size"].item(), int)


def test_a_discrete_distribution_over_other_numbers_keeps_them():
    betas = scipy.stats.rv_discrete(values=([0.5, 0.9], [0.25, 0.75]))
    drawn = sample({"beta": betas}, 64)["beta"]
    assert drawn.dtype == np.float64
    assert ((drawn == 0.5).sum(), (drawn == 0.9).sum()) == (16, 48)
    thirds = scipy.stats.rv_discrete(values=([1, 2, 4], [0.25, 0.25, 0.5]))
    assert sample({"n": thirds}, 64)["n"].dtype == np.int64


def test_any_object_with_a_ppf_is_a_distribution():
    class Root:
        def ppf(self, u):
            return np.sqrt(u)

    drawn = sample({"x": Root(), "y": scipy.stats.norm}, 256)
    np.testing.assert_array_equal(np.sort(np.floor(drawn["x"] ** 2 * 256)), np.arange(256))
    np.testing.assert_array_equal(np.sort(np.floor(scipy.stats.norm.cdf(drawn["y"]) * 256)), np.arange(256))


def test_the_ends_of_the_unit_interval_are_finite(monkeypatch):
    monkeypatch.setattr(samples, "draw_uniform", lambda method, n, d, seed: np.tile([[0.0], [1.0]], (1, d)))
    ends = sample(RANGES | {"huge": (-1.7e308, 1.7e308), "n": scipy.stats.randint(1, 9)}, 2)
    np.testing.assert_allclose((ends["norm"] - 3) / 2, [-8.21, 8.21], atol=0.1)  # Φ(−8.21) = 2⁻⁵³
    for name in ends.dtype.names:
        assert np.isfinite(ends[name]).all()
    np.testing.assert_allclose(ends["uniform"], [-2, 5], rtol=1e-14)
    np.testing.assert_allclose(ends["loguniform"], [1e-4, 1], rtol=1e-12)
    assert ends["n"].tolist() == [1, 8]


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_gives_the_same_points_whatever_else_is_drawn(method):
    np.random.seed(0)  # noqa: NPY002
    first = sample(RANGES, 20, method=method, seed=7)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.random.random(5)  # noqa: NPY002
    np.testing.assert_array_equal(first, sample(RANGES, 20, method=method, seed=np.int64(7)))
    assert (first != sample(RANGES, 20, method=method, seed=8)).all()
    np.random.seed(0)  # noqa: NPY002
    sample(RANGES, 20, method=method)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("ranges", "error", "message"),
    [
        ({}, ValueError, "at least one hyperparameter"),
        ([("a", (0, 1))], TypeError, "ranges must be a dict"),
        ({3: (0, 1)}, TypeError, "named by strings that are not empty, got the name 3"),
        ({"": (0, 1)}, TypeError, "named by strings that are not empty"),
        ({"a": (1, 1)}, ValueError, r"ranges\['a'\] must be a pair .* low < high, got \(1, 1\)"),
        ({"a": (2, 1)}, ValueError, "low < high"),
        ({"a": (0, np.inf)}, ValueError, "finite"),
        ({"a": (np.nan, 1)}, ValueError, "finite"),
        ({"a": (0, 1, 2)}, TypeError, "or have a ppf"),
        ({"a": 0.1}, TypeError, "or have a ppf"),
        ({"a": "01"}, TypeError, "or have a ppf"),
        ({"a": ("0", "1")}, TypeError, "or have a ppf"),
        ({"a": (False, True)}, TypeError, "or have a ppf"),
        ({"a": (0, 1j)}, TypeError, "or have a ppf"),
        ({"a": scipy.stats.loguniform(1, 1e-4)}, ValueError, r"ranges\['a'\] .* finite numbers"),
        ({"a": scipy.stats.norm([0, 1, 2], 1)}, ValueError, r"ranges\['a'\] .* one number, .* shape \(3,\)"),
        ({"a": scipy.stats.loguniform}, TypeError, r"ranges\['a'\] .* with all parameters given"),
    ],
)
def test_bad_ranges_are_refused(ranges, error, message):
    with pytest.raises(error, match=message):
        sample(ranges, 3)


def test_bad_settings_are_refused():
    ranges = {"a": (0, 1)}
    for n, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="n must be an integer at least 1"):
            sample(ranges, n)
    with pytest.raises(ValueError, match="Did you mean 'sobol'"):
        sample(ranges, 4, method="sobel")
    with pytest.raises(ValueError, match="Did you mean 'latin_hypercube'"):
        sample(ranges, 4, method="latin")
    for seed, error in ((-1, ValueError), (None, TypeError)):
        with pytest.raises(error, match="seed must be an integer at least 0"):
            sample(ranges, 4, seed=seed)  # type: ignore[arg-type]
