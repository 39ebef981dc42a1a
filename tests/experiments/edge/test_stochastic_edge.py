"""The experiment on the edge of mini-batch training: its quick form, once, and its averages against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
from experiment_files import check_files

import jaxflow as jf
from experiments.edge import edge_of_stochastic_stability as experiment
from experiments.edge import plateaus
from jaxflow.curvature import SelfStabilization

pytestmark = pytest.mark.promotes
NAME = "edge_of_stochastic_stability"


def test_figure_and_numbers_are_written_whole(run):
    check_files(NAME, *run(NAME))


def test_a_small_network_is_near_the_edge_of_its_batches(measured):
    """Two runs of 900 steps. Six pairs of keys gave .89 to .98, and gaps 1.4–2.5 and .9–1.7 times those predicted."""
    numbers = measured(NAME)
    batch, error = numbers["η = 0.75, B = 16: batch sharpness · η/2, standard error"]
    assert batch == pytest.approx(0.94, abs=0.12)
    assert 0 < error < 0.1
    assert numbers["η = 0.75: full-batch sharpness · η/2, by B"][0] < 0.9 * batch
    assert numbers["η = 0.75: runs that diverge, by B"] == [0]
    for name in ("gap / ηβσ²/(4αB)", "gap / balance of noise"):
        assert 0.5 < numbers[f"η = 0.75: {name}"][0] < 3, name


def test_what_rises_falls_again_in_a_valley():
    """½yx² + ½c(y − Z)² at the edge y = 20: α = c(Z − y) and the fall is ½x², of x alone."""
    valley = jf.Objective(
        lambda p, shift: 0.5 * p[1] * p[0] ** 2 + 0.005 * (p[1] - 22) ** 2 + shift, jnp.zeros(2)
    )
    start = jnp.array([[0.2, 20.0], [0.1, 20.0]])
    found = plateaus.rises_and_falls(valley, start, 0.1, None, 20, 60)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found[:, 0], 0.02, rtol=0.1)
    np.testing.assert_allclose(found[:, 1] / found[:, 0], 1, rtol=0.1)
    np.testing.assert_allclose(found[:, 2], found[:, 1], rtol=0.02)


def test_averages_of_what_is_known():
    """A gap 32/B by all three ways, at rate .5, one run of three having diverged."""
    rng, rate, sizes = np.random.default_rng(0), 0.5, (16, 64, 256)
    wave = rng.choice([-1.0, 1.0], size=(1, 3, 30))
    one = np.ones((1, 3, 30))
    one[0, 2, 20:] = np.nan

    def runs(size):
        # Noise σ² = 256, ⟨x²⟩ = 2α/β = 2: ησ²/(2B⟨x²⟩) = ηβσ²/(4αB) = 32/B.
        edge = SelfStabilization((4 - 32 / size) * one, 0 * one, one, one, 256 * one, np.sqrt(2) * wave)
        return experiment.Runs(edge, 3.6 * one, one, None)

    means = [plateaus.plateau(runs(size), 0) for size in sizes]
    assert [each.diverged for each in means] == [1, 1, 1]
    found = plateaus.gaps(rate, sizes, means, 4.0)
    for values in (found.measured, found.formula, found.balance):
        np.testing.assert_allclose(values, 32 / np.array(sizes), rtol=1e-12)
        assert plateaus.slope(sizes, values, 16) == pytest.approx(1)
    headlines = experiment.batch_headlines(rate, sizes, means)
    assert headlines["η = 0.5, B = 64: batch sharpness · η/2, standard error"][0] == pytest.approx([0.9, 0])
    headlines = experiment.gap_headlines(rate, sizes, means, found)
    assert headlines["η = 0.5: ⟨x²⟩ / (2α/β)"][0] == pytest.approx([1, 1, 1])
