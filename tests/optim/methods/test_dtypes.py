"""Updates come back in the gradient's dtype and states keep their dtypes, whatever those of hyperparameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, ONE_FORM_EACH, START, by_id

import jaxflow as jf

pytestmark = pytest.mark.promotes

DTYPES = ["bfloat16", "float16", "float32", "float64", "complex64"]


@jax.jit
def quadratic(params):
    """Half the squared norm, in the real dtype of the parameters; its gradient is the parameters."""
    return 0.5 * sum(jnp.sum(jnp.real(leaf * jnp.conj(leaf))) for leaf in jax.tree.leaves(params))


def update(optimizer, gradient, state, params):
    return optimizer.update(
        gradient, state, params,
        value=quadratic(params), grad=gradient, value_fn=quadratic, grad_fn=lambda p: p,
    )  # fmt: skip


def kinds(tree):
    """Structure, and shape, dtype and weakness of type of every leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves]


DEFINED = [(case, dtype) for case in CASES for dtype in DTYPES if case.complex or dtype != "complex64"]


def parameters(dtype):
    return {"w": jnp.asarray(START, dtype), "b": (jnp.zeros((), dtype),)}


@pytest.mark.parametrize(("case", "dtype"), DEFINED, ids=lambda x: getattr(x, "id", x))
def test_dtypes_are_kept_for_plain_and_for_vmapped_hyperparameters(case, dtype):
    params = parameters(dtype)

    def one_step(optimizer):
        state = optimizer.init(params)
        return state, *update(optimizer, params, state, params)

    plain = case.make()
    for hyper in (None, jnp.float32, jnp.float64):
        if hyper is None:
            optimizer = plain
        else:  # as in a lane of a sweep, where every number is an array
            optimizer = jax.tree.map(
                lambda x, d=hyper: jnp.asarray(x, d) if isinstance(x, float) else x, plain
            )
        state, updates, new_state = jax.eval_shape(one_step, optimizer)
        assert kinds(updates) == kinds(params)
        assert kinds(new_state) == kinds(state)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [c for c in CASES if c.needs is None], **by_id)
def test_half_precision_stays_finite_and_descends(case, dtype):
    """Coordinates whose gradient is 0, 1e-3 and of order 1; b2 = 0.999 and ε = 1e-8 would be 1 and 0 there."""
    settings = {"b2": 0.999, "eps": 1e-8, "decay": 0.999}
    optimizer = case.make(**{k: v for k, v in settings.items() if k in case.settings})
    params = jnp.asarray([0.0, 1e-3, 1.0, -2.0], dtype)

    def step(carry, _):
        params, state = carry
        updates, state = update(optimizer, params, state, params)
        return (optax.apply_updates(params, updates), state), None

    last = jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), None, 10)[0])
    params_after, state = last()
    assert params_after.dtype == dtype
    assert all(
        np.isfinite(np.asarray(leaf).astype(float)).all() for leaf in jax.tree.leaves((params_after, state))
    )
    assert np.asarray(params_after)[0] == 0
    assert float(quadratic(params_after)) < float(quadratic(params))


@jax.jit
def first_updates(g):
    optimizers = {case.id: case.make() for case in CASES if case.needs is None}
    return {id: update(o, g, o.init(g), g)[0].astype(float) for id, o in optimizers.items()}


def test_the_first_step_in_half_precision_is_that_of_single_precision():
    """Rate and update are rounded once each, to 8 or 11 bits; float16 has no numbers below 2⁻²⁴."""
    for dtype, unit in (("bfloat16", 2.0**-8), ("float16", 2.0**-11)):
        half = jnp.asarray([1e-3, 1.0, -2.0], dtype)
        ours, single = jax.device_get((first_updates(half), first_updates(half.astype(jnp.float32))))
        for name in single:
            assert (abs(ours[name] - single[name]) <= unit * abs(single[name]) + 2.0**-25).all(), name


@pytest.mark.parametrize("case", [c for c in ONE_FORM_EACH if c.complex and c.needs is None], **by_id)
def test_complex_parameters_descend_like_a_rotated_real_run(case):
    """Along a ray through 0 the loss |z|²/2 is a real one: z_k = e^{iφ} x_k."""
    phase = np.exp(0.7j)
    x = np.array([1.5])
    real = jf.iterate(case.make(), quadratic, x, steps=10).values
    rotated = jf.iterate(case.make(), quadratic, phase * x, steps=10).values
    assert np.abs(np.asarray(rotated) - phase * np.asarray(real)).max() <= 1e-12


ADAPTIVE = ["rmsprop", "scalar_rmsprop", "adam", "amsgrad", "radam", "nadam", "swats", "adagrad", "momentum"]


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_averages_over_many_steps_do_not_stall_in_half_precision(dtype, unit):
    """A constant gradient of 3e-3, whose square float16 does not hold: step 4,000 is that of float32."""
    half = jnp.full(2, 3e-3, dtype)

    @jax.jit
    def last(gradient):
        def step(states, _):
            pairs = {n: optimizers[n].update(gradient, states[n], gradient) for n in ADAPTIVE}
            return {n: state for n, (_, state) in pairs.items()}, {n: u for n, (u, _) in pairs.items()}

        optimizers = {n: getattr(jf.optim, n)(1e-2) for n in ADAPTIVE}
        states = {n: optimizer.init(gradient) for n, optimizer in optimizers.items()}
        return jax.tree.map(lambda u: u[-1].astype(float), jax.lax.scan(step, states, None, 4000)[1])

    ours, single = jax.device_get((last(half), last(half.astype(jnp.float32))))
    for name in ADAPTIVE:
        assert (abs(ours[name] - single[name]) <= 2 * unit * abs(single[name])).all(), name
