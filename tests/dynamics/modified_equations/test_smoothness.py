"""Which optimizers are told to be rough, and that the plateaus they are told of are real."""

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.dynamics.modified_equations.smoothness import refuse_randomness, roughness, warn_if_rough

pytestmark = pytest.mark.promotes

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}
KINDS = {None: None, "kink": "second order", "jump": "first order", "single": "need not fall"}
KEY = jax.random.key(0)

OURS = {
    **dict.fromkeys(("gd", "momentum", "nesterov", "sgdw", "adagrad", "rmsprop", "adam", "adamw", "nadam")),
    **dict.fromkeys(("scalar_rmsprop", "newton")),
    **dict.fromkeys(("amsgrad", "adabound"), "kink"),
    **dict.fromkeys(("radam", "swats", "sign"), "jump"),
    "lookahead": "single",
}
SETTINGS = {"lookahead": {"inner": jf.optim.gd(0.1)}, "newton": {}}

SMOOTH = "sgd adam adamw nadam nadamw adagrad adadelta rmsprop adabelief lamb lars novograd adan fromage"
SMOOTH += " optimistic_gradient_descent"
ALIASES = {
    **dict.fromkeys(SMOOTH.split()),
    **dict.fromkeys(("adamax", "amsgrad", "adafactor", "sm3"), "kink"),
    **dict.fromkeys(("lion", "yogi", "sign_sgd", "signum", "radam", "rprop"), "jump"),
}
CONTRIB = {
    **dict.fromkeys(("ademamix", "madgrad", "muon", "simplified_ademamix")),
    **dict.fromkeys(("schedule_free_sgd", "schedule_free_adamw")),
    "momo": "kink",
    **dict.fromkeys(("prodigy", "dadapt_adamw"), "kink"),
    "galore": "single",
}

schedules = optax.schedules
RATES = {
    "cosine": (schedules.cosine_decay_schedule(0.1, 50), None),
    "warmup and cosine": (schedules.warmup_cosine_decay_schedule(0.0, 0.1, 10, 50), None),
    "exponential": (schedules.exponential_decay(0.1, 10, 0.9), None),
    "staircase": (schedules.exponential_decay(0.1, 10, 0.9, staircase=True), "jump"),
    "polynomial": (schedules.polynomial_schedule(0.1, 0.01, 2, 50), None),
    "steps": (schedules.piecewise_constant_schedule(0.1, {10: 0.5}), "jump"),
    "joined constants": (schedules.join_schedules([lambda k: 0.1, lambda k: 0.2], [5]), "jump"),
    "ours": (jf.optim.warmup(jf.optim.inverse_sqrt(0.1), 5), None),
    "one cycle": (jf.optim.one_cycle(0.1, 50), None),
    "restarts": (jf.optim.sgdr(0.1, 5), "jump"),
}


def masked_by(condition):
    """Gradient descent on the coordinates where a condition holds."""
    update = lambda g, p: jax.tree.map(lambda g, p: condition(g, p) * g, g, p)
    return optax.chain(optax.stateless(update), optax.sgd(0.1))


CURVATURE = optax.GradientTransformationExtraArgs(
    optax.init_empty_state,
    lambda g, state, params, *, grad_fn, **extra: (jax.jvp(grad_fn, (params,), (g,))[1], state),
)
OTHERS = {
    "noise-free chain": (jf.optim.chain(jf.optim.l2_regularization(0.1), jf.optim.adam(0.1)), None),
    "look-ahead gradient": (jf.optim.nesterov(0.1, lookahead=True), None),
    "a curvature of single steps": (
        optax.contrib.sophia(0.1, update_interval=2, hessian_diagonal_fn=CURVATURE),
        "single",
    ),
    "no NaN": (optax.chain(optax.zero_nans(), optax.sgd(0.1)), None),
    "injected": (optax.inject_hyperparams(optax.adam)(0.1), None),
    "masked": (optax.masked(optax.adam(0.1), {"w": True, "b": False}), None),
    "clip": (optax.chain(optax.clip(1.0), optax.sgd(0.1)), "kink"),
    "clip by norm": (jf.optim.chain(optax.clip_by_global_norm(1.0), jf.optim.gd(0.1)), "kink"),
    "rectified": (optax.stateless(lambda g, p: jax.tree.map(lambda g: jnp.where(g > 0, g, 0.0), g)), "kink"),
    "a mask": (masked_by(lambda g, p: (g * p > 0).astype(g.dtype)), "jump"),
    "a mask of zeros": (masked_by(lambda g, p: (g == 0).astype(g.dtype)), None),
    "one of them": (
        optax.partition({"w": optax.sgd(0.1), "b": optax.lion(0.1)}, {"w": "w", "b": "b"}),
        "jump",
    ),
    "every third step": (optax.chain(optax.apply_every(3), optax.sgd(0.1)), "single"),
    "accumulated": (optax.MultiSteps(optax.sgd(0.1), 4), "single"),
}


