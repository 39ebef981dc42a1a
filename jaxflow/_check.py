"""Checks at the door: bad arguments are refused in one sentence before anything compiles.

A tracer, or what stands for an array on its way through `vmap`, has no value to be read, so it passes. A check
reads Python and NumPy scalars, and all elements of concrete NumPy and JAX arrays.
"""

import difflib
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

PyTree = Any


def is_concrete(value: Any) -> bool:
    """Whether `value` is a plain number, whose value may be read."""
    return isinstance(value, (numbers.Number, np.number)) and not isinstance(value, bool)


def values(value: Any) -> np.ndarray | None:
    """The numbers in a number or an array, real ones in double precision; `None` where they are not concrete."""
    if is_concrete(value):
        return np.asarray(value)
    if not isinstance(value, (np.ndarray, jax.Array)) or isinstance(value, Tracer):
        return None
    if isinstance(value, jax.Array) and (value.is_deleted() or not value.is_fully_addressable):
        return None
    if not (jax.numpy.issubdtype(value.dtype, np.number) or value.dtype == bool):
        return None
    found = np.asarray(jax.device_get(value))  # asked for, as a guard against transfers wants it
    return found if found.dtype.kind in "bc" else found.astype(np.float64)


def found_now(compute: Callable[[], PyTree]) -> PyTree | None:
    """What `compute` returns, computed at once even where a caller is being traced.

    `None` where it depends on what is traced, and so has no numbers yet.
    """
    found = compute()
    if _is_traced(found):  # operations one by one are programs of their own, so only there
        with jax.ensure_compile_time_eval():
            found = compute()
    return None if _is_traced(found) else found


def _is_traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def refuse_traced(called: str, given: PyTree) -> None:
    """Refuse a function that computes on the host where anything is traced: `given`, or all that happens here."""
    if _is_traced((given, jax.numpy.zeros(()))):
        raise TypeError(
            f"params must be concrete, as {called} computes on the host: call it outside of jit and vmap."
        )


def require(name: str, value: Any, allowed: bool, rule: str) -> None:
    """Raise a `ValueError` that names the argument, its value and the rule, unless `allowed`."""
    if not allowed:
        raise ValueError(f"{name} must be {rule}, got {value!r}.")


def _check_real(name: str, value: Any, test, rule: str) -> None:
    if is_concrete(value):
        if isinstance(value, complex):
            raise TypeError(f"{name} must be {rule}, got the complex number {value!r}.")
        require(name, value, math.isfinite(value) and test(value), rule)
    elif (found := values(value)) is not None:
        if found.dtype.kind in "bc":
            raise TypeError(f"{name} must be {rule}, got an array of dtype {found.dtype}.")
        require_each(name, found, np.isfinite(found) & test(found), rule)
    elif isinstance(value, (str, bytes, bool, type(None))):
        raise TypeError(f"{name} must be {rule}, got {value!r}.")


def require_each(name: str, found: np.ndarray, allowed: np.ndarray, rule: str) -> None:
    """Raise a `ValueError` that names the first of the numbers `found` which is not allowed."""
    if not allowed.all():
        among = " among its values" if found.ndim else ""
        raise ValueError(f"{name} must be {rule}, got {found[~allowed].flat[0]:.6g}{among}.")


def require_nonnegative(**values: Any) -> None:
    """Each keyword's values, where they are concrete, must be finite and at least 0."""
    for name, value in values.items():
        _check_real(name, value, lambda v: v >= 0, "a finite number at least 0")


def require_positive(**values: Any) -> None:
    """Each keyword's values, where they are concrete, must be finite and above 0."""
    for name, value in values.items():
        _check_real(name, value, lambda v: v > 0, "a finite number above 0")


def require_fraction(**values: Any) -> None:
    """Each keyword's values, where they are concrete, must lie in [0, 1)."""
    for name, value in values.items():
        _check_real(name, value, lambda v: (v >= 0) & (v < 1), "in [0, 1)")


def require_integer(name: str, value: Any, least: int) -> None:
    """A static count: a Python or NumPy integer at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer at least {least}, got {value!r}.")
    require(name, value, bool(value >= least), f"an integer at least {least}")


def require_count(name: str, value: Any, least: int) -> None:
    """A count that may be traced: an integer, or an array of whole numbers, as constructors keep one."""
    if not isinstance(value, (np.ndarray, jax.Array)):
        require_integer(name, value, least)
        return
    if (found := values(value)) is None:
        return
    if found.dtype.kind in "bc":
        raise TypeError(f"{name} must be an integer at least {least}, got an array of dtype {value.dtype}.")
    require_each(name, found, (found >= least) & (found % 1 == 0), f"an integer at least {least}")


def random_key(key: Any) -> Any:
    """The random key itself, checked: a typed one, or the raw array that `jax.random.PRNGKey` makes."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
        return key
    if dtype != np.uint32 or len(shape or ()) != 1:
        got = f"{dtype} of shape {shape}" if shape else repr(key)
        raise TypeError(f"key must be a PRNG key such as jax.random.key(0), got {got}.")
    default = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    if shape != jax.eval_shape(lambda: jax.random.PRNGKey(0)).shape:
        raise TypeError(
            f"key must be a PRNG key such as jax.random.key(0), got a raw array of shape {shape}, which is not "
            f"JAX's default kind, {default}; jax.random.wrap_key_data(key, impl=…) tells which kind it is."
        )
    return key


def require_like(
    name: str,
    tree: PyTree,
    like: PyTree,
    rule: str,
    shapes: str = "",
    structures: type[Exception] = ValueError,
) -> None:
    """Refuse a pytree whose structure, or the shapes of whose leaves, are not those of another.

    `f"{name} must {rule}"` begins the sentence. The text `shapes` takes the place of the rule where only shapes
    differ, and `structures` is the error where the structures do. Leaves are arrays, traced or not, numbers, or what
    `jax.eval_shape` makes. The cause of the error is chex's account of the first difference. chex is not asked
    whether there is one, as `chex.disable_asserts()` would switch the refusal off, and it is imported only then.
    """
    structure, expected = jax.tree.structure(tree), jax.tree.structure(like)
    described, allowed = (f"with leaves of shapes {leaf_shapes(x)}" for x in (tree, like))
    if structure == expected and described == allowed:
        return
    import chex

    cause = None
    try:
        chex.assert_trees_all_equal_shapes(*(jax.tree.map(_shape_of, x) for x in (like, tree)))
    except AssertionError as difference:
        cause = difference
    if described == allowed:
        described, allowed = f"of structure {structure}", f"of structure {expected}"
    rule, error = (rule, structures) if structure != expected else (shapes or rule, ValueError)
    raise error(f"{name} must {rule}, {allowed}, got {type(tree).__name__} {described}.") from cause


def leaf_shapes(tree: PyTree) -> list[tuple[int, ...]]:
    """The shapes of the leaves of a pytree, in their order."""
    return [np.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), getattr(leaf, "dtype", float))


def require_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse anything but one of a set of names; the nearest one is suggested."""
    allowed = list(allowed)
    if not allowed:
        raise ValueError(f"{name} must be left out, as there is nothing to choose from, got {value!r}.")
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(sorted(allowed))}; got {value!r}.{hint}")
