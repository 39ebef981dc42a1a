"""The command line: `python -m jaxflow compare` and `python -m jaxflow optimizers`."""

import sys
from dataclasses import dataclass
from typing import Annotated

import jax
import tyro

from jaxflow.commands import compare
from jaxflow.commands.choose import listing


@dataclass(frozen=True)
class Optimizers:
    """List the optimizers and schedules there are, with their arguments."""


Command = (
    Annotated[compare.Compare, tyro.conf.subcommand("compare", prefix_name=False)]
    | Annotated[Optimizers, tyro.conf.subcommand("optimizers", prefix_name=False)]
)


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
    if command.x64:
        jax.config.update("jax_enable_x64", True)
    try:
        prepared = compare.prepare(command)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"jaxflow compare: {error}", file=sys.stderr)
        return 2
    compare.run(command, *prepared)
    return 0


if __name__ == "__main__":
    sys.exit(main())
