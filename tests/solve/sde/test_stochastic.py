"""SDEs: closed forms, orders of convergence, one key one path, and what is refused or warned of."""

import chex
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.dynamics import Field, traceable
from jaxflow.solve.sde import brownian

PAIR = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
FACTORS = jf.Objective(lambda w, a: 0.5 * a * w**2, jnp.array([0.0, 2.0]))
TIMES = jnp.linspace(0.0, 1.0, 6)


@traceable
def geometric(rate, volatility):
    """dx = rate·x dt + volatility·x dW, with the Brownian motion itself as a second component."""
    return Field(
        drift=lambda t, z: {"x": rate * z["x"], "w": jnp.zeros_like(z["w"])},
        init=lambda x: {"x": x, "w": jnp.zeros_like(x)},
        params=lambda z: z,
        diffusion=lambda t, z, xi: {"x": volatility * z["x"] * xi, "w": xi},
        brownian=lambda z: jax.ShapeDtypeStruct(z["x"].shape, z["x"].dtype),
    )


@traceable
def ornstein_uhlenbeck(rate, amplitude):
    """dx = −rate·x dt + amplitude dW, with W."""
    return Field(
        drift=lambda t, z: {"x": -rate * z["x"], "w": jnp.zeros_like(z["w"])},
        init=lambda x: {"x": x, "w": jnp.zeros_like(x)},
        params=lambda z: z,
        diffusion=lambda t, z, xi: {"x": amplitude * xi, "w": xi},
        brownian=lambda z: jax.ShapeDtypeStruct(z["x"].shape, z["x"].dtype),
        additive=True,
    )


@pytest.mark.parametrize(
    ("order", "mean", "variance"),
    [(1, 0.3678794412, 0.0432332358), (2, 0.3499377491, 0.0417877891)],
)
def test_moments_of_sgd_with_additive_noise(order, mean, variance):
    """Within 4 standard errors (a false alarm in 8,000 runs) of MATH 3; 64 substeps a step leave a bias of 3e-4."""
    dynamics = jf.dynamics.sgd(PAIR, 0.1, 1, order)
    keys = jax.random.split(jax.random.key(7), 10_000)
    end = jf.ensemble(lambda key: jf.integrate(dynamics, 1.0, [0.0, 1.0], key=key, substeps=640), keys).params
    assert abs(end.mean() - mean) < 4 * np.sqrt(variance / 10_000) + 4e-4
    assert abs(end.var() - variance) < 4 * variance * np.sqrt(2 / 10_000) + 2e-4


def test_second_moment_with_multiplicative_noise():
    r"""E θ² at t = 1 is exp(−2+η) with order 1: lognormal, so its standard error is known too."""
    eta, n = 0.1, 10_000
    keys = jax.random.split(jax.random.key(3), n)
    dynamics = jf.dynamics.sgd(FACTORS, eta, 1)
    end = jf.ensemble(lambda key: jf.integrate(dynamics, 1.0, [0.0, 1.0], key=key, substeps=640), keys).params
    exact = np.exp(-2 + eta)
    error = np.sqrt((np.exp(4 * eta) - 1) / n) * exact
    assert abs(jnp.mean(end**2) - exact) < 4 * error + 1e-3  # the last for 64 substeps a step


def strong_errors(dynamics, exact, steps, solver=None):
    """Mean |x − exact| at t = 1 over paths, each driven by its own Brownian motion at all step sizes."""
    keys = jax.random.split(jax.random.key(11), 400)
    errors = []
    for substeps in steps:
        run = lambda key, substeps=substeps: jf.integrate(
            dynamics,
            jnp.asarray(1.0),
            [0.0, 1.0],
            key=key,
            substeps=substeps,
            noise_substeps=steps[-1],
            solver=solver,
        )
        end = jf.ensemble(run, keys).params
        errors.append(float(jnp.abs(end["x"] - exact(end["w"])).mean()))
        np.testing.assert_allclose(end["w"].var(), 1.0, atol=0.3)  # 4 standard errors of 400
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


