"""Curvature along the gradients of batches: by enumeration of all batches in NumPy, and by the errors it states."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.curvature import batch_sharpness, record_batch_sharpness

RNG = np.random.default_rng(0)
N, P = 6, 3
HESSIANS = np.array([a @ a.T for a in RNG.normal(size=(N, P, P))])
CENTRES = RNG.normal(size=(N, P))
POINT = np.array([0.5, -1.0, 2.0])
FIELDS = ("sharpness", "mean_quotient", "full_hessian", "squared_gradient")


def bowls(params, batch):
    """½(θ − cᵢ)ᵀHᵢ(θ − cᵢ), of parameters in two leaves."""
    away = jnp.append(params["a"], params["b"])[None] - batch["c"]
    return 0.5 * jnp.einsum("ni,nij,nj->n", away, batch["h"], away)


OBJECTIVE = jf.Objective(bowls, {"h": jnp.array(HESSIANS), "c": jnp.array(CENTRES)})
PARAMS = {"a": jnp.array(POINT[:2]), "b": jnp.array(POINT[2])}


def exact(size, replacement):
    """The four means over all batches of a size, one by one."""
    if replacement:
        batches = list(itertools.product(range(N), repeat=size))
    else:
        batches = list(itertools.combinations(range(N), size))
    slopes = np.einsum("nij,nj->ni", HESSIANS, POINT - CENTRES)
    g = np.array([slopes[list(batch)].mean(0) for batch in batches])
    h = np.array([HESSIANS[list(batch)].mean(0) for batch in batches])
    own = np.einsum("bi,bij,bj->b", g, h, g)
    crossed = np.einsum("bi,ij,bj->b", g, HESSIANS.mean(0), g)
    squared = (g**2).sum(1)
    return dict(
        zip(
            FIELDS,
            (
                own.mean() / squared.mean(),
                (own / squared).mean(),
                crossed.mean() / squared.mean(),
                squared.mean(),
            ),
            strict=True,
        )
    )


def many(size, batches, seeds, replacement=True):
    """Estimates for several keys in one program: by field the values and errors (seeds,)."""
    measure = lambda key: batch_sharpness(
        OBJECTIVE, PARAMS, size, key, batches=batches, replacement=replacement
    )
    found = jax.jit(jax.vmap(measure))(jax.random.split(jax.random.key(1), seeds))
    return {
        name: (np.array(getattr(found, name).value), np.array(getattr(found, name).error)) for name in FIELDS
    }


@pytest.mark.parametrize(("size", "replacement"), [(2, True), (3, False)])
def test_means_over_all_batches_and_their_errors(size, replacement):
    """200 keys, 400 batches each.

    The mean over keys is within 4.5 of its errors: a false alarm in 10⁵ for each of 8. A share of .95 ± .063 of the
    keys is within 1.96 of the errors they state: 4 binomial deviations.
    """
    found = many(size, 400, 200, replacement)
    for name, value in exact(size, replacement).items():
        values, errors = found[name]
        # The bias of a quotient is of the order of a squared relative error, 400⁻¹, which is below this error.
        assert abs(values.mean() - value) < 4.5 * values.std() / np.sqrt(200) + 0.1 * errors.mean(), name
        assert abs((abs(values - value) < 1.96 * errors).mean() - 0.95) < 0.063, name


def test_errors_fall_with_the_square_root_of_the_number_of_batches():
    """The spread of 200 keys is known to 5 %, the ratio of two to 7 %; a quarter is 3.5 deviations: 5e-4."""
    few, more = (many(2, batches, 200)["sharpness"] for batches in (100, 1600))
    assert np.std(few[0]) / np.std(more[0]) == pytest.approx(4, rel=0.25)
    # The errors that are stated are themselves too small by some percent for few batches.
    assert few[1].mean() / more[1].mean() == pytest.approx(4, rel=0.08)
    assert more[1].mean() == pytest.approx(np.std(more[0]), rel=0.18)


def test_linear_regression_on_gaussian_features():
    """ℓ = ½(xᵀθ)² of standard normal x, B = 1: E|x|⁴(xᵀθ)²/E|x|²(xᵀθ)² = P + 4, as |x|² is then χ² of P + 2.

    The Hessian of all data is 1, and so is its quotient. Within 5 errors of 60,000 draws of other data: 6e-7 each.
    """
    data = jf.Objective(lambda w, x: 0.5 * (x @ w) ** 2, jax.random.normal(jax.random.key(0), (20_000, 5)))
    found = batch_sharpness(data, jnp.ones(5), 1, jax.random.key(2), batches=20_000)
    assert abs(found.sharpness.value - 9) < 5 * np.sqrt(2) * found.sharpness.error
    assert abs(found.full_hessian.value - 1) < 5 * np.sqrt(2) * found.full_hessian.error
    assert found.sharpness.error < 0.2


def test_one_program_for_all_numbers():
    count = lambda: programs()["curvature.stability.batches.batch_sharpness"]
    batch_sharpness(OBJECTIVE, PARAMS, 2, jax.random.key(1), batches=5)
    before = count()
    objective, params = jax.tree.map(lambda x: 2 * x, (OBJECTIVE, PARAMS))
    found = batch_sharpness(objective, params, 2, jax.random.key(3), batches=5)
    assert count() == before
    assert repr(found).startswith("BatchSharpness(")


def test_what_is_trained_only():
    """The frozen leaf has neither gradient nor curvature."""
    part = jf.Objective(lambda b, batch: bowls({"a": PARAMS["a"], "b": b}, batch), OBJECTIVE.data)
    key = jax.random.key(4)
    frozen = batch_sharpness(OBJECTIVE, PARAMS, 2, key, batches=8, trainable=lambda path, leaf: path == "b")
    alone = batch_sharpness(part, PARAMS["b"], 2, key, batches=8)
    assert frozen.sharpness.value == pytest.approx(float(alone.sharpness.value), rel=1e-12)


def test_along_a_run_other_batches_at_every_record_and_the_same_run():
    key, measured = jax.random.key(0), jax.random.key(9)
    descend = lambda record=None: jf.iterate(
        jf.optim.gd(0.01), OBJECTIVE, PARAMS, steps=4, every=2, batch_size=2, key=key, record=record
    )
    plain, run = descend(), descend(record_batch_sharpness(OBJECTIVE, 2, measured, batches=300))
    np.testing.assert_array_equal(plain.params["a"], run.params["a"])
    for i in range(3):
        at = jax.tree.map(lambda x: x[i], plain.values)  # noqa: B023
        alone = batch_sharpness(OBJECTIVE, at, 2, jax.random.fold_in(measured, i), batches=300)
        assert run.values.sharpness.value[i] == pytest.approx(float(alone.sharpness.value), rel=1e-12)


def test_bad_batches_are_refused():
    key = jax.random.key(0)
    single = jax.tree.map(lambda x: x[:1], OBJECTIVE)
    refused: list[tuple[str, dict[str, Any]]] = [
        (r"batches must be an integer at least 2, got 1\.", {"batches": 1}),
        (
            r"batch_size must be at most 5 of the 6 .* to have noise, got 6\.",
            {"batch_size": 6, "replacement": False},
        ),
        (r"batch_size must be an integer at least 1, got 0\.", {"batch_size": 0}),
        (r"objective must be one of at least 2 examples", {"objective": single}),
    ]
    before = programs()["curvature.stability.batches.batch_sharpness"]
    for message, change in refused:
        objective, size = change.pop("objective", OBJECTIVE), change.pop("batch_size", 2)
        with pytest.raises(ValueError, match=message):
            batch_sharpness(objective, PARAMS, size, key, **change)
        with pytest.raises(ValueError, match=message):
            record_batch_sharpness(objective, size, key, **change)
    with pytest.raises(TypeError, match="without data"):
        batch_sharpness(lambda x: x @ x, jnp.ones(2), 2, key)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key must be a PRNG key"):
        batch_sharpness(OBJECTIVE, PARAMS, 2, 0)  # type: ignore[arg-type]
    assert programs()["curvature.stability.batches.batch_sharpness"] == before
