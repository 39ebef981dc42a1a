"""A state that a model carries beside its parameters: batch normalisation in training, frozen everywhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes
X = np.asarray(jax.random.normal(jax.random.key(0), (12, 3))) + 1.0
Y = np.sin(X).sum(1)
PARAMS = {"w": jnp.array([0.3, -0.2, 0.5]), "gain": jnp.ones(3)}
STATE = {"mean": jnp.zeros(3), "var": jnp.ones(3)}


def normalised(params, batch, mean, var):
    """Linear regression of normalised inputs."""
    loss = lambda x, y: 0.5 * (((x - mean) / jnp.sqrt(var + 1e-3) * params["gain"]) @ params["w"] - y) ** 2
    return jax.vmap(loss)(*batch)


def train_losses(params, batch, state):
    """With the averages of the batch, which the state follows."""
    fresh = {"mean": batch[0].mean(0), "var": batch[0].var(0)}
    state = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state, fresh)
    return normalised(params, batch, **fresh), state


def eval_losses(params, batch, state):
    """With the averages that the state holds."""
    return normalised(params, batch, **state), state


TRAIN = jf.Objective(train_losses, (X, Y), state=STATE)


def loop(optimizer, batches):
    """A loop over optax that carries the state."""

    @jax.jit
    def step(params, state, model, batch):
        mean = lambda p: (lambda l, s: (l.mean(), s))(*train_losses(p, batch, model))
        slope, model = jax.grad(mean, has_aux=True)(params)
        updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state, model

    params, state, model = PARAMS, optimizer.init(PARAMS), STATE
    for batch in batches:
        params, state, model = step(params, state, model, batch)
    return params, model


def close(a, b):
    """Equal but for what two programs round, in parameters of size 1."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12), a, b)


def test_iterates_carry_the_state_as_a_loop_does():
    run = jf.iterate(jf.optim.adam(0.05), TRAIN, PARAMS, steps=7)
    close((run.params, run.state.model), loop(optax.adam(0.05), [(X, Y)] * 7))


def test_batches_of_a_stream_carry_it_too_and_go_on():
    batches = [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8, 2)]
    drawn = jf.Objective(train_losses, state=STATE)
    stream = lambda params, batches, **more: jf.iterate(
        jf.optim.adam(0.05), drawn, params, steps=len(batches), estimator=batches, **more
    )
    whole = stream(PARAMS, batches)
    close((whole.params, whole.state.model), loop(optax.adam(0.05), batches))
    first = stream(PARAMS, batches[:3])
    close(stream(first.params, batches[3:], state=first.state).state.model, whole.state.model)


def test_metrics_see_the_state_after_each_step():
    """Of all data, of a stream, of a run that goes on and of one in pieces: those of the loop, step by step."""
    told = {"mean": lambda step: step.model["mean"], "loss": jf.solve.metrics.loss}
    batches = [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8, 2)]
    drawn = jf.Objective(train_losses, state=STATE)
    optimizer = jf.optim.adam(0.05)
    go = lambda params, steps, **more: jf.iterate(optimizer, TRAIN, params, steps=steps, metrics=told, **more)
    streamed = jf.iterate(optimizer, drawn, PARAMS, steps=4, estimator=batches, metrics=told)
    whole, first = go(PARAMS, 4), go(PARAMS, 2)
    rest, pieces = go(first.params, 2, state=first.state), go(PARAMS, 4, progress=True)
    for run, data in ((whole, [(X, Y)] * 4), (streamed, batches)):
        means = [loop(optax.adam(0.05), data[:steps])[1]["mean"] for steps in range(1, 5)]
        close(run.metrics["mean"], np.stack([STATE["mean"], *means]))
    close(rest.metrics["mean"], whole.metrics["mean"][2:])
    close(pieces.metrics["mean"], whole.metrics["mean"])