def test_euler_maruyama_converges_strongly_at_one_half():
    exact = lambda w: jnp.exp(-0.5 + w)
    slope = strong_errors(geometric(0.0, 1.0), exact, (16, 64, 256))
    assert abs(slope + 0.5) < 0.1


def test_additive_noise_converges_strongly_at_one_and_one_brownian_path_drives_all_steps():
    dynamics = ornstein_uhlenbeck(1.0, 0.5)
    keys = jax.random.split(jax.random.key(2), 200)
    run = lambda substeps, solver=None: (
        jf.ensemble(
            lambda key: jf.integrate(
                dynamics,
                jnp.asarray(1.0),
                [0.0, 1.0],
                key=key,
                substeps=substeps,
                noise_substeps=512,
                solver=solver,
            ),
            keys,
        ).params
    )
    fine = run(512, diffrax.Heun())
    gaps = {}
    for substeps in (8, 32):
        end = run(substeps)
        np.testing.assert_allclose(end["w"], fine["w"], rtol=1e-12)
        gaps[substeps] = float(jnp.abs(end["x"] - fine["x"]).mean())
    assert 3.4 < gaps[8] / gaps[32] < 4.6


def test_heun_is_of_weak_order_two_on_additive_noise():
    """On a linear SDE a Heun step multiplies the mean by 1 − h + h²/2; here with no noise but that of rounding."""
    path = lambda n, solver: jf.integrate(
        ornstein_uhlenbeck(1.0, 0.0),
        jnp.asarray(1.0),
        [0.0, 1.0],
        key=jax.random.key(0),
        substeps=n,
        solver=solver,
    ).params["x"]
    np.testing.assert_allclose(path(20, diffrax.Heun()), (1 - 0.05 + 0.05**2 / 2) ** 20, rtol=1e-13)
    np.testing.assert_allclose(path(20, diffrax.Euler()), 0.95**20, rtol=1e-13)


@pytest.mark.parametrize("substeps", [1, 5, 64, 100, 131])
def test_paths_do_not_depend_on_how_they_are_drawn(substeps):
    """A longer run begins with the shorter one's path, and every page layout gives independent unit increments."""
    dynamics = ornstein_uhlenbeck(0.0, 1.0)
    run = lambda times: jf.integrate(
        dynamics, jnp.zeros(3), times, key=jax.random.key(5), substeps=substeps
    ).values["w"]
    times = jnp.arange(71.0)
    path = run(times)
    np.testing.assert_allclose(run(times[:40]), path[:40], rtol=1e-13)
    increments = np.diff(path, axis=0)
    assert len(np.unique(increments.round(12))) == increments.size  # no page is used twice
    # 210 numbers: both bounds are passed by chance less than once in 10,000 runs.
    assert abs(increments.mean()) < 4 / np.sqrt(210)
    assert abs(increments.var() - 1) < 4 * np.sqrt(2 / 210)


@pytest.mark.parametrize(("fine", "numbers"), [(16, 1), (1, 10), (100, 1), (131, 1), (16, 5000), (7, 10**6)])
def test_pages_hold_every_increment_once(fine, numbers):
    layout = brownian.pages(fine, numbers)
    if layout.intervals:
        assert layout.intervals * fine <= brownian.MOST
    else:
        assert layout.whole * layout.length + layout.rest == fine
        assert layout.pages_of_interval == layout.whole + (layout.rest > 0)
    assert (layout.length or layout.intervals * fine) * numbers <= max(brownian.NUMBERS, numbers)


