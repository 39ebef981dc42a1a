"""What both verbs return: values at times on one clock, and how the run ended."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow._compiled import combine, partition
from jaxflow._disk.tree_files import read_header, read_tree, write_tree
from jaxflow._losses.models import Rest, join_model
from jaxflow.solve.trajectories.tables import dataset_of, frame_of

if TYPE_CHECKING:
    import pandas
    import xarray

PyTree = Any

# Status codes, one for each lane.
FINISHED, STOPPED, DIVERGED, MAX_STEPS, FAILED, STREAM_ENDED, LEFT, WARMING, TOO_SMALL, INTERRUPTED = range(
    10
)
MEANING = {
    FINISHED: "reached the last time",
    STOPPED: "stopped by the condition",
    DIVERGED: "diverged",
    MAX_STEPS: "ran out of steps (max_steps)",
    FAILED: "the solver failed",
    STREAM_ENDED: "the stream of batches ended",
    LEFT: "left the domain of its equation",
    WARMING: "was still taking its first, discrete steps",
    TOO_SMALL: "steps became too small for its precision",
    INTERRUPTED: "was interrupted",
}


@dataclass(frozen=True)
class Trajectory:
    """A path on the clock t: `iterate` and `integrate` make it, and `compare` compares two.

    - `times` (T,): the times of the values, on the objective's clock (k·learning_rate for iterates).
    - `values`: what `record` returned at each time, leaves (T, …); the parameters by default. At times that were not
      reached, float leaves hold NaN.
    - `params`: the parameters at the end; NaN where a solve did not arrive. Of a model they are the whole model;
      `values` have `None` in the place of what was not trained.
    - `state`: what resumes the run when it is given back as `state=`.
    - `steps`: the number of steps taken.
    - `evaluations`: the number of gradient or field evaluations; −1 where the solver does not count them.
    - `status`: a code that says how the run ended; `message` says it in words.
    - `stopped`: the time at which the run ended.
    - `observed`: what is recorded at each time in addition to `values`, leaves (T, …): the metrics of `iterate`, or
      what the dynamics itself observes, such as the predictions of a `central_flow`. `None` for most.
    - `counts_steps`: whether the times only count steps, because no learning rate was found to be the clock; static.

    It is a pytree; under `vmap` every leaf has a leading axis.
    """

    times: jax.Array
    values: PyTree
    params: PyTree
    state: PyTree
    steps: jax.Array
    evaluations: jax.Array
    status: jax.Array
    stopped: jax.Array
    observed: PyTree = None
    counts_steps: bool = False

    @property
    def diverged(self) -> jax.Array:
        """Whether the run stopped being finite, or left the domain of its equation (one flag for each lane)."""
        return (self.status == DIVERGED) | (self.status == LEFT)

    @property
    def metrics(self) -> PyTree:
        """The values of the `metrics` of `iterate`, by name; leaves (T, …). They are what is `observed` of a run."""
        return self.observed

    @property
    def message(self) -> str:
        """How the run, or each lane of it, ended; needs concrete values."""
        status, stopped = np.atleast_1d(self.status), np.atleast_1d(self.stopped)
        if status.size == 1:
            where = "" if status.item() == FINISHED else f" at t = {stopped.item():.6g}"
            meaning = MEANING[int(status.item())]
            return meaning.replace("its precision", np.asarray(self.times).dtype.name) + where
        counts = {code: int((status == code).sum()) for code in MEANING}
        return ", ".join(f"{n} of {status.size} lanes {MEANING[code]}" for code, n in counts.items() if n)

    def __getitem__(self, chosen: slice) -> "Trajectory":
        """The records of a slice, such as `run[10:]` or `run[::5]`; what is said of the end of the run stays."""
        if not isinstance(chosen, slice):
            raise TypeError(
                f"A trajectory is sliced by its records, such as run[10:20], got run[{chosen!r}]."
            )
        part = lambda axis, tree: jax.tree.map(lambda x: x[(slice(None),) * axis + (chosen,)], tree)
        members = np.ndim(self.status)
        return replace(
            self,
            times=part(np.ndim(self.times) - 1, self.times),
            values=part(members, self.values),
            observed=part(members, self.observed),
        )

    def to_xarray(self) -> "xarray.Dataset":
        """The records as an `xarray.Dataset`: a variable for each leaf, by its path, over `time` (and `member`).

        >>> import jax.numpy as jnp, jaxflow as jf
        >>> run = jf.iterate(jf.optim.gd(0.5), lambda x: 0.5 * x @ x, jnp.ones(2), steps=2)
        >>> run.to_xarray()["value"].sel(time=0.5).values
        array([0.5, 0.5])
        """
        return dataset_of(self)

    def to_dataframe(self) -> "pandas.DataFrame":
        """The records as a `pandas.DataFrame`: a column for each number, a row for each time (of each member).

        >>> import jax.numpy as jnp, jaxflow as jf
        >>> run = jf.iterate(jf.optim.gd(0.5), lambda x: 0.5 * x @ x, jnp.ones(2), steps=2)
        >>> print(run.to_dataframe()["value[1]"].to_list())
        [1.0, 0.5, 0.25]
        """
        return frame_of(self)

    def save(self, path: Any) -> None:
        """Write the run to a file, whole or not at all: its records, and what it needs to go on.

        That is its parameters, the optimizer's state, step, time and random key, with the versions of the packages.
        There is no pickle in it: it is an `.npz` of NumPy's. Functions among the leaves of a model are left out.

        - `path`: the file, which is replaced where it exists.

        >>> import jax.numpy as jnp, jaxflow as jf, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "run.npz")
        >>> adam, loss = jf.optim.adam(0.1), lambda x: 0.5 * x @ x
        >>> jf.iterate(adam, loss, jnp.ones(2), steps=5).save(path)
        >>> run = jf.Trajectory.load(path, like=lambda: jf.iterate(adam, loss, jnp.ones(2), steps=1))
        >>> print(jf.iterate(adam, loss, run.params, steps=5, state=run.state).state.step)
        10
        """
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self)):
            raise TypeError(
                "A run must be concrete to be saved, got traced values: save it outside of jit and vmap."
            )
        write_tree(
            Path(path), {name: getattr(self, name) for name in _FIELDS}, counts_steps=self.counts_steps
        )

    @classmethod
    def load(cls, path: Any, like: Any = None) -> "Trajectory":
        """Read a run that `save` wrote.

        - `path`: the file.
        - `like`: a trajectory of the same kind, with any number of records; or a function without arguments that
          makes one, of which only the shapes are asked, so that nothing is computed. Without it dicts and lists take
          the place of all other containers: that is enough for records, not to go on.

        It raises `FileNotFoundError` where there is no such file, and `ValueError` for a file that `save` did not
        write or that does not fit `like`, with the first difference.
        """
        if like is None:
            parts: dict[str, Any] = dict.fromkeys(_FIELDS) | read_tree(Path(path))
            return cls(**parts, counts_steps=read_header(Path(path))["counts_steps"])
        if not isinstance(like, cls):
            if not callable(like):
                raise TypeError(f"like must be a trajectory or a function that makes one, got {like!r}.")
            like = jax.eval_shape(like)
        shapes = {name: getattr(like, name) for name in _FIELDS}
        parts = read_tree(Path(path), shapes, free=("times", "values", "observed"))
        return cls(**parts, counts_steps=like.counts_steps)

    def __repr__(self):
        if isinstance(self.status, Tracer) or not hasattr(self.status, "shape"):
            return "Trajectory(<traced>)"
        shapes = ", ".join(str(list(np.shape(leaf))) for leaf in jax.tree.leaves(self.values)[:3])
        more = "" if len(jax.tree.leaves(self.values)) <= 3 else ", …"
        times = np.asarray(self.times)
        span = f"t = {times.min():.6g} … {times.max():.6g}" if times.size else "no times"
        return (
            f"Trajectory({times.shape[-1]} values of shape {shapes}{more}, {span}; "
            f"{int(np.max(self.steps))} steps, {int(np.max(self.evaluations))} evaluations; {self.message})"
        )


_FIELDS = tuple(field.name for field in fields(Trajectory) if field.name != "counts_steps")


def _flatten(run: Trajectory) -> tuple[tuple, tuple]:
    children = {name: getattr(run, name) for name in _FIELDS}
    static = None
    if any(map(_is_static, jax.tree.leaves(run.params))):
        children["params"], static = partition(run.params, lambda leaf: not _is_static(leaf))
    keys = map(jax.tree_util.GetAttrKey, _FIELDS)
    return tuple(zip(keys, children.values(), strict=True)), (static, run.counts_steps)


def _unflatten(kept: tuple, children: Any) -> Trajectory:
    static, counts_steps = kept
    named = dict(zip(_FIELDS, children, strict=True))
    if static is not None:
        named["params"] = combine(named["params"], static)
    return Trajectory(**named, counts_steps=counts_steps)


def _is_static(leaf: Any) -> bool:
    """Whether a leaf of a model cannot be among the results of a program."""
    return callable(leaf) or isinstance(leaf, (str, bytes))


jax.tree_util.register_pytree_with_keys(Trajectory, _flatten, _unflatten)


def complete_run(run: Trajectory, rest: Rest | None, counts_steps: bool) -> Trajectory:
    """A run of a model's trained part, with the whole model at its end, which tells what its clock counts."""
    if rest is None and not counts_steps:
        return run
    return replace(run, params=join_model(run.params, rest), counts_steps=counts_steps)


def is_finite(tree: PyTree) -> jax.Array:
    """Whether every number of a pytree is finite; one flag."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.stack(finite).all() if finite else jnp.asarray(True)


def identity(params: PyTree) -> PyTree:
    """The default `record`: keep the parameters."""
    return params


def as_parameters(params: PyTree) -> PyTree:
    """The parameters as arrays; anything that cannot have a gradient is refused in one sentence."""
    if not jax.tree.leaves(params):
        raise ValueError(f"params must be a pytree with at least one array, got {params!r}.")
    if all(
        isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        for leaf in jax.tree.leaves(params)
    ):
        return params

    def convert(path, leaf):
        try:
            array = jnp.asarray(float(leaf) if type(leaf) is int else leaf)
        except (TypeError, ValueError):
            array = None
        if array is None or not jnp.issubdtype(array.dtype, jnp.inexact):
            where = jax.tree_util.keystr(path) or "params"
            kind = type(leaf).__name__ if array is None else f"dtype {array.dtype}"
            raise TypeError(f"params must be a pytree of real or complex arrays; {where} has {kind}.")
        return array

    return jax.tree_util.tree_map_with_path(convert, params)
