"""The clock of a solve: counted from its first time, checked in the precision it is used in."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import jv

import jaxflow as jf
from jaxflow.solve.trajectories.trajectory import DIVERGED, FINISHED, LEFT, TOO_SMALL

ONE = jnp.ones(1, jnp.float32)
DECAY = jf.dynamics.gradient_flow(lambda x: 0.5 * jnp.sum(x**2))
STIFF = jf.dynamics.gradient_flow(lambda x: 50 * x[0] ** 2 + 5e-4 * x[1] ** 2)


@pytest.fixture
def single():
    """Without x64, so that times are float32 too."""
    with jax.enable_x64(False):
        yield


@pytest.mark.usefixtures("single")
def test_a_solve_far_from_0_is_the_solve_at_0():
    far = np.array([1e8, 1e8 + 1])
    assert abs(jf.integrate(DECAY, ONE, far).params[0] - np.exp(-1)) <= 1e-5
    assert abs(jf.integrate(DECAY, ONE, far, substeps=20).params[0] - np.exp(-1)) <= 1e-5
    euler = {"solver": diffrax.Euler()}
    times = [1e5, 1e5 + 1]
    fixed = jf.integrate(DECAY, ONE, times, step_size=1 / 1024, **euler)
    assert fixed.steps == 1024
    assert abs(fixed.params[0] - (1 - 1 / 1024) ** 1024) <= 1e-5
    assert abs(jf.integrate(DECAY, ONE, times, substeps=8, **euler).params[0] - (7 / 8) ** 8) <= 1e-6
    noisy = jf.dynamics.langevin(lambda x: 0.5 * jnp.sum(x**2), 0.1)
    near, away = (jf.integrate(noisy, ONE, t, key=jax.random.key(0), substeps=16) for t in ([0.0, 1.0], far))
    assert near.params == away.params
    assert near.params != jf.integrate(noisy, ONE, far, key=jax.random.key(1), substeps=16).params


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize(
    ("times", "more", "message"),
    [
        ([0, 1e39], {}, "numbers that float32 holds, got 0 followed by 1e"),
        ([0, 1e8, 1e8 + 1], {}, "differ when rounded to float32.* got 100000000 followed by 100000001"),
        ([0, 1e5], {"step_size": 1e-3}, "step_size must make steps of at least 0.0477.* got 0.001"),
        ([0, 1e5, 1e5 + 1], {"substeps": 100}, "substeps must make steps of at least .* got 100"),
    ],
)
def test_what_the_precision_does_not_hold_is_refused(times, more, message):
    with pytest.raises(ValueError, match=message):
        jf.integrate(DECAY, ONE, times, **more)


def test_the_precision_is_that_of_the_parameters():
    with pytest.raises(ValueError, match="rounded to float32"):
        jf.integrate(DECAY, ONE, [0, 1e8, 1e8 + 1])
    path = jf.integrate(DECAY, jnp.ones(1), [1e8, 1e8 + 1e-3])
    assert abs(path.params[0] - np.exp(-1e-3)) <= 1e-6  # the times themselves are 2⁻²⁶ apart there


def test_schedules_and_events_see_the_times_given():
    """ẍ + (3/t)ẋ = −x has the solution x = J₁(t)/t, whose derivative is −J₂(t)/t; here from t = 3 on."""
    friction = jf.dynamics.nesterov(lambda x: 0.5 * jnp.sum(x**2))
    bessel = lambda n, t: jnp.asarray([jv(n, t) / t])
    start = friction.init(bessel(1, 3.0))._replace(velocity=-bessel(2, 3.0))
    path = jf.integrate(friction, start.params, [3.0, 5.0], state=start)
    assert abs(path.params - bessel(1, 5.0))[0] <= 1e-7
    late = diffrax.Event(lambda t, y, args, **_: t > 3.5)
    assert 3.5 < jf.integrate(DECAY, jnp.ones(1), [3.0, 60.0], event=late).stopped < 10
    flat = jf.integrate(DECAY, jnp.ones(1), [3.0, 60.0], event=jf.gradient_norm_below(1e-3))
    assert abs(flat.params[0]) <= 1e-3
    assert flat.stopped > 3 + np.log(1e3) - 1e-6


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("solver", [jf.RKC2(), diffrax.Kvaerno5(), "auto"], ids=["rkc", "implicit", "auto"])
def test_a_stiff_flow_over_a_long_time(solver):
    path = jf.integrate(STIFF, jnp.ones(2), [0, 4e3], solver=solver, rtol=1e-4)
    assert path.status == FINISHED
    assert abs(path.params[1] - np.exp(-4)) <= 5e-4
    assert abs(path.params[0]) <= 1e-6


def _flow(drift):
    return jf.dynamics.gradient_flow(jf.VectorField(lambda x: -drift(x)))


def test_a_solve_says_why_its_steps_became_small():
    """A drift that is not there; a state that goes to infinity; a jump that no tolerance passes."""
    rising = lambda drift: jf.integrate(_flow(drift), ONE, [0.0, 2.0])
    assert rising(lambda x: jnp.where(x < 2, x, jnp.nan)).status == LEFT
    assert rising(lambda x: x**2).status == DIVERGED
    stuck = rising(lambda x: jnp.where(x < 2, x, -1e9 * x))
    assert stuck.status == TOO_SMALL
    assert stuck.message.startswith("steps became too small for float")
    assert "at t = 0.69" in stuck.message