def test_one_key_is_one_path_on_one_device_and_on_four():
    mesh = lambda n: jax.make_mesh((n,), ("runs",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])
    keys = jax.random.split(jax.random.key(0), 8)
    run = lambda key: jf.integrate(jf.dynamics.sgd(FACTORS, 0.1, 1), 1.0, TIMES, key=key)
    one, four = (jf.ensemble(run, keys, mesh(n)) for n in (1, 4))
    assert len(four.values.sharding.device_set) == 4
    np.testing.assert_array_equal(one.values, four.values)  # no matrix product: the same to the last bit
    network = jf.problems.mlp("iris", hidden=(4,))
    flow = jf.dynamics.sgd(network.objective, 0.1, 8)
    run = lambda key: jf.integrate(flow, network.params, TIMES, key=key)
    one, four = (jf.ensemble(run, keys, mesh(n)) for n in (1, 4))
    chex.assert_trees_all_close(one.values, four.values, rtol=1e-6, atol=1e-9)


def test_the_fused_step_is_euler_maruyama():
    """One backward pass for drift and noise gives what drift and diffusion give apart."""
    network = jf.problems.mlp("iris", hidden=(4,))
    xi = jax.random.normal(jax.random.key(1), (network.objective.size,))
    t, dt = 0.0, 0.01
    for order in (1, "2+"):
        dynamics = jf.dynamics.sgd(network.objective, 0.1, 8, order)
        fused = jax.jit(dynamics.step)(t, network.params, dt, xi)
        terms = jax.jit(lambda p, dynamics=dynamics: (dynamics.drift(t, p), dynamics.diffusion(t, p, xi)))
        apart = jax.tree.map(
            lambda p, f, s: p + 0.01 * f + 0.1 * s,
            *jax.device_get((network.params, *terms(network.params))),
        )
        chex.assert_trees_all_close(fused, apart, rtol=1e-12, atol=1e-14)


def test_sixteen_substeps_a_discrete_step_by_default():
    key = jax.random.key(0)
    assert int(jf.integrate(jf.dynamics.sgd(PAIR, 0.1, 1), 1.0, TIMES, key=key).steps) == 5 * 32
    falling = lambda t: 0.1 / (1 + t)  # 2 steps in the first interval, 3.8 in the last
    assert int(jf.integrate(jf.dynamics.sgd(PAIR, falling, 1), 1.0, TIMES, key=key).steps) == 5 * 61
    by_size = jf.integrate(jf.dynamics.langevin(PAIR, 0.1), 1.0, TIMES, key=key, step_size=0.05)
    assert int(by_size.steps) == 20


def test_a_schedule_sets_the_temperature_in_time():
    """dθ = −θ dt + √(η(t)·c) dW with η = .2 until t = 1 and 0 after: only the first half is heated."""
    rate = lambda t: jnp.where(t < 1.0, 0.2, 0.0)
    dynamics = jf.dynamics.sgd(PAIR, rate, lambda t: 2.0 + 0 * t)
    keys = jax.random.split(jax.random.key(4), 4000)
    run = lambda key: jf.integrate(dynamics, 0.0, [0.0, 1.0, 2.0], key=key, substeps=400)
    end = jf.ensemble(run, keys).values
    middle = 0.1 * (1 - np.exp(-2.0)) / 2
    for i, variance in ((1, middle), (2, middle * np.exp(-2.0))):
        assert abs(end[:, i].var() - variance) < 4 * variance * np.sqrt(2 / 4000) + 3e-4


def test_nothing_recompiles_for_other_numbers():
    run = lambda rate, batch, seed, scale: jf.integrate(
        jf.dynamics.sgd(PAIR, rate, batch), 1.0, scale * TIMES, key=jax.random.key(seed), substeps=40
    )
    run(0.1, 1, 0, 1.0)
    before = programs()["solve.sde.fixed_steps.diffuse"]
    for seed, rate in enumerate((0.12, 0.2)):
        run(rate, 2 + seed, seed, 1.1)
    assert programs()["solve.sde.fixed_steps.diffuse"] == before


