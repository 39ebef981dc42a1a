"""What was watched in the runs of a sweep is among its results, under the names of the metrics."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

METRICS = jf.solve.metrics
RATES = (0.1, 0.4)


def watched(metrics, record=None):
    """Descent on x²/2 from 1: x is (1 − η)^k after k steps."""

    def trial(h, key):
        return jf.iterate(
            jf.optim.gd(h["rate"]),
            lambda x: 0.5 * x**2,
            jnp.ones(()),
            steps=4,
            every=2,
            metrics=metrics,
            record=record,
        )

    return jf.sweep(trial, {"rate": RATES}, progress=False)


def test_metrics_are_along_the_time_of_their_run():
    table = watched({"loss": METRICS.loss, "both": lambda step: {"x": step.params, "slope": step.gradient}})
    for rate in RATES:
        cell = table.sel(rate=rate, seed=0)
        factor = 1 - rate
        np.testing.assert_allclose(cell["values"], factor ** np.array([0, 2, 4]), rtol=1e-12)
        np.testing.assert_allclose(cell["loss"][1:], 0.5 * factor ** np.array([2.0, 6.0]), rtol=1e-12)
        np.testing.assert_allclose(cell["both.slope"][1:], factor ** np.array([1, 3]), rtol=1e-12)
        np.testing.assert_allclose(cell["both.x"], cell["values"])
        assert np.isnan(cell["loss"][0])
        assert not cell["diverged"]
    assert table["loss"].dims == table["values"].dims


def test_a_metric_under_the_name_of_something_else_is_refused():
    with pytest.raises(ValueError, match="metrics must not use the name 'status'"):
        watched({"status": METRICS.loss})
    with pytest.raises(ValueError, match="metrics must not use the name 'x'"):
        watched({"x": METRICS.loss}, record=lambda x: {"x": x})
