"""Real data: scikit-learn's bundled sets or the user's own, checked, standardised and split.

Everything here is NumPy until `split`; scikit-learn is imported only for a set that is more than a table in a file.
"""

import importlib.util
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow.problems.data.files import read

Kind = Literal["classification", "regression"]

_BUNDLED: dict[str, Kind] = {
    "breast_cancer": "classification",
    "diabetes": "regression",
    "digits": "classification",
    "iris": "classification",
    "wine": "classification",
}
# Files of scikit-learn's that are tables of numbers, with the labels last, and the lines before the numbers.
_FILES = {
    "breast_cancer": ("breast_cancer.csv", 1),
    "digits": ("digits.csv.gz", 0),
    "iris": ("iris.csv", 1),
    "wine": ("wine_data.csv", 1),
}
DATASETS = tuple(_BUNDLED)
MOST_CLASSES = 20


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples as NumPy arrays, as they were read: not standardised, not split.

    - `x` (N, P): the features, float64.
    - `y`: for classification the labels 0, …, C−1, int32 of shape (N,); for regression the targets, float64
      of shape (N, K).
    - `classes`: the C labels as they were in the source, ascending, integers or words; `None` for regression.
    - `name`: the name of the source.
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple | None
    name: str

    @property
    def kind(self) -> Kind:
        """`"classification"` or `"regression"`."""
        return "regression" if self.classes is None else "classification"


def load(dataset: Any, *, kind: Kind | None = None, encode: bool = False) -> Dataset:
    """Load examples from a bundled data set, a file or arrays.

    **Arguments**

    - `dataset`: a name in `DATASETS` (scikit-learn's bundled ones); the path of a `.npz` file with arrays `x` and
      `y`, or of a `.csv` file of numbers whose last column is the target, with or without a header line; a pair of
      arrays `(x, y)`; or a `Dataset`, which is returned as it is. `x` is (N, …), its trailing axes flattened; `y`
      is (N,), or (N, K) for a regression with K outputs. (In a `.csv`, numbers that count the columns are a header,
      with a warning where they might be an example; a nameless first column that counts the lines, as pandas writes
      it, is left out.)
    - `kind`: "classification" or "regression", whether `y` holds labels or real targets. `None` decides:
      classification when every value is an integer and at most 20 of them are distinct, otherwise regression.
      Classification relabels the distinct integers 0, …, C−1 in ascending order. Labels that are words are always
      classes, and so relabelled.
    - `encode`: whether to turn, in a `.csv` file, columns of words into a column of 0 and 1 for each word (a blank
      counts as a word), and blank cells among numbers into the mean of their column, with a column of 0 and 1 that
      marks them. Otherwise both are refused.

    **Returns** a `Dataset`.

    **Raises**, each in one sentence, `FileNotFoundError` for a missing file; `TypeError` for a `dataset` of
    another type; `ImportError` when a bundled set is asked for and scikit-learn is not installed; and
    `ValueError` for an unknown name or ending, an unreadable or empty file, a line with too many or too few
    entries, anything that is not a finite number, missing arrays, lengths that differ, fewer than two
    examples, labels that are not integers, or targets that are all the same.

    >>> load("iris").x.shape, load("iris").classes, load("diabetes").kind
    ((150, 4), (0, 1, 2), 'regression')
    >>> load(([[0.5], [1.5], [2.5]], [-1, 1, 1])).classes
    (-1, 1)
    >>> load(([[0.5], [1.5], [2.5]], ["no", "yes", "no"])).classes
    ('no', 'yes')
    """
    if encode and not (isinstance(dataset, (str, os.PathLike)) and str(dataset).lower().endswith(".csv")):
        raise ValueError(f"encode must be left out unless dataset is a .csv file, got {encode!r}.")
    if kind is not None:
        _check.require_choice("kind", kind, ("classification", "regression"))
    if isinstance(dataset, Dataset):
        if kind not in (None, dataset.kind):
            raise ValueError(
                f"{dataset.name} was loaded as a {dataset.kind}: load it anew with kind={kind!r}."
            )
        return dataset
    if isinstance(dataset, (tuple, list)) and len(dataset) == 2:
        return _check_arrays(dataset[0], dataset[1], kind, "the given data")
    if not isinstance(dataset, (str, os.PathLike)):
        raise TypeError(f"dataset must be a name, a path or a pair (x, y), got {type(dataset).__name__}.")
    if isinstance(dataset, str) and dataset in _BUNDLED:
        return _check_arrays(*_load_bundled(dataset), kind or _BUNDLED[dataset], dataset)
    path = Path(dataset).expanduser()
    if isinstance(dataset, str) and not path.suffix:
        _check.require_choice("dataset, unless a path ending in .csv or .npz,", dataset, DATASETS)
    return _check_arrays(*read(path, encode), kind, path.name)


