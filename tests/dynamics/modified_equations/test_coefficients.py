"""The modified equation's coefficients, against the recursion by derivatives and closed forms."""

from itertools import product
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.dynamics import coefficients, modified

pytestmark = pytest.mark.promotes
START = jnp.array([1.0, -0.7])
THREE = jnp.array([0.3, -0.6, 0.8])


def uneven(x):
    return (
        0.5 * jnp.sum(x**2) + x[1] ** 2 + 0.3 * jnp.sum(x**4) + 0.2 * x[0] * x[1] ** 2 + jnp.sum(jnp.sin(x))
    )


def waves(x):
    return jnp.sum(jnp.cos(jnp.arange(1.0, x.size + 1) * x)) + 0.5 * jnp.sum(x) ** 2 + 0.1 * x[0] * x[-1] ** 2


def recursion(terms, z):
    """Hairer, Lubich & Wanner: a step's h^j is the sum of all products D_k1 … D_k(i−1) f_ki / i!, solved for f_j.

    D_k u is the derivative of u along f_k, k1 + … + ki = j; `terms` are the coefficients of a step's increment.
    """
    fields = [None]
    along = lambda f, u: lambda y: jax.jvp(u, (y,), (f(y),))[1]
    for j, term in enumerate(terms, 1):

        def field(y, j=j, term=term, fields=tuple(fields)):
            total = term(y)
            for i in range(2, j + 1):
                for chosen in product(range(1, j), repeat=i):
                    if sum(chosen) == j:
                        u = fields[chosen[-1]]
                        for k in reversed(chosen[:-1]):
                            u = along(fields[k], u)
                        total = total - u(y) / factorial(i)
            return total

        fields.append(field)
    return jax.jit(lambda z: [f(z) for f in fields[1:]])(z)


