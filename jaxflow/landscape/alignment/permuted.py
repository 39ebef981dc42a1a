"""Networks brought into the order of another's hidden units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._losses.models import join_model, split_model
from jaxflow.landscape.alignment.layers import Layer, find_layers
from jaxflow.landscape.alignment.matching import gains_of, is_tied, match
from jaxflow.landscape.paths.ends import require_like_end
from jaxflow.landscape.paths.path import is_traced

PyTree = Any


@dataclass(frozen=True, repr=False, eq=False)
class Alignment:
    """A network in the order of another's hidden units, as `align` returns it.

    - `params`: the network `b` in its new order, a model like `b` which computes the same function.
    - `permutations`: for each hidden layer l the integers (n,): unit i of `params` was unit `permutations[l][i]` of
      `b`.
    - `signs`: for each hidden layer the factors (n,), 1 or −1, of these units; `None` where signs were not matched.
    - `distance`: the 2-norm of `a` less `params`, and `distance_before` that of `a` less `b`.
    - `sweeps`: how many times the layers were gone through, the last time with nothing to gain.
    - `unaligned`: the numbers, from 0 on, of hidden layers with units that cannot be told apart, such as copies of
      each other or units without any weights. Another order of these units is equally near.

    All arrays but those in `params` are NumPy's.
    """

    params: PyTree
    permutations: tuple[np.ndarray, ...]
    signs: tuple[np.ndarray, ...] | None
    distance: float
    distance_before: float
    sweeps: int
    unaligned: tuple[int, ...]

    @property
    def message(self) -> str:
        """How far the networks are apart, how many units moved, and where some cannot be told apart."""
        moved = sum(int(np.sum(order != np.arange(order.size))) for order in self.permutations)
        units = sum(order.size for order in self.permutations)
        said = (
            f"distance {self.distance:.6g}, before {self.distance_before:.6g}; {moved} of {units} units moved"
        )
        if self.signs is not None:
            said += f", {sum(int(np.sum(sign < 0)) for sign in self.signs)} with a new sign"
        if self.unaligned:
            several = "layers" if len(self.unaligned) > 1 else "layer"
            said += (
                f"; not all units of hidden {several} {', '.join(map(str, self.unaligned))} can be told apart"
            )
        return said

    def __repr__(self):
        return f"Alignment({self.message})"


def align(
    a: PyTree,
    b: PyTree,
    *,
    layers: Sequence[str | tuple[str, str]] | None = None,
    signs: bool = False,
) -> Alignment:
    r"""Put the hidden units of one network into the order in which its weights are nearest to another's.

    Another order of its hidden units leaves the function of a network as it is, but moves its parameters. With
    kernels $W_l$ (in, out) and biases $c_l$, permutations $P_l$ of the hidden units are sought that attain

    $$\max_{P} \sum_l \langle W^a_l, P_{l-1}^T W^b_l P_l \rangle + \langle c^a_l, P_l^T c^b_l \rangle,$$

    which makes $|a - b|$ least. For one hidden layer, with the others held as they are, this is an assignment
    problem, which is solved exactly. So the layers are visited one by one, from the last to the first, until none
    changes. With one hidden layer the result is the best of all; with more, no change of a single layer improves
    it.

    **Arguments**

    - `a`, `b`: two networks, pytrees of one structure and shape. Each hidden unit's numbers must be in dense layers:
      a kernel `w`, `kernel` or `weight`, and possibly a bias `b` or `bias`; pairs (kernel, bias); or bare matrices.
      Kernels are (in, out), those called `weight` (out, in) as in Equinox and PyTorch; where the layers fit in
      sequence only the other way round, that is taken.
    - `layers`: the names of the layers from the input to the output, as `jax.tree_util.keystr(path, simple=True,
      separator="/")` has them, such as `("params/Dense_0", "params/Dense_1")`; or pairs of the names of a kernel and
      its bias, `(("w1", "b1"), ("w2", "b2"))`. Default: the entries of the one list or tuple that holds all layers,
      such as those of `problems.mlp` or `eqx.nn.MLP`.
    - `signs`: whether the signs of units are matched as well. This is right for odd activations only, such as tanh,
      as $\sigma(-x) = -\sigma(x)$; with any other the function of the network would change.

    **Returns** an `Alignment`, whose `params` are `b` in its new order. It is computed by NumPy and SciPy, so `align`
    does not work under `jit` or `vmap`.

    **Raises** `TypeError` for networks that are not of one structure, or traced, or not real, or for `layers` that
    are not names; `ValueError` for other shapes, numbers that are not finite, parameters outside of dense layers,
    such as those of convolutions and normalisation, layers that do not fit in sequence, or no hidden layer.

    Source: Ainsworth, Hayase & Srinivasa 2023, 2209.04836 (weight matching); signs as in Chen, Lu & Hecht-Nielsen
    1993.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
    >>> b = [jnp.array([[2.25, 1.25]]), jnp.array([[4.0], [3.0]])]
    >>> found = jf.landscape.align(a, b)
    >>> print(found.params[0], found.permutations)
    [[1.25 2.25]] (array([1, 0]),)
    >>> found
    Alignment(distance 0.353553, before 2.03101; 2 of 2 units moved)
    """
    first, _ = split_model(a)
    last, rest = split_model(b)
    require_like_end("b", last, first)
    for name, tree in (("a", first), ("b", last)):
        _require_numbers(name, tree)
    found = find_layers(first, layers)
    leaves, structure = jax.tree.flatten(last)
    one = [layer.matrix(jax.tree.leaves(first)) for layer in found]
    other = [layer.matrix(leaves) for layer in found]
    away = lambda stack: float(np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(one, stack, strict=True))))
    best = match(one, other, signs)
    hidden = range(len(best.permutations))
    moved = _reorder(leaves, found, best.permutations, best.signs)
    return Alignment(
        params=join_model(jax.tree.unflatten(structure, moved), rest),
        permutations=tuple(best.permutations),
        signs=tuple(best.signs) if signs else None,
        distance=away(best.stack),
        distance_before=away(other),
        sweeps=best.sweeps,
        unaligned=tuple(l for l in hidden if is_tied(gains_of(one, best.stack, l), signs)),
    )


def _require_numbers(name: str, tree: PyTree) -> None:
    """Refuse leaves that are traced, complex or not finite."""
    for leaf in jax.tree.leaves(tree):
        if is_traced(leaf):
            raise TypeError(f"{name} must hold numbers, as the order of units depends on them, got {leaf!r}.")
        if jnp.iscomplexobj(leaf):
            raise TypeError(f"{name} must be a pytree of real arrays, got dtype {jnp.result_type(leaf)}.")
        if not np.isfinite(np.asarray(leaf).astype(float)).all():
            raise ValueError(f"{name} must be finite, got an array of shape {np.shape(leaf)} that is not.")


def _reorder(
    leaves: list[Any], layers: list[Layer], permutations: list[np.ndarray], signs: list[np.ndarray]
) -> list[Any]:
    """The leaves of a network with the units of its hidden layers in a new order and with new signs."""
    moved = [np.asarray(leaf) for leaf in leaves]
    for l, (order, sign) in enumerate(zip(permutations, signs, strict=True)):
        into, out = layers[l], layers[l + 1]
        axes = (into.kernel, 0 if into.flipped else 1), (out.kernel, 1 if out.flipped else 0), (into.bias, 0)
        for i, axis in axes:
            if i is not None:
                units = np.moveaxis(moved[i], axis, -1)[..., order]
                moved[i] = np.moveaxis(units * sign.astype(units.dtype), -1, axis)
    return [
        jnp.asarray(new) if isinstance(leaf, jax.Array) else new
        for new, leaf in zip(moved, leaves, strict=True)
    ]