def _load_bundled(name: str) -> tuple[np.ndarray, np.ndarray]:
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise ImportError(
            f"The data set {name!r} comes with scikit-learn: pip install 'jaxflow[experiments]'."
        )
    file, header = _FILES.get(name, ("", 0))
    path = Path(found.origin).parent / "datasets" / "data" / file
    if path.is_file():  # a command would wait a second for scikit-learn to be imported, to read a table
        table = np.loadtxt(path, delimiter=",", skiprows=header)
        return table[:, :-1], table[:, -1].astype(int)
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(return_X_y=True)


def finite_array(field: str, value: Any, name: str) -> np.ndarray:
    """The finite real numbers in `value`, in float64; others are refused as the `field` of what has this name."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{field} of {name} is not rectangular.") from None
    real = any(jnp.issubdtype(array.dtype, t) for t in (jnp.floating, jnp.integer, jnp.bool_))
    if not real:
        raise ValueError(f"{field} of {name} must hold real numbers, got dtype {array.dtype}.")
    array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        at = ", ".join(map(str, bad[0]))
        raise ValueError(
            f"{field} of {name} must hold finite numbers only, got {array[tuple(bad[0])]} at [{at}]."
        )
    return array


def _check_arrays(x: Any, y: Any, kind: Kind | None, name: str) -> Dataset:
    words = _words(y)
    x, y = finite_array("x", x, name), finite_array("y", y, name) if words is None else words[1]
    if x.ndim == 0 or y.ndim not in (1, 2) or x.size == 0 or y.size == 0:
        raise ValueError(
            f"{name} must have x of shape (N, …) and y of shape (N,) or (N, K), got {x.shape} and {y.shape}."
        )
    if len(x) != len(y):
        raise ValueError(
            f"x and y of {name} must have the same number of examples, got {len(x)} and {len(y)}."
        )
    if len(x) < 2:
        raise ValueError(f"{name} must have at least 2 examples, got {len(x)}.")
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    if words is not None:
        return _classes(x, y, kind, name, words[0])
    values = np.unique(y)
    if len(values) == 1:
        raise ValueError(f"The targets of {name} are all {values[0]:g}, so there is nothing to learn.")
    labels = y.shape[1] == 1 and bool((values == np.round(values)).all())
    if kind == "classification" and not labels:
        raise ValueError(f"{name} must have one integer label for each example to be a classification.")
    if kind == "regression" or not labels or (kind is None and len(values) > MOST_CLASSES):
        return Dataset(x, y, None, name)
    return Dataset(x, np.searchsorted(values, y[:, 0]).astype(np.int32), tuple(map(int, values)), name)


def _words(y: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The distinct words that are labels, sorted, and each label's place among them; `None` for other labels."""
    try:
        y = np.asarray(y)
    except ValueError:  # not rectangular, which is told later
        return None
    if y.dtype.kind == "S":
        y = np.char.decode(y)
    if y.dtype.kind == "O" and y.size and all(isinstance(label, str) for label in y.ravel()):
        y = y.astype(str)
    if y.dtype.kind != "U" and not isinstance(y.dtype, getattr(np.dtypes, "StringDType", ())):
        return None
    values, places = np.unique(y, return_inverse=True)
    return values, places.reshape(y.shape).astype(np.float64)


