"""The command line: `python -m jaxflow compare`, `order`, `temperature` and `optimizers`."""

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import tyro

from jaxflow.commands import compare, order, temperature
from jaxflow.commands.choose import listing


@dataclass(frozen=True)
class Optimizers:
    """List the optimizers and schedules there are, with their arguments."""


Command = (
    Annotated[compare.Compare, tyro.conf.subcommand("compare", prefix_name=False)]
    | Annotated[order.Orders, tyro.conf.subcommand("order", prefix_name=False)]
    | Annotated[temperature.Temperature, tyro.conf.subcommand("temperature", prefix_name=False)]
    | Annotated[Optimizers, tyro.conf.subcommand("optimizers", prefix_name=False)]
)
# Each has `prepare`, which refuses bad settings, and `run`, which is given what that made.
JOBS: dict[type, tuple[str, Any]] = {
    compare.Compare: ("compare", compare),
    order.Orders: ("order", order),
    temperature.Temperature: ("temperature", temperature),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it did its work, 2 with one sentence when its input was refused."""
    command = tyro.cli(
        Command,  # type: ignore[arg-type]
        prog="python -m jaxflow",
        args=arguments,
        description="Optimizers and the differential equations they follow, on one clock.",
    )
    if isinstance(command, Optimizers):
        print(listing())
        return 0
    name, job = JOBS[type(command)]
    if command.x64:
        jax.config.update("jax_enable_x64", True)
    try:
        prepared = job.prepare(command)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"jaxflow {name}: {error}", file=sys.stderr)
        return 2
    job.run(command, *prepared)
    return 0


if __name__ == "__main__":
    sys.exit(main())