def test_it_is_traceable_and_differentiable():
    """The derivative of a path in the learning rate, key fixed, against a difference."""
    end = jax.jit(
        lambda rate: (
            jf.integrate(
                jf.dynamics.sgd(FACTORS, rate, 1), 1.0, TIMES, key=jax.random.key(1), substeps=40
            ).params
        )
    )
    slope = jax.grad(end)(0.1)
    np.testing.assert_allclose(slope, (end(0.1 + 1e-6) - end(0.1 - 1e-6)) / 2e-6, rtol=1e-6)
    stack = jax.vmap(lambda rate: jf.dynamics.sgd(FACTORS, rate, 1))(jnp.array([0.1, 0.2]))
    ends = jax.vmap(lambda d: jf.integrate(d, 1.0, TIMES, key=jax.random.key(1), substeps=40).params)(stack)
    np.testing.assert_allclose(ends, [end(0.1), end(0.2)], rtol=1e-12)


def test_the_default_steps_are_known_under_jit_where_the_times_are():
    run = lambda key: jf.integrate(jf.dynamics.sgd(PAIR, 0.1, 1), 1.0, [0.0, 0.2], key=key).params
    np.testing.assert_allclose(jax.jit(run)(KEY), run(KEY), rtol=1e-12)


def test_half_precision_states_are_stepped_in_single():
    """A thousand increments of 1e-4 would each be lost beside 1 in bfloat16."""
    steady = lambda w: jnp.sum(-0.1 * w)
    path = jf.integrate(
        jf.dynamics.langevin(steady, 0.0),
        jnp.ones(1, jnp.bfloat16),
        [0.0, 1.0],
        key=jax.random.key(0),
        substeps=1000,
    )
    assert path.params.dtype == jnp.bfloat16
    assert float(path.params[0]) == pytest.approx(1.1, abs=0.01)


def test_a_diverged_path_is_marked_and_dated():
    explosive = jf.dynamics.langevin(lambda w: -jnp.sum(w**4), 0.1)
    keys = jax.random.split(jax.random.key(0), 4)
    starts = jnp.array([0.0, 0.0, 3.0, 0.0])
    run = jf.ensemble(
        lambda item: jf.integrate(explosive, item[1], [0.0, 0.01, 0.2, 0.3], key=item[0], substeps=10),
        (keys, starts),
    )
    assert run.diverged.tolist() == [False, False, True, False]
    assert float(run.stopped[2]) == pytest.approx(0.3) or float(run.stopped[2]) == pytest.approx(0.2)
    assert "1 of 4 lanes diverged" in run.message


LANGEVIN = jf.dynamics.langevin(PAIR, 0.1)
SGD = jf.dynamics.sgd(PAIR, 0.1, 1)
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("dynamics", "arguments", "message"),
    [
        (SGD, {}, "key must be a PRNG key .* got None"),
        (SGD, {"key": KEY, "solver": diffrax.EulerHeun()}, "solver must be .* Stratonovich"),
        (SGD, {"key": KEY, "solver": diffrax.Heun()}, "solver must be .* Stratonovich"),
        (LANGEVIN, {"key": KEY, "solver": diffrax.Tsit5(), "substeps": 5}, "solver must be"),
        (LANGEVIN, {"key": KEY, "solver": "auto", "substeps": 5}, "solver must be .* 'auto'"),
        (SGD, {"key": KEY, "step_size": 0.1}, "step_size must be below .* learning rate"),
        (SGD, {"key": KEY, "substeps": 1}, "must be below"),
        (SGD, {"key": KEY, "step_size": -0.1}, "step_size must be a finite number above 0, got -0.1"),
        (SGD, {"key": KEY, "substeps": 0}, "substeps must be an integer at least 1, got 0"),
        (SGD, {"key": KEY, "rtol": 1e-3}, "rtol must be None"),
        (SGD, {"key": KEY, "substeps": 20, "noise_substeps": 30}, "noise_substeps must be a multiple of"),
        (LANGEVIN, {"key": KEY}, "substeps or step_size must be given for langevin"),
        (jf.dynamics.gradient_flow(PAIR), {"noise_substeps": 30}, "noise_substeps must be None"),
        (
            jf.dynamics.sgd(PAIR, 0.1, 1, noise=jf.dynamics.noise.two_batches(1)),
            {"key": KEY, "substeps": 40, "noise_substeps": 80},
            "noise_substeps must be None for noise that picks",
        ),
    ],
)
def test_bad_input(dynamics, arguments, message):
    with pytest.raises(ValueError, match=message):
        jf.integrate(dynamics, 1.0, TIMES, **arguments)


