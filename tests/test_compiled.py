"""Options of the compiler reach programs that stand alone, and never those inside another, where JAX refuses them."""

import jax
import jax.numpy as jnp
import pytest

from jaxflow import _compiled


def made(monkeypatch, options):
    monkeypatch.setattr(_compiled, "_OPTIONS", options)
    return _compiled.compiled(lambda x, function: function(x))


def test_a_program_alone_is_compiled_with_the_options(monkeypatch):
    run = made(monkeypatch, {"no such option": 1})
    with pytest.raises(Exception, match="no such option"):
        run(1.0, jnp.sin)


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        (lambda f: jax.jit(f)(0.0), 0.0),
        (lambda f: jax.jit(lambda: f(0.0))(), 0.0),
        (lambda f: jax.grad(f)(0.0), 1.0),
        (lambda f: jax.jvp(f, (0.0,), (2.0,))[1], 2.0),
        (lambda f: jax.linearize(f, 0.0)[1](2.0), 2.0),
        (lambda f: jax.vmap(f)(jnp.zeros(1))[0], 0.0),
        (lambda f: jax.jvp(jax.vmap(f), (jnp.zeros(1),), (jnp.ones(1),))[1][0], 1.0),
        (lambda f: jax.lax.map(f, jnp.zeros(1))[0], 0.0),
        (lambda f: jax.eval_shape(f, 0.0).size - 1, 0.0),
    ],
    ids=["jit", "constant", "grad", "jvp", "linearize", "vmap", "both", "map", "shape"],
)
def test_a_program_inside_another_takes_none(monkeypatch, inside, expected):
    run = made(monkeypatch, {"no such option": 1})
    assert inside(lambda x: run(x, jnp.sin)) == expected


def test_a_function_that_closes_over_a_traced_value(monkeypatch):
    run = made(monkeypatch, {"no such option": 1})
    assert jax.grad(lambda y: run(2.0, lambda x: x * y))(1.0) == 2.0


def test_other_devices_take_no_options_and_both_programs_are_counted(monkeypatch):
    run = made(monkeypatch, {"xla_backend_optimization_level": 1})
    run(0.0, jnp.sin)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (run(0.0, jnp.sin), run.cache_size()) == (0.0, 2)
