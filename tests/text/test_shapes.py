"""Messages show the shapes of data, never the data."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes


def squares(w, batch):
    return (batch["x"] @ w - batch["y"]) ** 2


DATA = {"x": jnp.full((150, 4), 0.123), "y": np.full(150, 0.123, np.float32)}
OBJECTIVE = jf.Objective(squares, DATA)


def test_an_objective():
    assert repr(OBJECTIVE) == "Objective(squares, {'x': float64[150, 4], 'y': float32[150]})"
    assert repr(jf.Objective(squares)) == "Objective(squares, None)"
    assert repr(jf.Objective(squares, jnp.ones(3), chunk=2)) == "Objective(squares, float64[3], chunk=2)"


def test_a_dynamics_and_a_field():
    flow = jf.dynamics.gradient_flow(OBJECTIVE)
    assert repr(flow) == f"gradient_flow(objective={OBJECTIVE!r})"
    modified = jf.dynamics.modified(jf.optim.gd(0.1), OBJECTIVE, order=2)
    assert "optimizer=gd(learning_rate=0.1), objective=Objective(squares, {'x': float64[150, 4]" in repr(
        modified
    )
    assert "0.123" not in repr(flow + 2 * flow)
    field = jf.VectorField(lambda z, a: a * z, (jnp.ones(1000),))
    assert repr(field) == "VectorField(<lambda>, (float64[1000],))"
    assert repr(jf.optim.gd(jf.optim.inverse_sqrt(0.1))) == "gd(learning_rate=inverse_sqrt(value=0.1))"


def test_under_tracing_and_as_shapes():
    shown = []
    jax.jit(lambda objective: shown.append(repr(objective)))(OBJECTIVE)
    jax.eval_shape(lambda objective: shown.append(repr(objective)), OBJECTIVE)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), OBJECTIVE)
    assert {*shown, repr(shapes)} == {repr(OBJECTIVE)}


def test_large_and_odd_data():
    many = jf.Objective(squares, {f"part {i}": jnp.ones(3) for i in range(100)})
    assert len(repr(many)) < 250
    keys = jf.Objective(squares, jax.random.split(jax.random.key(0), 5))
    assert repr(keys) == "Objective(squares, key<fry>[5])"
    network = eqx.nn.Linear(3, 4, key=jax.random.key(0))
    assert "float64[4, 3]" in repr(jf.Objective(functools.partial(squares), {"x": network.weight}))
    assert "float64[3]" in repr(jf.Objective(functools.partial(squares, jnp.ones(3)), jnp.ones(3)))


def test_a_refusal():
    with pytest.raises(TypeError) as refused:
        jf.integrate(OBJECTIVE, jnp.ones(4), [0.0, 1.0])
    assert "got Objective(squares, {'x': float64[150, 4]" in str(refused.value)
    assert "0.123" not in str(refused.value)