def check(optimizer, kind):
    message = roughness(optimizer, PARAMS, optimizer.init(PARAMS))
    if kind is None:
        assert message is None
    else:
        assert KINDS[kind] in message
        assert "\n" not in message


def make(constructor, **settings):
    return constructor(**{"learning_rate": 0.1} | settings)


def test_every_optimizer_of_ours_is_in_the_table():
    assert set(OURS) == set(jf.optim.OPTIMIZERS) - {"genetic"}


@pytest.mark.parametrize(("name", "kind"), OURS.items())
def test_ours(name, kind):
    settings = SETTINGS.get(name, {"learning_rate": 0.1})
    check(jf.optim.OPTIMIZERS[name](**settings), kind)


@pytest.mark.parametrize(("name", "kind"), [*ALIASES.items(), *CONTRIB.items()])
def test_those_of_optax(name, kind):
    check(make(getattr(optax if name in ALIASES else optax.contrib, name)), kind)


@pytest.mark.parametrize("name", RATES)
def test_schedules(name):
    rate, kind = RATES[name]
    check(optax.sgd(rate), kind)


@pytest.mark.parametrize("name", OTHERS)
def test_wrappers(name):
    optimizer, kind = OTHERS[name]
    if not isinstance(optimizer, optax.GradientTransformation):
        optimizer = optimizer.gradient_transformation()
    check(optimizer, kind)


def test_the_loss_is_not_the_optimizer():
    """Whatever loss an update evaluates by itself is a polynomial here, without a network's kinks."""
    own = lambda g, state, p, *, value_fn, **extra: (jax.grad(value_fn)(p), state)
    check(optax.GradientTransformationExtraArgs(optax.init_empty_state, own), None)


def test_one_warning_in_one_sentence():
    optimizer = jf.optim.sign(0.1)
    with pytest.warns(UserWarning, match=r"^The update of sign takes the sign of .* first order[^.]*\.$"):
        warn_if_rough(optimizer, PARAMS, optimizer.init(PARAMS))
    adam = jf.optim.adam(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_rough(adam, PARAMS, adam.init(PARAMS))


@pytest.mark.parametrize(
    "optimizer",
    [
        jf.optim.genetic(key=KEY),
        jf.optim.chain(jf.optim.gradient_noise(0.1, key=KEY), jf.optim.gd(0.1)),
        jf.optim.chain(optax.add_noise(0.1, 0.5, KEY), jf.optim.gd(0.1)),
        optax.noisy_sgd(0.1, key=KEY),
    ],
    ids=("genetic", "noise", "noise of optax", "noisy SGD"),
)
def test_random_optimizers_are_refused(optimizer):
    with pytest.raises(ValueError, match=r"must be deterministic, got .*random numbers\.$"):
        refuse_randomness(optimizer, jax.eval_shape(optimizer.init, PARAMS))


def test_a_raw_key_is_a_key():
    with pytest.raises(ValueError, match="must be deterministic"):
        refuse_randomness(optax.sgd(0.1), {"key": jax.random.key_data(KEY)})


def test_randomness_without_a_key_is_found_in_the_update():
    noise = lambda g: g + jax.random.normal(jax.random.key(0), g.shape)
    optimizer = optax.stateless(lambda g, p: jax.tree.map(noise, g))
    refuse_randomness(optimizer, optimizer.init(PARAMS))
    with pytest.raises(ValueError, match="random numbers"):
        roughness(optimizer, PARAMS, optimizer.init(PARAMS))


class Odd(NamedTuple):
    count: jax.Array
    name: object


def test_a_state_that_is_no_pytree_of_arrays_is_refused():
    with pytest.raises(TypeError, match=r"pytree of arrays, got object at state\.name\.$"):
        refuse_randomness(optax.sgd(0.1), Odd(jnp.zeros(()), object()))


def test_a_count_that_must_be_an_integer_is_refused():
    with pytest.raises(TypeError, match=r"takes no step count that is a float: .*index"):
        roughness(optax.lbfgs(0.1), PARAMS, optax.lbfgs(0.1).init(PARAMS))


def test_what_fails_on_integers_too_says_why_itself():
    optimizer = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1))
    with pytest.raises(TypeError, match="unexpected keyword argument 'value'"):
        roughness(optimizer, PARAMS, optimizer.init(PARAMS))


