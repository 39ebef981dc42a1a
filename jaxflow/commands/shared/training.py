"""What every command that trains a network on data is told: the data, the network, the optimizer."""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro

import jaxflow as jf
from jaxflow import _check
from jaxflow._devices import memory
from jaxflow.commands.shared.optimizer_names import make_optimizer

MOST = 2**31 - 1  # steps or members, as JAX counts them in 32 bits
MOST_SEED = 2**32 - 3  # two seeds after it are in use
SHOWN = 5  # classes named


@dataclass(frozen=True)
class Training:
    """A network, its data and an optimizer, as options of a command."""

    data: str = "digits"
    """digits, breast_cancer, wine, iris, diabetes; or a .npz file of x and y; or a .csv file, the target last."""
    encode: bool = False
    """Turn a .csv file's columns of words, and its blank cells, into numbers."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the hidden layers."""
    activation: str = "tanh"
    """Activation of the hidden layers: tanh, relu, gelu, silu, sigmoid, …"""
    loss: str | None = None
    """cross_entropy or mse. Default: cross_entropy for classes, mse for real targets."""
    optimizer: str = "gd"
    """Any optimizer that `python -m jaxflow optimizers` lists."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE …")] = ()
    """The optimizer's other hyperparameters, such as b1=0.95 b2=0.99."""
    learning_rate: float | None = None
    """Learning rate: the time that one step stands for. Default: the optimizer's own, 0.1 where it has none."""
    batch_size: int = 32
    """Examples in a mini-batch, drawn independently with replacement."""
    seed: int = 0
    """Seed of the initial parameters and of the mini-batches."""
    x64: bool = False
    """Compute in float64."""
    cache: bool = True
    """Keep compiled programs in $JAX_COMPILATION_CACHE_DIR, or in this user's cache folder, for the next run."""

    def make(self) -> tuple[jf.problems.Problem, jf.optim.Optimizer]:
        """The problem and the optimizer, or an error that says in a sentence which setting is wrong."""
        _check.require_integer("batch_size", self.batch_size, 1)
        _check.require_integer("seed", self.seed, 0)
        # Others are the same keys as these, where JAX computes in 32 bits.
        _check.require("seed", self.seed, self.seed <= MOST_SEED, f"an integer from 0 to {MOST_SEED}")
        optimizer = make_optimizer(self.optimizer, self.learning_rate, self.set, self.seed)
        data = jf.problems.load(self.data, encode=True) if self.encode else self.data
        key = jax.random.key(self.seed)
        problem = jf.problems.mlp(data, self.hidden, self.activation, self.loss, key=key)
        self.require_fit("batch_size", problem, self.batch_size)
        return problem, optimizer

    def require_fit(
        self, name: str, problem: Any, batch_size: int, value: Any = None, members: int = 1
    ) -> None:
        """Refuse a setting with which mini-batches, or the runs' parameters, would not fit in memory."""
        objective: Any = problem.objective
        example = sum(leaf.nbytes for leaf in jax.tree.leaves(objective.data)) / objective.size
        params = sum(leaf.nbytes for leaf in jax.tree.leaves(problem.params))
        memory.require_fit(
            name, batch_size if value is None else value, members * (batch_size * example + params)
        )

    def describe(self, problem: Any) -> str:
        """The data, with the classes by name where they have names."""
        words = [name for name in problem.classes or () if isinstance(name, str)]
        shown = ", ".join(words if len(words) <= SHOWN else [*words[: SHOWN - 1], "…", words[-1]])
        return f"{self.data} ({shown})" if words else self.data


def count(name: str, value: int, least: int = 1) -> None:
    """Refuse a number of steps or members below 1, or larger than can be counted."""
    _check.require_integer(name, value, least)
    _check.require(name, value, value <= MOST, f"an integer from {least} to {MOST}")


def score_name(problem: Any) -> str:
    """The name of the problem's score."""
    return "test accuracy" if jnp.issubdtype(problem.test["y"].dtype, jnp.integer) else "test R²"
