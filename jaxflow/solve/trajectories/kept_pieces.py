"""The pieces of a long run on disk, with which it goes on after a kill as if it had never been interrupted.

Each piece's records are a file, and what the run goes on from is another, which is replaced after each piece. All
files appear whole or not at all, so that at any moment the folder holds a run up to the end of a piece.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxflow._disk import results
from jaxflow._disk.tree_files import read_header, read_tree, write_tree
from jaxflow.solve.trajectories.trajectory import Trajectory

STATE, FACTS = "state.npz", "run.json"


class KeptPieces:
    """The folder of one run, which `facts` describe; a folder of another is refused with the first difference."""

    def __init__(self, folder: Any, facts: dict[str, Any]):
        self.folder = Path(folder)
        results.check_folder(self.folder, STATE, FACTS, argument="checkpoint")
        # A program may be another where versions are, and they are the reason to give.
        facts = json.loads(json.dumps({"versions": results.versions(), **facts}))
        path = self.folder / FACTS
        if not path.exists():
            if (self.folder / STATE).exists():
                raise ValueError(
                    f"checkpoint {self.folder} holds a state without the description of its run, {FACTS}."
                )
            results.write_json(path, facts)
            return
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(
                f"checkpoint {self.folder} is damaged: {FACTS} is not JSON ({error})."
            ) from error
        for name in {**facts, **before}:
            was, now = before.get(name), facts.get(name)
            if was != now:
                raise ValueError(
                    f"checkpoint {self.folder} holds another run: its {name} {_difference(was, now)}; give another "
                    "folder, or delete it."
                )

    def load(self, begun: Trajectory) -> list[Trajectory]:
        """The finished pieces, the last with what the run goes on from; `begun` is like all of them."""
        if not (self.folder / STATE).exists():
            return []
        done = read_header(self.folder / STATE)["pieces"]
        like = replace(begun, params=None, state=None)
        lacking = [path.name for path in map(self._records, range(done)) if not path.exists()]
        if lacking:
            raise ValueError(
                f"checkpoint {self.folder} lacks {lacking[0]}, a part of its run; give another folder, or delete it."
            )
        parts = [Trajectory.load(self._records(i), like) for i in range(done)]
        ends = read_tree(self.folder / STATE, {"params": begun.params, "state": begun.state})
        return [*parts[:-1], replace(parts[-1], **ends)]

    def add(self, number: int, records: Trajectory, last: Trajectory) -> None:
        """Keep a piece: its records, and where it ended."""
        replace(records, params=None, state=None).save(self._records(number))
        write_tree(self.folder / STATE, {"params": last.params, "state": last.state}, pieces=number + 1)

    def _records(self, number: int) -> Path:
        return self.folder / f"records-{number:05d}.npz"


def _difference(was: Any, now: Any) -> str:
    """How a fact was another; of several numbers under names, the first that was."""
    if isinstance(was, dict) and isinstance(now, dict):
        if "hash" in was or "hash" in now:
            return "differs"
        name = next(name for name in {**now, **was} if was.get(name) != now.get(name))
        return f"({name}) is {was.get(name)}, not {now.get(name)}"
    return f"is {was}, not {now}"


def host(run: Trajectory) -> Trajectory:
    """The records of a piece in the memory of the host, without what it goes on from."""
    return jax.device_get(replace(run, params=None, state=None))
