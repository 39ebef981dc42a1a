"""optax's constructors as optimizers of ours: the same steps to rounding, and a sentence where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import START, loss

import jaxflow as jf
from jaxflow._traceable import function_of
from jaxflow.curvature import preconditioner_of
from jaxflow.optim.optax_names import TRANSLATIONS, as_ours
from jaxflow.optim.table import Without

pytestmark = pytest.mark.promotes
T = jf.optim.traceable
SCHEDULE = optax.cosine_decay_schedule(0.05, 40)
# No setting is at its default or without effect, so that one that is lost on the way is noticed.
SAME = [
    (T(optax.sgd)(0.03), "gd"),
    (T(optax.sgd)(SCHEDULE), "gd"),
    (T(optax.sgd)(0.03, nesterov=True), "gd"),  # without momentum there is nothing to look ahead along
    (T(optax.sgd)(0.03, 0.8), "momentum"),
    (T(optax.sgd)(SCHEDULE, 0.8, nesterov=True), "nesterov"),
    (T(optax.sign_sgd)(0.03), "sign"),
    (T(optax.adam)(0.03, 0.8, 0.95, 0.1), "adam"),
    (T(optax.adam)(SCHEDULE, 0.8, 0.95, 0.1, nesterov=True), "nadam"),
    (T(optax.nadam)(SCHEDULE, 0.8, 0.95, 0.1), "nadam"),  # a functools.partial of optax.adam
    (T(optax.adamw)(0.03, 0.8, 0.95, 0.1, weight_decay=0.2), "adamw"),
    (T(optax.amsgrad)(0.03, 0.8, 0.95, 0.1, bias_correction_mu=False, bias_correction_nu=False), "amsgrad"),
    (T(optax.radam)(0.03, 0.8, 0.95, 0.1, threshold=4.5), "radam"),
    (T(optax.rmsprop)(0.03, 0.8, 0.1), "rmsprop"),
    (T(optax.rmsprop)(0.03, 0.8, 0.1, eps_in_sqrt=False, nesterov=True), "rmsprop"),
    (T(optax.adagrad)(0.03, 0.2, 0.1), "adagrad"),
]
DIFFERENT = [
    (T(optax.sgd)(0.1, 0.9, accumulator_dtype=jnp.float32), "in a dtype of its own"),
    (T(optax.nadamw)(0.1), "adds Nesterov's momentum"),
    (T(optax.adam)(0.1, mu_dtype=jnp.float32), "in a dtype of its own"),
    (T(optax.adam)(0.1, eps_root=0.1), "eps_root, which must be 0"),
    (T(optax.radam)(0.1, eps_root=0.1), "eps_root, which must be 0"),
    (T(optax.radam)(0.1, nesterov=True), "Nesterov's momentum"),
    (T(optax.adamw)(0.1, nesterov=True), "Nesterov's momentum"),
    (T(optax.adamw)(0.1, eps_root=0.1), "eps_root, which must be 0"),
    (T(optax.adamw)(0.1, mask=True), "of a mask only"),
    (T(optax.adamw)(0.1, weight_decay=SCHEDULE), "schedule as its weight decay"),
    (T(optax.amsgrad)(0.1), "maximum over the corrected"),
    (T(optax.rmsprop)(0.1, centered=True), "spread of the gradients"),
    (T(optax.rmsprop)(0.1, momentum=0.9), "adds momentum to RMSProp"),
    (T(optax.rmsprop)(0.1, bias_correction=True), "corrects the bias"),
    (T(optax.rmsprop)(0.1, initial_scale=1.0), "initial_scale, which must be 0"),
    (T(optax.add_decayed_weights)(0.1, mask=True), "of a mask only"),
    (T(optax.add_decayed_weights)(SCHEDULE), "schedule as its weight decay"),
]


def test_every_translation_is_tried():
    tried = {function_of(optimizer.constructor.body) for optimizer, _ in SAME}
    assert tried | {optax.add_decayed_weights} == set(TRANSLATIONS)


@pytest.mark.parametrize(("theirs", "name"), SAME, ids=lambda value: repr(value)[:60])
def test_iterates_are_the_same_to_rounding(theirs, name):
    ours = as_ours(theirs)
    assert ours.constructor is getattr(jf.optim, name)
    runs = [jf.iterate(optimizer, loss, jnp.asarray(START), steps=30).values for optimizer in (theirs, ours)]
    np.testing.assert_allclose(*runs, rtol=0, atol=1e-13)
    assert np.abs(runs[0][-1] - START).max() > 0.1


@pytest.mark.parametrize(("theirs", "name"), SAME, ids=lambda value: repr(value)[:60])
def test_the_preconditioner_is_that_of_the_same_steps(theirs, name):
    ours = as_ours(theirs)
    found = []
    for optimizer in (theirs, ours):
        run = jf.iterate(optimizer, loss, jnp.asarray(START), steps=7)
        found.append(preconditioner_of(optimizer, run.state))
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_decayed_weights_are_the_penalty():
    theirs, ours = T(optax.add_decayed_weights)(0.3), jf.optim.l2_regularization(0.3)
    assert repr(as_ours(theirs)) == repr(ours)
    updates = [
        t.update(jnp.ones(4), t.init(jnp.asarray(START)), jnp.asarray(START))[0] for t in (theirs, ours)
    ]
    np.testing.assert_array_equal(*updates)


@pytest.mark.parametrize(("theirs", "why"), DIFFERENT, ids=lambda value: repr(value)[:60])
def test_what_is_another_method_is_told(theirs, why):
    assert isinstance(found := as_ours(theirs), Without)
    assert why in found.why


def test_others_are_returned_as_they_are():
    for other in (jf.optim.adam(0.1), T(optax.lion)(0.1), optax.adam(0.1), None):
        assert as_ours(other) is other


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (optax.adam, "eps_root"),
        (optax.adamw, "eps_root"),
        (optax.radam, "eps_root"),
        (optax.rmsprop, "initial_scale"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_traced_number_that_must_be_zero_spoils_the_result_where_it_is_not(make, number):
    """No equation of another method comes out, and one of the same method does."""
    chosen = jax.jit(
        lambda optimizer: [as_ours(optimizer).hyperparameters[n] for n in ("learning_rate", "eps")]
    )
    np.testing.assert_allclose(chosen(T(make)(0.3, eps=0.1)), [0.3, 0.1])
    np.testing.assert_allclose(chosen(T(make)(0.3, eps=0.1, **{number: 0.2})), [0.3, np.nan])
    stack = jax.vmap(T(make))(jnp.array([0.1, 0.2]))
    assert as_ours(stack).constructor.__name__ == make.__name__


# --- What is known of ours is known of optax's ---


def test_rules_return_an_optimizer_of_the_kind_that_was_given():
    for theirs, ours in (
        (T(optax.adam)(0.1), jf.optim.adam(0.1)),
        (T(optax.adamw)(0.1, weight_decay=0.3), jf.optim.adamw(0.1, weight_decay=0.3)),
        (T(optax.rmsprop)(0.1, eps=1e-3), jf.optim.rmsprop(0.1, eps=1e-3, eps_in_sqrt=True)),
        (T(optax.sgd)(0.1, 0.9), jf.optim.momentum(0.1)),
        (T(optax.adagrad)(0.1), jf.optim.adagrad(0.1, 1e-7, initial_accumulator=0.1, eps_in_sqrt=True)),
    ):
        if theirs.constructor.body is not optax.adagrad:
            found = jf.rescale(theirs, 1, 4)
            assert found.constructor is theirs.constructor
            assert repr(as_ours(found)) == repr(jf.rescale(ours, 1, 4))
        assert repr(as_ours(jf.family_of(theirs)(0.05))) == repr(jf.family_of(ours)(0.05))


@pytest.mark.parametrize(
    "theirs",
    [T(optax.sgd)(0.1), T(optax.rmsprop)(0.1), T(optax.adagrad)(0.1)],
    ids=["gd", "rmsprop", "adagrad"],
)
def test_central_and_stable_flows(theirs):
    objective = lambda x: jnp.sum(jnp.cosh(x))
    start = jnp.array([1.0, 0.5])
    flows = [jf.dynamics.stable_flow(optimizer, objective) for optimizer in (theirs, as_ours(theirs))]
    runs = [jf.iterate(optimizer, objective, start, steps=3) for optimizer in (theirs, as_ours(theirs))]
    states = [jf.dynamics.flow_state(flow, run) for flow, run in zip(flows, runs, strict=True)]
    jax.tree.map(np.testing.assert_allclose, *states)
    drift = jax.jit(lambda flow, state: flow.drift(0.0, state))
    drifts = [drift(flow, state) for flow, state in zip(flows, states, strict=True)]
    jax.tree.map(np.testing.assert_allclose, *drifts)
    back = jf.dynamics.optimizer_state(theirs, objective, states[0])
    assert jax.tree.structure(back) == jax.tree.structure(runs[0].state.optimizer)


@pytest.mark.parametrize(
    "use",
    [
        lambda o: jf.rescale(o, 1, 2),
        lambda o: preconditioner_of(o, o.init(jnp.ones(2))),
        lambda o: jf.dynamics.limit_of(o, jnp.sum),
        lambda o: jf.dynamics.sde_of(o, jf.Objective(lambda w, c: c * w, jnp.ones(2)), 1),
        lambda o: jf.dynamics.stable_flow(o, jnp.sum).drift(0.0, None),
    ],
    ids=["rescale", "preconditioner", "limit", "sde", "stable"],
)
def test_refusals_say_why(use):
    with pytest.raises(ValueError, match=r"rmsprop.*, which divides by the spread"):
        use(T(optax.rmsprop)(0.1, centered=True))
