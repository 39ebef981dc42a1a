"""Long runs, in pieces of one program: a person sees how far they are and stops them, and they survive a kill."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow._disk import fingerprint
from jaxflow._text.progress import Bar
from jaxflow.solve.trajectories.kept_pieces import KeptPieces, host
from jaxflow.solve.trajectories.pieces import join_pieces, run_pieces
from jaxflow.solve.trajectories.trajectory import FINISHED, INTERRUPTED, Trajectory

PyTree = Any
PIECES = 50
SHOWN = "loss (shown)"  # a metric of the bar's own


class Piece(NamedTuple):
    """A part of a run: `run(before)` goes on from the part before; it is `size` units long.

    Where it is not `recorded`, it ends between two records and has none of its own.
    """

    run: Callable[[Trajectory], Trajectory]
    size: int
    recorded: bool = True


def check_host(traced: PyTree, *, progress: bool, checkpoint: Any) -> None:
    """Refuse what the host does where a program is being traced, and a checkpoint of arrays that no process holds."""
    for name, value in (("progress", progress), ("checkpoint", checkpoint)):
        if value and any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(traced)):
            raise ValueError(
                f"{name} must not be given under jit, vmap or grad, as it is the host's work, got {value!r}."
            )
    if checkpoint is not None and not all(map(_is_here, jax.tree.leaves(traced))):
        raise ValueError(
            f"checkpoint must be None for data that several processes hold in parts, got {checkpoint!r}."
        )


def _is_here(leaf: Any) -> bool:
    """Whether this process can read all of a leaf."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def finish_pieces(
    begun: Trajectory, pieces: list[Piece], *, label: str, unit: str, progress: bool, kept: KeptPieces | None
) -> Trajectory:
    """Run pieces one after another from a run of no steps; Ctrl-C ends them, with what is done so far."""
    done = [] if kept is None else kept.load(begun)
    last, parts = (done[-1] if done else begun), [*map(host, done)]
    before = sum(piece.size for piece in pieces[: len(done)])
    interrupted = False
    with Bar(label, sum(piece.size for piece in pieces), unit, before, progress) as bar:
        left = pieces[len(done) :]
        try:
            ran = run_pieces(lambda before, piece: piece.run(before), last, left)
            for number, (piece, after) in enumerate(zip(left, ran, strict=True), len(done)):
                records = host(after if piece.recorded else after[:1])
                if kept is not None:
                    kept.add(number, records, after)
                parts.append(records)
                last = after
                told = last.observed.get(SHOWN) if isinstance(last.observed, dict) else None
                bar.advance(piece.size, **({} if told is None else {"loss": float(np.mean(told[..., -1]))}))
        except KeyboardInterrupt:
            interrupted = True
    whole = join_pieces(parts or [host(begun)])
    if interrupted:
        stopped = np.asarray(whole.times)[..., -1]
        status = np.where(np.asarray(whole.status) == FINISHED, INTERRUPTED, whole.status)
        whole = replace(whole, status=status, stopped=np.where(status == INTERRUPTED, stopped, whole.stopped))
    whole = jax.tree.map(jnp.asarray, whole)
    return replace(whole, params=last.params, state=last.state)


def plain(thing: Any) -> str:
    """How a thing is shown, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def hash_of(arrays: PyTree) -> dict[str, str]:
    """What tells arrays from others."""
    return {"hash": fingerprint.hash_arrays(arrays)}


def hash_of_program(function: Callable, *arguments: Any) -> dict[str, str] | None:
    """What tells a program from others; `None` where it cannot be traced so, as an update that asks for a loss."""
    try:
        closed = jax.make_jaxpr(function)(*arguments)
    except Exception:
        return None
    parts = (fingerprint.hash_program(closed), fingerprint.hash_constants(closed))
    return {"hash": fingerprint.hash_bytes(*(part.encode() for part in parts))}


def shapes_of(params: PyTree) -> dict[str, str]:
    named = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in named}