def _classes(x: np.ndarray, y: np.ndarray, kind: Kind | None, name: str, words: np.ndarray) -> Dataset:
    """The data set of examples labelled by words; y (N, K) holds their places among them."""
    if kind == "regression" or y.shape[1] > 1:
        raise ValueError(
            f"{name} has labels such as {str(words[0])!r}, so it must be a classification of one label each."
        )
    if len(words) == 1:
        raise ValueError(f"The labels of {name} are all {str(words[0])!r}, so there is nothing to learn.")
    if len(words) == len(x) > MOST_CLASSES:
        raise ValueError(
            f"The labels of {name}, such as {str(words[0])!r}, are all different, so they are not classes."
        )
    return Dataset(x, y[:, 0].astype(np.int32), tuple(map(str, words)), name)


def split(
    dataset: Dataset, test_fraction: float = 0.2, *, standardize: bool = True
) -> tuple[dict[str, jax.Array], dict[str, jax.Array] | None]:
    """Split a data set into training and held-out examples `{"x", "y"}`, as JAX arrays in the default floating dtype.

    The held-out examples are fixed, without any seed: the examples are ordered by target (ties by their
    place in the data) and ⌈`test_fraction`·N⌉ of them are taken at equal spacing, at least one, with at least one
    left. So every class is held out in proportion to within one example, and a regression is covered evenly.
    Both parts keep the order of the data.

    **Arguments**

    - `dataset`: a `Dataset`.
    - `test_fraction`: the share that is held out, a number in [0, 1).
    - `standardize`: whether to subtract from every feature, and from the targets of a regression, their mean over the
      **training** examples, and divide by their standard deviation over the same. Features that are constant
      there are only shifted, to 0.

    **Returns** a pair of dicts with `x` (n, P) and `y`; the second is `None` with `test_fraction=0`.

    **Raises** `ValueError` when `test_fraction` is not in [0, 1); `TypeError` for a `test_fraction` that is not a
    number.

    >>> train, test = split(load("iris"))
    >>> train["x"].shape, test["x"].shape, jnp.bincount(test["y"]).tolist()
    ((120, 4), (30, 4), [10, 10, 10])
    """
    _check.require_fraction(test_fraction=test_fraction)
    n = len(dataset.x)
    # The small number keeps a product that is an integer up to rounding from being rounded up.
    count = min(max(math.ceil(test_fraction * n - 1e-9), test_fraction > 0), n - 1)
    held_out = np.zeros(n, bool)
    key = dataset.y if dataset.y.ndim == 1 else dataset.y[:, 0]
    held_out[np.argsort(key, kind="stable")[((np.arange(count) + 0.5) * n / max(count, 1)).astype(int)]] = (
        True
    )
    arrays = {"x": dataset.x, "y": dataset.y}
    if standardize:
        names = ("x", "y") if dataset.classes is None else ("x",)
        arrays |= {name: _standardise(arrays[name], arrays[name][~held_out]) for name in names}
    kept = lambda a: a.astype(jnp.result_type(float) if a.dtype.kind == "f" else a.dtype)
    part = lambda rows: jax.device_put({name: kept(a[rows]) for name, a in arrays.items()})
    return part(~held_out), part(held_out) if count else None


def _standardise(array: np.ndarray, train: np.ndarray) -> np.ndarray:
    # Not std == 0: the mean of equal numbers rounds, and their deviation from it would be blown up to 1.
    constant = np.ptp(train, axis=0) == 0
    mean = np.where(constant, train[0], train.mean(axis=0))
    return (array - mean) / np.where(constant, 1.0, train.std(axis=0))
