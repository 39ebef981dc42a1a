"""A folder of a run whose difference nothing shows is refused: its program is another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes
DATA = jf.Objective(lambda p, x: jnp.log(jnp.cosh(x @ p["w"])), jnp.linspace(-1, 2, 24).reshape(8, 3))
PARAMS = {"w": jnp.array([0.3, -0.2, 0.5])}


class FirstOnes:
    """An estimator that shows nothing of itself."""

    def __init__(self, count):
        self.count = count

    def draw(self, objective, state, step, key):
        return (lambda params: objective.minibatch(params, jnp.arange(self.count))), state


def masked(rate):
    kept = lambda key: jax.vmap(lambda k: jax.random.bernoulli(k, rate))(key)
    return jf.Objective(lambda p, x, key: (x @ p["w"]) ** 2 * kept(key) / rate, DATA.data)


TIMES = np.linspace(0.0, 0.5, 4)
OTHERS = {
    "random losses": ((0.9, 0.5), lambda rate, **to: short(masked(rate), key=jax.random.key(0), **to)),
    "estimator": ((2, 3), lambda count, **to: short(DATA, estimator=FirstOnes(count), **to)),
    "metric": ((1.0, 2.0), lambda by, **to: short(DATA, metrics={"m": lambda s: by * s.loss}, **to)),
    "record": ((1.0, 2.0), lambda by, **to: short(DATA, record=lambda p: by * p["w"], **to)),
    "record of a flow": (
        (1.0, 2.0),
        lambda by, **to: jf.integrate(
            jf.dynamics.gradient_flow(DATA), PARAMS, TIMES, record=lambda p: by * p["w"], **to
        ),
    ),
    "noise": (
        (1.0, 2.0),
        lambda by, **to: jf.integrate(
            jf.dynamics.langevin(DATA, 0.1 * by), PARAMS, TIMES, key=jax.random.key(0), substeps=2, **to
        ),
    ),
}  # fmt: skip


def short(objective, **given):
    return jf.iterate(jf.optim.gd(0.05), objective, PARAMS, steps=6, **given)


@pytest.mark.parametrize("what", OTHERS)
def test_a_folder_of_a_run_that_shows_nothing_of_its_difference_is_refused(tmp_path, what):
    """Functions of one name that do another thing: only their programs differ."""
    (one, other), go = OTHERS[what]
    first = go(one, checkpoint=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, go(one, checkpoint=tmp_path).values, first.values)
    with pytest.raises(ValueError, match=r"holds another run: its (program|dynamics).* (differs|is)"):
        go(other, checkpoint=tmp_path)
