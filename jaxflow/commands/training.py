"""What every command that trains a network on data is told: the data, the network, the optimizer."""

from dataclasses import dataclass
from typing import Annotated

import jax
import tyro

import jaxflow as jf
from jaxflow import _check
from jaxflow.commands.choose import make_optimizer


@dataclass(frozen=True)
class Training:
    """A network, its data and an optimizer, as options of a command."""

    data: str = "digits"
    """Data set: digits, breast_cancer, wine, iris, diabetes, or a .npz file (arrays x, y) or .csv file (last
    column the target)."""
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
    """Learning rate: the time one step stands for. Default: the optimizer's own, 0.1 where it has none."""
    batch_size: int = 32
    """Examples in a mini-batch, drawn independently with replacement."""
    seed: int = 0
    """Seed of the initial parameters and of the mini-batches."""
    x64: bool = False
    """Compute in float64."""

    def make(self) -> tuple[jf.problems.Problem, jf.optim.Optimizer]:
        """The problem and the optimizer, or an error that says in a sentence which setting is wrong."""
        _check.integer("batch_size", self.batch_size, 1)
        optimizer = make_optimizer(self.optimizer, self.learning_rate, self.set, self.seed)
        key = jax.random.key(self.seed)
        return jf.problems.mlp(self.data, self.hidden, self.activation, self.loss, key=key), optimizer
