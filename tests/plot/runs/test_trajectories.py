"""Runs with several recorded numbers have a panel each, and where one ended early it has a mark."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

import jaxflow as jf

pytestmark = pytest.mark.promotes


def loss(x):
    return jnp.sum(0.5 * x**2 + 0.25 * x**4)


def record(x):
    return {"loss": loss(x), "first_weight": x[0], "deep": {"norm": jnp.linalg.norm(x)}}


@pytest.fixture(scope="module")
def runs():
    start = jnp.array([1.0, 0.5])
    descent = jf.iterate(jf.optim.gd(0.1), loss, start, steps=20, record=record)
    event = jf.gradient_norm_below(0.5)
    flow = jf.integrate(jf.dynamics.gradient_flow(loss), start, descent.times, record=record, event=event)
    wild = jf.iterate(jf.optim.gd(0.1), loss, 8 * start, steps=20, record=record)
    return {"descent": descent, "flow": flow, "wild": wild}


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def test_every_entry_has_a_panel(runs):
    given = Figure().subplots(3)
    panels = jf.plot.trajectories(runs, given)
    assert panels == list(given)
    assert [ax.get_ylabel() for ax in panels] == ["deep/norm", "first weight", "loss"]
    for ax, pick in zip(
        panels, (lambda v: v["deep"]["norm"], lambda v: v["first_weight"], lambda v: v["loss"]), strict=True
    ):
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), pick(runs["descent"].values))
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), runs["descent"].times)
    assert [ax.get_legend() is None for ax in panels] == [False, True, True]


def test_new_panels_are_under_each_other_on_one_clock(runs):
    panels = jf.plot.trajectories({"descent": runs["descent"]})
    assert [bool(ax.get_xlabel()) for ax in panels] == [False, False, True]
    assert panels[2].get_xlabel() == "time t (steps × learning rate)"
    panels[0].figure.canvas.draw()
    plt.close(panels[0].figure)


def test_one_entry_is_drawn_on_the_axes(runs):
    ax = Figure().add_subplot()
    assert jf.plot.trajectories(runs, ax, entry="loss") is ax
    assert ax.get_ylabel() == "loss"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), runs["descent"].values["loss"])
    named = jf.plot.trajectories(runs, Figure().add_subplot(), entry="deep/norm", label="|x|")
    assert named.get_ylabel() == "|x|"
    one = jf.plot.trajectories(runs, Figure().add_subplot(), entry="deep")
    np.testing.assert_array_equal(one.lines[0].get_ydata(), runs["descent"].values["deep"]["norm"])


def test_where_a_run_ended_early_there_is_a_mark_and_a_word(runs):
    ax = jf.plot.trajectories(runs, Figure().add_subplot(), entry="loss")
    descent, flow, wild = ax.lines
    assert labels(ax) == [
        "descent",
        f"flow: stopped by the condition at t = {float(runs['flow'].stopped):.6g}",
        f"wild: diverged at t = {float(runs['wild'].stopped):.6g}",
    ]
    assert (descent.get_marker(), flow.get_marker(), wild.get_marker()) == ("None", "s", "X")
    # The closed form of the event: a gradient of norm 0.5 along the flow.
    (last,) = flow.get_markevery()
    assert np.isnan(flow.get_ydata()[last + 1])
    assert flow.get_xdata()[last] <= float(runs["flow"].stopped) < flow.get_xdata()[last + 1]
    (last,) = wild.get_markevery()
    assert wild.get_xdata()[last] < float(runs["wild"].stopped)


def test_members_of_an_ensemble_are_marked_along_the_top():
    starts = jnp.array([0.5, 1.0, 20.0, 30.0])
    run = lambda x: jf.iterate(jf.optim.gd(0.1), loss, x[None], steps=20, record=loss)
    many = jax.vmap(run)(starts)
    many = dataclasses.replace(many, times=many.times[0])
    ax = jf.plot.trajectories({"starts": many}, Figure().add_subplot())
    assert labels(ax) == ["starts: 2 of 4 diverged"]
    _, marks = ax.lines
    np.testing.assert_array_equal(marks.get_xdata(), many.stopped[2:])
    assert (marks.get_marker(), set(marks.get_ydata())) == ("X", {1.0})


def test_a_clock_that_only_counts_steps_says_so():
    run = jf.iterate(optax.scale(-0.1), loss, jnp.ones(1), steps=2, record=loss)
    assert jf.plot.trajectories({"run": run}, Figure().add_subplot()).get_xlabel() == "time t (steps)"


def test_what_cannot_be_drawn_is_refused(runs):
    ax = Figure().add_subplot()
    with pytest.raises(
        ValueError, match=r"ax must be 3 Axes, .* panels deep/norm, first_weight, loss, got 1"
    ):
        jf.plot.trajectories(runs, ax)
    with pytest.raises(
        ValueError, match=r"label must be left out for several panels, deep/norm, .*got 'loss'"
    ):
        jf.plot.trajectories(runs, label="loss")
    with pytest.raises(
        ValueError, match=r"that 'descent' recorded, 'deep/norm', 'first_weight', 'loss', got 'w'"
    ):
        jf.plot.trajectories(runs, ax, entry="w")
    plain = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(2), steps=2, record=loss)
    with pytest.raises(
        ValueError, match=r"the same entries, but 'descent' has .*loss, and 'plain' has one unnamed"
    ):
        jf.plot.trajectories(runs | {"plain": plain}, ax)
    vectors = jf.iterate(
        jf.optim.gd(0.1), loss, jnp.ones(2), steps=2, record=lambda x: {"x": x, "l": loss(x)}
    )
    with pytest.raises(ValueError, match=r"'run' has x \(3, 2\); .* or choose one by entry="):
        jf.plot.trajectories({"run": vectors}, ax)
    with pytest.raises(TypeError, match=r"runs must be trajectories, but 'run' is of type ndarray"):
        jf.plot.trajectories({"run": np.ones(3)}, ax)
