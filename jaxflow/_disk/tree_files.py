"""Pytrees on disk, without pickle: the arrays of a pytree by the paths of its leaves, in one `.npz`.

A file is read back into the structure of a pytree of the same kind. Without one, dicts and lists are made of it.
"""

import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._disk import results

PyTree = Any
FORMAT = 1
SCALARS = {"bool": bool, "int": int, "float": float, "complex": complex}


def write_tree(path: Path, tree: PyTree, **notes: Any) -> None:
    """Write a pytree, with notes that JSON holds, atomically.

    Leaves that are not numbers, such as functions, are left out.
    """
    arrays, leaves = {}, []
    for where, leaf in jax.tree_util.tree_leaves_with_path(tree):
        numbers, kind = _encode(leaf)
        if numbers is not None:
            arrays[str(len(leaves))] = numbers
            leaves.append({"path": _path(where), "kind": kind, "shape": list(np.shape(leaf))})
    header = {"format": FORMAT, "versions": results.versions(), "leaves": leaves, **notes}
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, header=text, **arrays)
    results.write(path, buffer.getvalue())


def read_header(path: Path) -> dict[str, Any]:
    """What a file says of itself; a `ValueError` where it is not one of these files."""
    return _read(path)[0]


def read_tree(path: Path, like: PyTree = None, *, free: tuple[str, ...] = ()) -> PyTree:
    """The pytree of a file, in the structure of `like`, whose leaves are arrays or what `jax.eval_shape` makes.

    Leaves of `like` that are not numbers, such as functions, are taken over. Under the top-level names `free` only
    the number of axes must agree. A `ValueError` tells the first difference. Without `like` the pytree consists of
    dicts and lists.
    """
    header, arrays = _read(path)
    found = {_name(leaf["path"]): (leaf, array) for leaf, array in zip(header["leaves"], arrays, strict=True)}
    if like is None:
        return _nest(header["leaves"], [_decode(array, leaf["kind"]) for leaf, array in found.values()])
    out = []
    for where, leaf in jax.tree_util.tree_leaves_with_path(like):
        kind = _kind(leaf)
        if kind is None:
            out.append(leaf)
            continue
        name = _name(_path(where))
        if name not in found:
            raise ValueError(
                f"{path} does not fit: it has no {name}, which is {_show(kind, np.shape(leaf))}."
            )
        saved, array = found.pop(name)
        if {saved["kind"], kind} == {"int32", "int64"} and (array == array.astype(kind)).all():
            saved, array = {**saved, "kind": kind}, array.astype(kind)  # an integer is the same in either
        shape = list(np.shape(leaf))
        free_here = name.split("/")[0] in free and len(saved["shape"]) == len(shape)
        # What is asked for shapes tells of a Python number as of an array.
        alike = saved["kind"].split(" ")[0] == kind or saved["kind"] in SCALARS
        if not alike or not (saved["shape"] == shape or free_here):
            raise ValueError(
                f"{path} does not fit: its {name} is {_show(saved['kind'], saved['shape'])}, not "
                f"{_show(kind, np.shape(leaf))}."
            )
        out.append(_decode(array, saved["kind"]))
    if found:
        name, (saved, _) = next(iter(found.items()))
        raise ValueError(f"{path} does not fit: it has {name}, {_show(saved['kind'], saved['shape'])}, too.")
    return jax.tree.unflatten(jax.tree.structure(like), out)


def _read(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            header = json.loads(bytes(file["header"]))
            arrays = [file[str(i)] for i in range(len(header["leaves"]))]
    except FileNotFoundError:
        raise
    except Exception as error:  # of zip files, of JSON, of NumPy
        raise ValueError(f"{path} is not a file that jaxflow saved, or is damaged.") from error
    if header["format"] != FORMAT:
        raise ValueError(f"{path} has format {header['format']}; this version of jaxflow reads {FORMAT}.")
    return header, arrays


def _kind(leaf: Any) -> str | None:
    """What a leaf is, in a word; `None` for anything but a number."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return type(leaf).__name__ if type(leaf).__name__ in SCALARS else None
    return str(dtype)


def _encode(leaf: Any) -> tuple[np.ndarray | None, str | None]:
    """A leaf's numbers, in a dtype of NumPy's own, and its kind."""
    kind = _kind(leaf)
    if kind is None:
        return None, None
    if kind.startswith("key<"):
        return np.asarray(jax.random.key_data(leaf)), f"{kind} {jax.random.key_impl(leaf)}"
    array = np.asarray(leaf)
    return (array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array), kind


def _decode(array: np.ndarray, kind: str) -> Any:
    if kind in SCALARS:
        return SCALARS[kind](array.item())
    if kind.startswith("key<"):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=kind.split(" ")[1])
    dtype = jnp.dtype(kind)
    return jnp.asarray(array if array.dtype == dtype else array.view(dtype))


def _path(where: tuple) -> list[list[Any]]:
    """The path of a leaf in words of JSON."""
    kinds = {jax.tree_util.SequenceKey: "idx", jax.tree_util.GetAttrKey: "name"}
    words = [kinds.get(type(part), "key") for part in where]
    return [[word, getattr(part, word)] for word, part in zip(words, where, strict=True)]


def _name(path: list) -> str:
    return "/".join(str(part) for _, part in path)


def _show(kind: str, shape: Any) -> str:
    return f"{kind}[{', '.join(map(str, shape))}]" if shape or kind not in SCALARS else f"a Python {kind}"


def _nest(leaves: list[dict], values: list) -> PyTree:
    """Dicts and lists of leaves by their paths."""
    if len(leaves) == 1 and not leaves[0]["path"]:
        return values[0]
    branches: dict[Any, tuple[str, list, list]] = {}
    for leaf, value in zip(leaves, values, strict=True):
        (kind, name), *rest = leaf["path"]
        _, below, under = branches.setdefault(name, (kind, [], []))
        below.append({"path": rest})
        under.append(value)
    nested = {name: _nest(below, under) for name, (_, below, under) in branches.items()}
    listed = all(kind == "idx" for kind, _, _ in branches.values()) and [*nested] == [*range(len(nested))]
    return [*nested.values()] if listed else nested
