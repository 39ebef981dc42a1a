"""The one table of optimizers: it misses none, what it names is there and works, what it lacks is refused.

`pytest -s -k matrix` on this file prints the table.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxflow as jf
from jaxflow._text.text_table import text_table
from jaxflow.curvature import preconditioner_of
from jaxflow.dynamics import limit_of, sde_of, stable_flow
from jaxflow.optim.table import ENTRIES, HOMES, OF_OPTAX, Entry, Inherited, Without, entry_of, names_with

pytestmark = pytest.mark.promotes
# Constructors that are no optimizers of their own.
PARTS = {"chain", "alternating", "repeated", "gradient_noise", "l2_regularization"}
FACTS = [name for name in Entry.__dataclass_fields__ if name != "constructor"]
SETTINGS = {
    "lookahead": {"inner": jf.optim.adam(0.1)},
    "newton": {"learning_rate": 0.1},
    "genetic": {"key": jax.random.key(0)},
}
PARAMS = jnp.ones(2)
OBJECTIVE = jf.Objective(lambda w, c: 0.5 * (w**2 @ jnp.ones(2)) + c @ w, jnp.ones((3, 2)))
LINE = jf.Objective(
    jf.problems.PredictionLosses(lambda w, x: x @ w, lambda f, y: 0.5 * (f - y) ** 2),
    {"x": jnp.eye(2), "y": jnp.ones(2)},
)


def made(entry):
    return entry.constructor(**SETTINGS.get(entry.name, {"learning_rate": 0.1}))


def moved(dynamics):
    """A dynamics whose velocity and noise could be traced."""
    state = dynamics.init(PARAMS)
    assert jax.tree.structure(jax.eval_shape(dynamics.drift, 0.0, state)) == jax.tree.structure(state)
    if dynamics.diffusion is not None:
        jax.eval_shape(dynamics.diffusion, 0.0, state, dynamics.brownian(state))
    return dynamics


def preconditioner(optimizer):
    return jax.eval_shape(preconditioner_of, optimizer, optimizer.init(PARAMS))


def shares(optimizer):
    return jax.eval_shape(lambda w: jf.kernels.path_kernel(optimizer, LINE, w, jnp.eye(2), steps=1), PARAMS)


# What is handed to users on the ground of each fact, of an optimizer.
USES = {
    "family": lambda optimizer: jf.family_of(optimizer, 0.1)(0.05),
    "scaling": lambda optimizer: jf.rescale(optimizer, 1, 2),
    "preconditioner": preconditioner,
    "flow": lambda optimizer: moved(limit_of(optimizer, OBJECTIVE)),
    "sde": lambda optimizer: moved(sde_of(optimizer, OBJECTIVE, 2)),
    "central_flow": lambda optimizer: moved(stable_flow(optimizer, OBJECTIVE)),
    "shares": shares,
}


def matrix():
    """A row an optimizer, a column a fact: the formula's name, or the number of the sentence why there is none."""
    reasons, rows = [], [["", *FACTS]]
    for entry in (*ENTRIES, *OF_OPTAX):
        row = [f"optax.{entry.name}" if entry in OF_OPTAX else entry.name]
        for fact in (getattr(entry, name) for name in FACTS):
            if isinstance(fact, Without) and fact.why not in reasons:
                reasons.append(fact.why)
            if isinstance(fact, Inherited):
                fact = f"that of {fact.argument}"
            row.append(f"– [{reasons.index(fact.why) + 1}]" if isinstance(fact, Without) else fact)
        rows.append(row)
    text = text_table(rows, head=0, left=range(len(FACTS) + 1))
    return "\n".join([text, *(f"[{i}] It {why}." for i, why in enumerate(reasons, 1))])


def test_matrix_of_what_is_known():
    text = matrix()
    print(f"\n{text}")
    assert [line.split()[0] for line in text.splitlines()[1 : len(ENTRIES) + 1]] == list(jf.optim.OPTIMIZERS)


def test_every_optimizer_has_one_entry():
    constructors = {name for name, value in vars(jf.optim).items() if hasattr(value, "structural")}
    assert {entry.name for entry in ENTRIES} == constructors - PARTS - set(jf.optim.SCHEDULES)
    for entry in (*ENTRIES, *OF_OPTAX):
        optimizer = jf.optim.traceable(entry.constructor)(**SETTINGS.get(entry.name, {"learning_rate": 0.1}))
        assert entry_of(optimizer) is entry
    for other in (
        optax.adam(0.1),
        jf.optim.traceable(optax.lion)(0.1),
        jf.optim.chain(jf.optim.gd(0.1)),
        None,
    ):
        assert entry_of(other) is None


@pytest.mark.parametrize("fact", HOMES)
def test_what_the_table_names_works_and_what_it_lacks_is_refused(fact):
    """On a quadratic in two dimensions, nothing compiled; the numbers are tested where the formulas are."""
    assert len(names_with(fact)) >= 4
    for entry in ENTRIES:
        if isinstance(getattr(entry, fact), Without):
            with pytest.raises(ValueError, match=rf"(got|of|for) {entry.name}\b"):
                USES[fact](made(entry))
        else:
            assert entry.formula(fact) is not None or isinstance(getattr(entry, fact), Inherited)
            USES[fact](made(entry))
    assert all(entry.formula("family") is not None for entry in OF_OPTAX)
