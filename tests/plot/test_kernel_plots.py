"""Pictures of kernels show the numbers that they were given, in the order of classes and of contributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgba

import jaxflow as jf
from jaxflow.kernels import KernelMachine
from jaxflow.plot.kernels import LOWERED, RAISED

ADDED = jax.random.normal(jax.random.key(0), (9, 2, 3))
MACHINE = KernelMachine(ADDED, jnp.zeros((2, 3)), ADDED.sum(0), None)
NAMES = np.array(list("abcabcabc"))
FACTOR = np.random.default_rng(0).normal(size=(9, 4))
SIGNED = FACTOR @ FACTOR.T


def bars(ax):
    return np.array([bar.get_width() for bar in ax.patches])


def test_bars_are_the_extreme_contributions_and_named(ax):
    assert jf.plot.contributions(MACHINE, 1, ax, output=2, count=2, labels=NAMES) is ax
    mine = np.asarray(ADDED)[:, 1, 2]
    order = np.argsort(-mine)
    shown = np.concatenate([order[:2], order[-2:]])
    np.testing.assert_allclose(bars(ax), mine[shown])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"no. {i}: {NAMES[i]}" for i in shown]
    assert [bar.get_facecolor() for bar in ax.patches] == [to_rgba(c) for c in (RAISED,) * 2 + (LOWERED,) * 2]
    assert ax.get_xlabel() == "added to output 2"
    assert ax.get_title() == f"all 9 examples added {mine.sum():+.3g} (the 4 shown: {mine[shown].sum():+.3g})"
    assert ax.yaxis_inverted()


def test_all_examples_are_drawn_once_where_there_are_few(ax):
    jf.plot.contributions(MACHINE, 0, ax)
    a, b = np.argsort(-np.asarray(MACHINE.end)[0])[:2]
    expected = np.sort(np.asarray(ADDED)[:, 0, a] - np.asarray(ADDED)[:, 0, b])[::-1]
    np.testing.assert_allclose(bars(ax), expected)
    assert ax.get_xlabel() == f"added to the margin of output {a} over output {b}"


@pytest.mark.parametrize("colours", [(), (3,)])
def test_pictures_are_those_of_the_examples(ax, colours):
    images = np.random.default_rng(0).random((9, 4, 5, *colours))
    single = KernelMachine(ADDED[..., 0], jnp.zeros(2), jnp.zeros(2), None)
    jf.plot.contributions(single, 1, ax, count=1, images=images)
    mine = np.asarray(ADDED)[:, 1, 0]
    for inset, i in zip(ax.child_axes, (mine.argmax(), mine.argmin()), strict=True):
        np.testing.assert_array_equal(inset.images[0].get_array(), images[i])
    assert ax.get_xlabel() == "added to the prediction"


@pytest.mark.parametrize("signed", [True, False])
def test_a_heat_map_is_in_the_order_of_classes(ax, signed):
    values = SIGNED if signed else np.abs(SIGNED)
    block = values[:, :, None, None] * np.diag([0.25, 0.75])
    assert jf.plot.kernel(block, ax, labels=NAMES, label="mine") is ax
    order = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), values[np.ix_(order, order)])
    assert image.get_clim() == pytest.approx((-abs(values).max() if signed else 0, abs(values).max()))
    assert [line.get_xdata()[0] for line in ax.lines[1::2]] == [2.5, 5.5]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_yticks().tolist() == [1, 4, 7]
    assert ax.figure.axes[1].get_ylabel() == "mine"


def test_eigenvalues_above_rounding_are_those_of_singular_values(ax):
    beside = ax.figure.add_subplot(2, 1, 2)
    jf.plot.kernel(SIGNED, ax, eigenvalues=beside)
    jf.plot.kernel(2 * SIGNED, ax, eigenvalues=beside, label="twice")
    first, second = beside.get_lines()
    expected = np.linalg.svd(FACTOR, compute_uv=False) ** 2
    np.testing.assert_allclose(first.get_ydata(), expected, rtol=1e-10)
    np.testing.assert_allclose(second.get_ydata(), 2 * expected, rtol=1e-10)
    assert first.get_marker() != second.get_marker()
    assert ax.get_xlabel() == "example"


def test_a_kernel_of_zeros_is_drawn(ax):
    jf.plot.kernel(np.zeros((2, 2)), ax, eigenvalues=ax.figure.add_subplot(2, 1, 2))


def test_what_cannot_be_drawn_is_refused(ax):
    draw = lambda *given, **more: jf.plot.contributions(*given, ax, **more)
    for call, error, said in (
        (lambda: draw(ADDED, 0), TypeError, "machine must be a KernelMachine"),
        (lambda: draw(MACHINE, 2), ValueError, "point must be an integer from 0 to 1, got 2"),
        (lambda: draw(MACHINE, 0, count=0), ValueError, "count must be an integer at least 1"),
        (lambda: draw(MACHINE, 0, output=3), ValueError, "output must be an integer from 0 to 2, got 3"),
        (lambda: draw(MACHINE, 0, labels=[1]), ValueError, r"labels must have shape \(9,\)"),
        (
            lambda: draw(MACHINE, 0, images=np.zeros((9, 4))),
            ValueError,
            r"images must have shape \(9, h, w\)",
        ),
        (lambda: jf.plot.kernel(np.ones((2, 3)), ax), ValueError, r"shape \(N, N\) .* got \(2, 3\)"),
        (lambda: jf.plot.kernel(np.eye(2) * np.nan, ax), ValueError, "finite"),
        (lambda: jf.plot.kernel(np.triu(np.ones((2, 2))), ax), ValueError, "symmetric, .* differ by 1"),
        (lambda: jf.plot.kernel(np.eye(2), ax, labels=[1]), ValueError, r"labels must have shape \(2,\)"),
    ):
        with pytest.raises(error, match=said):
            call()
    assert not ax.has_data()