@pytest.mark.parametrize("name", [name for name in OURS if name != "lookahead"])
def test_hyperparameters_that_are_tracers(name):
    optimizer = jf.optim.OPTIMIZERS[name](**SETTINGS.get(name, {"learning_rate": 0.1}))
    seen = []

    @jax.jit
    def run(optimizer, params):
        seen.append(roughness(optimizer, params, optimizer.init(params)))
        return params

    run(optimizer, PARAMS)
    kind = KINDS[OURS[name]]
    assert seen[0] is None if kind is None else kind in seen[0]


# The plateaus, on one parameter: iterates against the field of differences F = Σ b_j (z_{j+1} - z_j)/h.

DIFFERENCES = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (11 / 6, -7 / 6, 1 / 3),
    4: (25 / 12, -23 / 12, 13 / 12, -1 / 4),
}


def largest_error(make, order, steps, start, time):
    """Of the modified equation, solved by 16 steps of RK4 a time step; the state's counts are floats."""
    h = time / steps
    update = optax.with_extra_args_support(make(h)).update
    first = make(h).init(jnp.asarray(start))
    step = lambda z: (lambda u, s: (z[0] + u, s))(*update(z[0] + 0.3 * jnp.sin(2 * z[0]), z[1], z[0]))
    floats = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, float))

    def field(z):
        total = jax.tree.map(jnp.zeros_like, z)
        for b in DIFFERENCES[order]:
            new = floats(step(z))
            total = jax.tree.map(lambda f, a, c, b=b: f + b / h * (a - c), total, new, z)
            z = new
        return total

    def rk4(z, _):
        along = lambda k, c: jax.tree.map(lambda x, k: x + c * h / 16 * k, z, k)
        a = field(z)
        b = field(along(a, 0.5))
        c = field(along(b, 0.5))
        d = field(along(c, 1.0))
        return along(jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, a, b, c, d), 1.0), z[0]

    @jax.jit
    def run():
        z = (jnp.asarray(start), first)
        flow = jax.lax.scan(rk4, floats(z), length=16 * steps)[1][::16]
        return flow, jax.lax.scan(lambda z, _: (step(z), z[0]), z, length=steps)[1]

    flow, iterates = run()
    return np.abs(flow - iterates).max()


def slope(make, order, start=3.0, time=4.0):
    """Over a factor of 8 in the time step."""
    coarse, fine = (largest_error(make, order, steps, start, time) for steps in (40, 320))
    return np.log2(coarse / fine) / 3


def test_smooth_methods_have_the_order():
    assert slope(jf.optim.gd, 4) > 3.3


def test_a_clipped_gradient_is_second_order():
    clipped = lambda h: optax.chain(optax.clip(1.0), optax.sgd(h))
    assert 1.7 < slope(clipped, 2) < 2.3
    assert 1.6 < slope(clipped, 4) < 2.3


@pytest.mark.parametrize("order", [2, 4])
def test_a_sign_is_first_order(order):
    assert 0.6 < slope(jf.optim.sign, order, start=1.03, time=2.0) < 1.4


def test_a_condition_on_the_step_count_is_first_order():
    rectified = lambda h: jf.optim.radam(h, b1=0.5, b2=0.6, eps=0.1)
    assert 0.7 < slope(rectified, 4) < 1.4


def test_a_rule_for_every_third_step_is_never_seen():
    every_third = lambda h: optax.chain(optax.apply_every(3), optax.sgd(h))
    assert slope(every_third, 2) < 0.1