def test_a_run_on_batches_goes_on_and_is_saved(tmp_path):
    run = lambda params, steps, **more: jf.iterate(
        jf.optim.gd(0.05), TRAIN, params, steps=steps, batch_size=4, **more
    )
    whole, first = (run(PARAMS, steps, key=jax.random.key(1)) for steps in (9, 4))
    first.save(tmp_path / "run.npz")
    first = jf.Trajectory.load(tmp_path / "run.npz", like=first)
    rest = run(first.params, 5, state=first.state)
    close((rest.params, rest.state.model), (whole.params, whole.state.model))
    kept = run(PARAMS, 9, key=jax.random.key(1), checkpoint=tmp_path / "kept")
    close(kept.state.model, whole.state.model)


def test_elsewhere_the_state_stays():
    model = jf.iterate(jf.optim.adam(0.05), TRAIN, PARAMS, steps=20).state.model
    frozen = jf.Objective(eval_losses, (X, Y), state=model)
    plain = jf.Objective(lambda p, batch: eval_losses(p, batch, model)[0], (X, Y))
    times = np.array([0.0, 0.3])
    close(frozen(PARAMS), plain(PARAMS))
    for make in (jf.dynamics.gradient_flow, lambda o: jf.dynamics.modified(jf.optim.gd(0.1), o)):
        close(*(jf.integrate(make(objective), PARAMS, times).params for objective in (frozen, plain)))
    paths = [
        jf.integrate(jf.dynamics.sgd(objective, 0.1, 2), PARAMS, times, key=jax.random.key(0)).params
        for objective in (frozen, plain)
    ]
    close(*paths)
    close(*(jf.noise_scale(objective, PARAMS).trace for objective in (frozen, plain)))
    close(*(jf.curvature.top_eigenpairs(objective, PARAMS, 1).values for objective in (frozen, plain)))


def test_with_dropout():
    """Random losses with a state: the keys are those of losses without one."""

    def losses(params, batch, state, key):
        kept = jax.vmap(lambda k: jax.random.bernoulli(k, 0.5))(key)
        found, state = train_losses(params, batch, state)
        return found * kept, state

    objective = jf.Objective(losses, (X, Y), state=STATE, draws=3)
    run = jf.iterate(jf.optim.gd(0.05), objective, PARAMS, steps=5, key=jax.random.key(0))
    again = jf.iterate(jf.optim.gd(0.05), objective, PARAMS, steps=5, key=jax.random.key(0))
    close(run.params, again.params)
    close(run.state.model["mean"], loop(optax.sgd(0.05), [(X, Y)] * 5)[1]["mean"])  # of the inputs alone
    assert jnp.isfinite(objective(PARAMS))


def test_whole_models_and_other_states_compile_once():
    from jaxflow._compiled import programs

    count = lambda: programs()["solve.iteration.iterate"]
    model = PARAMS | {"act": jnp.tanh}
    apply = lambda p, batch, state: train_losses({k: p[k] for k in PARAMS}, batch, state)
    go = lambda shift: jf.iterate(
        jf.optim.gd(0.05),
        jf.Objective(apply, (X, Y), state=jax.tree.map(lambda x: x + shift, STATE)),
        model,
        steps=3,
    )
    go(0.0)
    before = count()
    assert go(1.0).params["act"] is jnp.tanh
    assert count() == before


def test_what_does_not_fit_is_refused():
    jf.Objective(lambda params, batch, **state: X[:, 0], (X, Y))  # takes one, and needs none
    with pytest.raises(ValueError, match="state must be given for losses with an argument named state"):
        jf.Objective(train_losses, (X, Y))
    with pytest.raises(ValueError, match="state must be None for losses without an argument named state"):
        jf.Objective(lambda params, batch: X[:, 0], (X, Y), state=STATE)
    with pytest.raises(ValueError, match="chunk must be None for losses with a state"):
        jf.Objective(train_losses, (X, Y), chunk=2, state=STATE)
    bare = jf.Objective(lambda p, batch, state: eval_losses(p, batch, state)[0], (X, Y), state=STATE)
    with pytest.raises(
        TypeError, match="losses with a state must return a pair, the losses and the new state"
    ):
        bare(PARAMS)
    grown = jf.Objective(
        lambda p, b, state: (eval_losses(p, b, state)[0], {"mean": X[0]}), (X, Y), state=STATE
    )
    with pytest.raises(ValueError, match="state must be returned by the losses as it was given to them"):
        jf.iterate(jf.optim.gd(0.1), grown, PARAMS, steps=1)
