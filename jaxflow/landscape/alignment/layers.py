"""The dense layers of a network, found in its pytree: which leaf is a kernel, which a bias, which axis is which."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.tree_util import SequenceKey

PyTree = Any
Names = Sequence[str | tuple[str, str]]

KERNELS = {"w": False, "kernel": False, "weight": True}  # and whether its first axis is that of the outputs
BIASES = {"b", "bias"}


@dataclass(frozen=True)
class Layer:
    """A dense layer: its name, the numbers of its leaves, and whether its kernel is stored (out, in)."""

    name: str
    kernel: int
    bias: int | None
    flipped: bool

    def matrix(self, leaves: Sequence[Any]) -> np.ndarray:
        """The kernel (in, out), and below it the bias as one more row, in double precision."""
        kernel = np.asarray(leaves[self.kernel]).astype(float)
        kernel = kernel.T if self.flipped else kernel
        bias = np.zeros(kernel.shape[1]) if self.bias is None else np.asarray(leaves[self.bias]).astype(float)
        return np.concatenate([kernel, bias[None]])


def name_of(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def find_layers(params: PyTree, names: Names | None) -> list[Layer]:
    """The layers in their order, each with one kernel and no or one bias; every leaf belongs to one of them."""
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(params), strict=True)
    paths = tuple(path[:-1] if name_of(path).endswith("/value") else path for path in paths)  # of flax.nnx
    shapes = [np.shape(leaf) for leaf in leaves]
    names = _names_in_a_list(paths, shapes) if names is None else _check_given_names(names)
    number = {name_of(path): i for i, path in enumerate(paths)}
    layers = [_layer(name, number, shapes) for name in names]
    taken = [i for layer in layers for i in (layer.kernel, layer.bias) if i is not None]
    if left := [name for name, i in number.items() if i not in taken]:
        raise ValueError(
            f"layers must hold all parameters, as a unit that moves takes its own along; {left[0]!r} of shape "
            f"{shapes[number[left[0]]]} belongs to no dense layer."
        )
    if len(layers) < 2 or len(set(taken)) < len(taken):
        raise ValueError(
            "layers must be at least two different ones, between which there are hidden units, got "
            f"{', '.join(repr(layer.name) for layer in layers) or 'none'}."
        )
    return _put_in_sequence(layers, shapes)


def _check_given_names(names: Any) -> Names:
    pair = lambda name: isinstance(name, tuple) and len(name) == 2 and all(isinstance(x, str) for x in name)
    if (
        isinstance(names, str)
        or not isinstance(names, Sequence)
        or not all(isinstance(name, str) or pair(name) for name in names)
    ):
        raise TypeError(
            "layers must be a sequence of names such as ('params/Dense_0', 'params/Dense_1'), or of pairs of the "
            f"names of a kernel and a bias, got {names!r}."
        )
    return names


def _names_in_a_list(paths: Sequence[tuple], shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """The names of the layers of a model that holds them in one list or tuple, which alone tells their order."""
    siblings: dict[tuple, list] = {}
    for path, shape in zip(paths, shapes, strict=True):
        siblings.setdefault(path[:-1], []).append((path[-1:], len(shape)))

    def owner(path):
        keys, sizes = zip(*siblings[path[:-1]], strict=True)
        in_order = path and all(isinstance(key[0], SequenceKey) for key in keys if key)
        is_pair = in_order and sizes == (2, 1)
        return path if in_order and not is_pair else path[:-1]

    owners = list(dict.fromkeys(map(owner, paths)))
    if len({path[:-1] for path in owners}) > 1 or not all(
        path and isinstance(path[-1], SequenceKey) for path in owners
    ):
        known = tuple(map(name_of, owners if all(owners) else paths))
        raise ValueError(
            "layers must be given, in the order of computation, for a model that does not hold all its parameters "
            f"in one list of layers; its parts are {', '.join(known) or 'one array'}."
        )
    return list(map(name_of, owners))


def _layer(name: str | tuple[str, str], number: dict[str, int], shapes: Sequence[tuple[int, ...]]) -> Layer:
    """The layer of this name, or of these of a kernel and a bias."""
    if isinstance(name, str):
        inside = {leaf: leaf[len(name) :].strip("/") for leaf in number if f"{leaf}/".startswith(f"{name}/")}
        kernels = [leaf for leaf, role in inside.items() if role in {*KERNELS, "0", ""}]
        biases = [leaf for leaf, role in inside.items() if role in {*BIASES, "1"}]
    else:
        inside, kernels, biases = dict.fromkeys(name), [name[0]], [name[1]]
        name = name[0]
    if absent := [leaf for leaf in inside if leaf not in number] or ([] if inside else [name]):
        raise ValueError(
            f"layers must name parts of the model, among {', '.join(number)}, got {absent[0]!r}."
        )
    others = [leaf for leaf in inside if leaf not in (*kernels, *biases)]
    wrong = [leaf for leaf in kernels if len(shapes[number[leaf]]) != 2]
    wrong += [leaf for leaf in biases if len(shapes[number[leaf]]) != 1]
    if others or wrong or len(kernels) != 1 or len(biases) > 1:
        described = ", ".join(f"{leaf} {shapes[number[leaf]]}" for leaf in inside)
        raise ValueError(
            f"layers must be dense ones, each a matrix named {', '.join(KERNELS)} and at most a vector named "
            f"{', '.join(sorted(BIASES))}, or a pair of both, or a bare matrix; {name!r} has {described}."
        )
    role = kernels[0].rpartition("/")[2]
    return Layer(
        name, number[kernels[0]], number[biases[0]] if biases else None, flipped=KERNELS.get(role, False)
    )


def _put_in_sequence(layers: list[Layer], shapes: Sequence[tuple[int, ...]]) -> list[Layer]:
    """The layers with their kernels as their names tell, or else all the other way round, whichever fits."""
    turned = [Layer(layer.name, layer.kernel, layer.bias, not layer.flipped) for layer in layers]
    if (misfit := _misfit(layers, shapes)) is None:
        return layers
    if _misfit(turned, shapes) is None:
        return turned
    raise ValueError(f"layers must fit in sequence: {misfit}.")


def _misfit(layers: list[Layer], shapes: Sequence[tuple[int, ...]]) -> str | None:
    sizes = [shapes[layer.kernel][:: -1 if layer.flipped else 1] for layer in layers]
    for layer, (_, n) in zip(layers, sizes, strict=True):
        if layer.bias is not None and shapes[layer.bias] != (n,):
            return f"{layer.name!r} has {n} outputs and a bias of shape {shapes[layer.bias]}"
    for (one, (_, n)), (other, (m, _)) in itertools.pairwise(zip(layers, sizes, strict=True)):
        if n != m:
            return f"{one.name!r} has {n} outputs, and {other.name!r} {m} inputs"
    return None
