"""Pytrees that are not like another are refused in one sentence, whose cause is chex's account of the difference."""

import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import _check

LIKE = {"a": np.zeros(2), "b": np.zeros((2, 3))}
SHAPES = r"with leaves of shapes \[\(2,\), \(2, 3\)\]"


def check(tree, like=LIKE, **options):
    _check.require_like("x", tree, like, "be like params", **options)


@pytest.mark.parametrize(
    ("tree", "message", "cause"),
    [
        (
            {"a": np.zeros(2), "b": np.zeros((3, 2))},
            rf"^x must be like params, {SHAPES}, got dict with leaves of shapes \[\(2,\), \(3, 2\)\]\.$",
            r"leaves 'b'.*\(2, 3\) != \(3, 2\)",
        ),
        (
            [0.0, 1],
            rf"^x must be like params, {SHAPES}, got list with leaves of shapes \[\(\), \(\)\]\.$",
            "structs",
        ),
        (
            {"a": np.zeros(2), "c": np.zeros((2, 3))},
            r"^x must be like params, of structure .*'a': \*, 'b'.*, got dict of structure .*'a': \*, 'c'.*\.$",
            "structs",
        ),
        (None, rf"{SHAPES}, got NoneType with leaves of shapes \[\]", "structs"),
    ],
    ids=["shape", "list", "key", "nothing"],
)
def test_what_differs_is_told(tree, message, cause):
    with pytest.raises(ValueError, match=message) as refusal:
        check(tree)
    assert "\n" not in str(refusal.value)
    assert isinstance(refusal.value.__cause__, AssertionError)
    assert re.search(cause, str(refusal.value.__cause__))


def test_another_rule_and_error():
    with pytest.raises(TypeError, match="x must be like params"):
        check([0.0], shapes="have other shapes", structures=TypeError)
    with pytest.raises(ValueError, match="x must have other shapes"):
        check({"a": 0.0, "b": 1.0}, shapes="have other shapes", structures=TypeError)


def test_shapes_are_all_that_counts():
    """Dtypes may differ; tracers, numbers and the shapes that `eval_shape` makes are leaves."""
    check({"a": np.ones(2, np.float32), "b": jnp.ones((2, 3), int)})
    check(jax.eval_shape(lambda: LIKE))
    check((1, 2.0), (0.0, jnp.zeros(())))
    assert jax.jit(lambda tree: check(tree) or 1)(LIKE) == 1
    with pytest.raises(ValueError, match="x must be like params"):
        jax.vmap(check)(LIKE)
    with pytest.raises(ValueError, match="of structure"):  # a named tuple equals the tuple of its entries
        check(optax.EmptyState(), ())


def test_refusals_stay_where_asserts_are_off():
    chex.disable_asserts()
    try:
        with pytest.raises(ValueError, match="x must be like params"):
            check([])
    finally:
        chex.enable_asserts()


def test_what_is_slow_to_import_is_not_waited_for():
    slow = "{'chex', 'diffrax', 'scipy'}"
    code = f"import sys, jaxflow; sys.exit(bool({slow} & set(sys.modules)))"
    assert not subprocess.run([sys.executable, "-c", code], check=False).returncode
