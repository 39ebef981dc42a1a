"""Commands one after another in one process: what one computes in is no concern of the next."""

import jax
import jax.numpy as jnp
import pytest

import jaxflow as jf
from jaxflow.__main__ import main
from jaxflow.commands import temperature
from jaxflow.solve.ode.stiffness import is_stiff

pytestmark = pytest.mark.promotes


@pytest.fixture
def float32():
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)
    jax.clear_caches()


def test_commands_of_either_precision_follow_one_another(float32, monkeypatch):
    """A modified flow whose stiffness was measured in float32 once could not be lowered in float64."""
    loss, seen = lambda x: 0.5 * jnp.sum(x**2), []

    def measured(*_):
        params, times = jnp.ones(4), jnp.array([0.0, 1.0])
        dynamics = jf.dynamics.modified(jf.optim.gd(0.1), loss, order=2)
        seen.append(
            (params.dtype, is_stiff(dynamics, params, times), is_stiff(dynamics, params, 1000 * times))
        )

    monkeypatch.setattr(temperature, "run", measured)
    small = ["temperature", "--data", "iris", "--hidden", "4"]
    for more in ([], ["--x64"]):
        assert main([*small, *more]) == 0
        assert not jax.config.read("jax_enable_x64")
    dtypes, near, far = zip(*seen, strict=True)
    assert [*dtypes] == ["float32", "float64"]
    assert not any(near)
    assert all(far)