@pytest.mark.parametrize("key", [3, np.int64(3), jax.random.split(KEY)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(TypeError, match="key must be a PRNG key"):
        jf.integrate(SGD, 1.0, TIMES, key=key)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: jf.dynamics.sgd(PAIR, 0.1, 0),
            ValueError,
            "batch_size must be a finite number above 0, got 0",
        ),
        (
            lambda: jf.dynamics.sgd(PAIR, 0.1, 3, replacement=False),
            ValueError,
            "batch_size must be at most the number of examples, 2, .* got 3",
        ),
        (lambda: jf.dynamics.sgd(lambda w: w, 0.1, 1), TypeError, "need an Objective"),
        (lambda: jf.dynamics.sgd(jf.Objective(PAIR.losses), 0.1, 1), ValueError, "has no data"),
        (lambda: jf.dynamics.sgd(PAIR, -0.1, 1), ValueError, "learning_rate must be .* got -0.1"),
        (lambda: jf.dynamics.sgd(PAIR, 0.1, 1, 3), ValueError, "order must be 1, 2"),
        (lambda: jf.dynamics.langevin(PAIR, -1.0), ValueError, "temperature must be .* got -1.0"),
        (lambda: jf.dynamics.langevin(3.0, 1.0), TypeError, "objective must be"),
    ],
)
def test_bad_dynamics(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_long_step_is_warned_of():
    with pytest.warns(UserWarning, match=r"takes 0\.5 of a discrete step's time"):
        jf.integrate(SGD, 1.0, TIMES, key=KEY, substeps=4)
    jf.integrate(SGD, 1.0, TIMES, key=KEY, substeps=8)  # a quarter is allowed


def test_a_run_goes_on_from_its_state():
    """Without heat the path is one; without the state its velocity would be lost."""
    dynamics = jf.dynamics.underdamped_langevin(PAIR, 0.0, friction=0.1)
    run = lambda x, times, state=None: jf.integrate(
        dynamics, x, times, key=jax.random.key(0), substeps=50, state=state
    )
    whole, half = run(1.0, [0.0, 0.5, 1.0]), run(1.0, [0.0, 0.5])
    np.testing.assert_allclose(run(half.params, [0.5, 1.0], half.state).params, whole.params, rtol=1e-12)
    assert abs(run(half.params, [0.5, 1.0]).params - whole.params) > 0.1


@pytest.mark.parametrize("name", ["rmsprop_sde", "adam_sde", "sign_sgd"])
def test_steps_that_square_their_increments_share_no_path(name):
    """They were let through, and ended .37 and more from their finer steps where SGD's equation is within .007."""
    dynamics = getattr(jf.dynamics, name)(PAIR, 0.1, 1)
    with pytest.raises(ValueError, match=f"noise_substeps must be None for {name}, whose step squares"):
        jf.integrate(dynamics, 1.0, TIMES, key=KEY, substeps=16, noise_substeps=64)


@pytest.mark.parametrize("traced", ["time step is", "times are"])
def test_steps_that_cannot_be_chosen_under_jit_are_asked_for(traced):
    data = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    times = np.linspace(0.0, 1.0, 11)

    def path(rate, **more):
        sgd = jf.dynamics.sgd(data, rate if traced == "time step is" else 0.1, 1)
        at = times if traced == "time step is" else times * rate
        return jf.integrate(sgd, 0.0, at, key=KEY, **more).params

    with pytest.raises(
        ValueError, match=f"substeps must be given for sgd under jit.* as its {traced} traced"
    ):
        jax.jit(path)(0.1)
    assert jnp.isfinite(jax.jit(lambda rate: path(rate, substeps=16))(0.1))
