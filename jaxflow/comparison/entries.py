"""One entry of a record, by its name."""

from typing import Any

import jax

PyTree = Any
SHOWN = 20  # names in a refusal


def entry_names(values: PyTree) -> dict[str, Any]:
    """The leaves of a record by their paths, such as `layers/0/weight`; a single array has the name `""`."""
    leaves = jax.tree.leaves_with_path(values)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def find_entry(owner: str, values: PyTree, entry: str) -> PyTree:
    """An entry of the record of `owner`: the leaf of that name, or all below it, by the rest of their names.

    Raises `TypeError` unless `entry` is a string, `ValueError` where there is no such entry, naming the entries
    that there are.

    >>> record = {"loss": 1.0, "layers": [{"w": 2.0, "b": 3.0}]}
    >>> find_entry("a", record, "loss"), find_entry("a", record, "layers/0")
    (1.0, {'b': 3.0, 'w': 2.0})
    """
    if not isinstance(entry, str):
        raise TypeError(f"entry must be the name of an entry, such as 'layers/0/weight', got {entry!r}.")
    leaves = entry_names(values)
    if entry in leaves and entry:
        return leaves[entry]
    below = f"{entry}/"
    found = {name.removeprefix(below): leaf for name, leaf in leaves.items() if name.startswith(below)}
    if found:
        return found
    if [*leaves] == [""]:
        raise ValueError(f"entry must be left out, as {owner} recorded a single array, got {entry!r}.")
    names = ", ".join([*map(repr, [*leaves][:SHOWN]), *(["…"] if len(leaves) > SHOWN else [])])
    raise ValueError(f"entry must be one of those that {owner} recorded, {names or 'none'}, got {entry!r}.")