def gap(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


INPUTS = np.random.default_rng(0).normal(size=(20, 3))


def network(p):
    hidden = jnp.tanh(INPUTS @ p[:15].reshape(3, 5) + p[None, 15:20])
    return jnp.mean((hidden @ p[20:] - np.sin(INPUTS.sum(1))) ** 2)


CASES = {
    "two": (uneven, START),
    "five": (waves, jnp.linspace(0.3, -1.0, 5)),
    "mlp": (network, jnp.asarray(np.random.default_rng(1).normal(size=25))),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_descents_fields_are_those_of_the_recursion(name):
    loss, z = CASES[name]
    slope = jax.grad(loss)
    order = 3 if name == "mlp" else 4
    expected = recursion([lambda y: -slope(y), *[jnp.zeros_like] * (order - 1)], z)
    found = [f.params for f in coefficients(jf.optim.gd, loss, z, order)]
    for f, e, limit in zip(found, expected, (1e-13, 1e-11, 1e-8, 1e-6)[:order], strict=True):
        assert gap(f, e) < limit
    hessian = lambda v, at: jax.jvp(slope, (at,), (v,))[1]

    @jax.jit
    def closed_form(z):
        g = slope(z)
        third = jax.jvp(lambda y: hessian(g, y), (z,), (g,))[1]
        return -hessian(g, z) / 2, -hessian(hessian(g, z), z) / 3 - third / 12

    second, third = closed_form(z)
    assert gap(found[1], second) < 1e-11
    assert gap(found[2], third) < 1e-8


def test_memory_that_grows_as_the_step_shrinks():
    """v = βv + (1 − β)g, β = e^(−h/τ): 1 − β in powers of h gives the terms of a step of (θ, v)."""
    tau, slope = 0.5, jax.grad(uneven)
    family = lambda h: jf.optim.momentum(h, jnp.exp(-h / tau), ema=True)
    made = [-((-1 / tau) ** k) / factorial(k) for k in range(1, 4)]  # of 1 − β
    velocity = lambda k: lambda y: made[k - 1] * (slope(y[0]) - y[1])
    terms = [
        lambda y: jnp.stack([-y[1], velocity(1)(y)]),
        lambda y: jnp.stack([-velocity(1)(y), velocity(2)(y)]),
        lambda y: jnp.stack([-velocity(2)(y), velocity(3)(y)]),
    ]
    z = jnp.stack([START, jnp.array([0.4, 0.9])])
    begin = modified(family(0.1), uneven).init(START)
    state = begin._replace(
        params=z[0], optimizer=jax.tree.map(lambda leaf: z[1] if leaf.ndim else leaf, begin.optimizer)
    )
    for two_sided, limits in ((True, (1e-12, 1e-10, 1e-8)), (False, (1e-12, 1e-9, 1e-6))):
        found = coefficients(family, uneven, state, 3, two_sided=two_sided)
        for f, e, limit in zip(found, recursion(terms, z), limits, strict=True):
            assert gap(np.stack([f.params, jax.tree.leaves(f.optimizer)[1]]), e) < limit
            assert f.steps == 0


def test_only_the_third_field_of_gradient_descent_has_a_curl():
    """−∇³L[g, g]/12 is 2H²g/12 less a gradient, that of gᵀHg/12: the curl is that of −H²g/6."""
    for loss, z in ((uneven, START), (waves, THREE)):
        slope = jax.grad(loss)
        curl = lambda field, z=z: (lambda j: j - j.T)(jax.jacfwd(field)(z))
        hessian = lambda x, v, slope=slope: jax.jvp(slope, (x,), (v,))[1]
        bent = lambda x, slope=slope, hessian=hessian: -hessian(x, hessian(x, slope(x))) / 6
        expected = jax.jit(curl, static_argnums=0)(bent)
        fields = lambda x, loss=loss: jnp.stack([f.params for f in coefficients(jf.optim.gd, loss, x, 3)])
        derivatives = np.asarray(jax.jit(jax.jacfwd(fields))(z))
        _, second, third = (d - d.T for d in derivatives)
        assert gap(third, expected) < 1e-8
        assert abs(second).max() < 1e-8 * abs(derivatives[1]).max()

    def field(x, h=1e-4):
        """In the field itself, at a small step: order 2 leaves O(h²), order 3 is that and no other h²."""
        dynamics = modified(jf.optim.gd(h), uneven, order=3)
        return dynamics.drift(0.0, dynamics.init(x)).params / h**2

    bent = jax.jit(jax.jacfwd(field))(START)
    hessian, slope = jax.hessian(uneven), jax.grad(uneven)
    expected = jax.jit(jax.jacfwd(lambda x: -hessian(x) @ hessian(x) @ slope(x) / 6))(START)
    bent, expected = np.asarray(bent), np.asarray(expected)
    assert gap(bent - bent.T, expected - expected.T) < 0.02


def test_a_game_single_precision_and_no_velocity():
    rotation = jf.VectorField(lambda z: jnp.array([-z[1], z[0]]) + 0.1 * z**3)
    field = lambda z: -rotation(z)
    expected = recursion([field, jnp.zeros_like, jnp.zeros_like], START)
    for f, e in zip(coefficients(jf.optim.gd, rotation, START, 3), expected, strict=True):
        assert gap(f.params, e) < 1e-8
    slope = jax.grad(uneven)
    exact = recursion([lambda y: -slope(y), jnp.zeros_like, jnp.zeros_like], START)
    single = coefficients(jf.optim.gd, uneven, START.astype(jnp.float32), 3)
    for f, e, limit in zip(single, exact, (1e-6, 1e-4, 1e-2), strict=True):
        assert f.params.dtype == jnp.float32
        assert gap(f.params, e) < limit
    still = coefficients(jf.optim.gd, lambda x: jnp.sum(x**2), jnp.zeros(2), 2)
    np.testing.assert_array_equal(np.stack([f.params for f in still]), 0.0)


def test_it_works_under_vmap_and_a_step_size_may_be_given():
    run = lambda z, h: coefficients(jf.optim.gd, uneven, z, 2, step_size=h)[1].params
    many = jax.vmap(run)(jnp.stack([START, -START]), jnp.array([1e-2, 2e-2]))
    expected = jax.jit(lambda z: -jax.hessian(uneven)(z) @ jax.grad(uneven)(z) / 2)(-START)
    assert gap(many[1], expected) < 1e-10


REFUSED = {
    "order must be an integer from 1 to 6, got 7": {"order": 7},
    "order must be an integer at least 1, got 0": {"order": 0},
    "step_size must be a finite number above 0, got -1": {"step_size": -1},
    "family must be a function of the step size that makes an optimizer": {"family": jf.optim.gd(0.1)},
    "optimizer must be an optax transformation": {"family": lambda h: h},
    "objective must be an Objective or a function of the parameters, got 3": {"objective": 3},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_in_a_sentence(message):
    arguments = {"family": jf.optim.gd, "objective": uneven, "state": START, "order": 2} | REFUSED[message]
    with pytest.raises((ValueError, TypeError), match=message):
        coefficients(**arguments)
