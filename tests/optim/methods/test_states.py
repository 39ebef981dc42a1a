"""States as optax's own tools see them: made of shapes alone, parameters told from other numbers."""

import jax
import optax
import pytest
from cases import CASES, START, as_tree, by_id

import jaxflow as jf

pytestmark = pytest.mark.promotes


@pytest.mark.parametrize("case", CASES, **by_id)
def test_abstract_parameters_have_an_abstract_state(case):
    params = as_tree(START)
    optimizer, abstract = case.make(), jax.eval_shape(lambda: params)
    real = jax.eval_shape(lambda: optimizer.init(params))
    assert jax.eval_shape(optimizer.init, abstract) == real
    assert optimizer.init(abstract) == real


@pytest.mark.parametrize("per_leaf", [False, True])
def test_parameters_are_told_from_scalars_in_the_state_of_swats(per_leaf):
    optimizer, params = jf.optim.swats(0.1, per_leaf=per_leaf), as_tree(START)
    state = optimizer.init(params)
    marked = optax.tree_map_params(
        optimizer, lambda _: "params", state, transform_non_params=lambda _: "other"
    )
    assert set(jax.tree.leaves((marked.moments.mu, marked.moments.nu))) == {"params"}
    others = marked._replace(moments=marked.moments.count)
    assert set(jax.tree.leaves(others)) == {"other"}
