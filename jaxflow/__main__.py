"""The command line: `python -m jaxflow` and a command, such as compare, sweep, density or landscape."""

import gc
import os
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import tyro

from jaxflow._disk.program_cache import keep_programs
from jaxflow.commands import edge, order, temperature
from jaxflow.commands.compare import command as compare
from jaxflow.commands.density import command as density
from jaxflow.commands.landscape import command as landscape
from jaxflow.commands.one_page import command as report
from jaxflow.commands.shared import output as streams
from jaxflow.commands.shared.interruption import CODE, Stopped, Written, keep_on_interrupt, stop_on_interrupt
from jaxflow.commands.shared.optimizer_names import listing
from jaxflow.commands.shared.settings_file import find_file, read_settings
from jaxflow.commands.sweep import command as sweep


@dataclass(frozen=True)
class Optimizers:
    """List the optimizers and schedules, with their arguments."""


def commands(swept: sweep.Sweep) -> Any:
    """The commands by name; `swept` holds the defaults of the sweep."""
    return (
        Annotated[compare.Compare, tyro.conf.subcommand("compare", prefix_name=False)]
        | Annotated[sweep.Sweep, tyro.conf.subcommand("sweep", default=swept, prefix_name=False)]
        | Annotated[order.Orders, tyro.conf.subcommand("order", prefix_name=False)]
        | Annotated[edge.Edge, tyro.conf.subcommand("edge", prefix_name=False)]
        | Annotated[density.Density, tyro.conf.subcommand("density", prefix_name=False)]
        | Annotated[landscape.Landscape, tyro.conf.subcommand("landscape", prefix_name=False)]
        | Annotated[temperature.Temperature, tyro.conf.subcommand("temperature", prefix_name=False)]
        | Annotated[report.Report, tyro.conf.subcommand("report", prefix_name=False)]
        | Annotated[Optimizers, tyro.conf.subcommand("optimizers", prefix_name=False)]
    )


# Each has `prepare`, which refuses bad settings, `run`, which is given what that made, and `FILES`, which it writes.
JOBS: dict[type, tuple[str, Any]] = {
    compare.Compare: ("compare", compare),
    sweep.Sweep: ("sweep", sweep),
    order.Orders: ("order", order),
    edge.Edge: ("edge", edge),
    density.Density: ("density", density),
    landscape.Landscape: ("landscape", landscape),
    temperature.Temperature: ("temperature", temperature),
    report.Report: ("report", report),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it did its work, 2 with one sentence when its input was refused, 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    name = next((word for word in given if not word.startswith("-")), "")
    before = jax.config.read("jax_enable_x64")  # what a command computes in is no concern of the next one
    ended, code = None, 0
    with streams.guard_streams() as (output, errors):
        try:
            code = _serve(given, name)
        except SystemExit as left:  # of the parser, after its help or what it says of a wrong option
            ended, code = left, left.code if isinstance(left.code, int) else int(left.code is not None)
        finally:
            _compute_in_float64(before)
        output.flush()
        # A reader that has left got what it wanted; whoever else waits for the output is told.
        if output.failed is not None and not isinstance(output.failed, BrokenPipeError):
            kept = " The results are written." if ended is None and code == 0 and _writes_files(name) else ""
            said = f"standard output could not be written: {output.failed.strerror}.{kept}"
            code = _report_refusal(name, OSError(said))
        if arguments is None:
            output.settle()
            errors.settle()
    if ended is not None:
        raise SystemExit(code)
    return code


def program() -> None:
    """`main` as a process of its own."""
    # Tracing makes many objects and few circles: to look for these rarely saves a twelfth of a command's time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    code = main()
    if code == CODE:  # at once, as what a device is at work on must not see the interpreter go
        os._exit(code)
    sys.exit(code)


def _serve(given: list[str], name: str) -> int:
    """Run a command, whose output goes where that is possible; its exit code."""
    try:
        with stop_on_interrupt():
            return _run(given)
    except Stopped as stopped:
        print(f"jaxflow {name}: stopped by Ctrl-C.\n{stopped}", file=sys.stderr)
        return CODE


def _run(given: list[str]) -> int:
    try:
        swept = _defaults(given)
    except (ValueError, TypeError, OSError) as error:
        return _report_refusal("sweep", error)
    command = tyro.cli(
        commands(swept),
        prog="python -m jaxflow",
        args=given,
        description="Optimizers and the differential equations they follow, on one clock.",
    )
    if isinstance(command, Optimizers):
        print(listing())
        return 0
    name, job = JOBS[type(command)]
    if command.cache:
        keep_programs()
    if command.x64:
        _compute_in_float64(True)
    try:
        prepared = job.prepare(command)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _report_refusal(name, error)
    try:
        with keep_on_interrupt(Written(command, job.FILES)):
            job.run(command, *prepared)
    except (sweep.Refused, OSError) as error:  # any other error would be ours
        return _report_refusal(name, error)
    return 0


def _compute_in_float64(wanted: bool) -> None:
    """Switch, if that is needed, and forget what was compiled: JAX would take some of it for the other precision.

    (The same function, traced in one precision and then in the other, may then fail to lower: "Cannot lower jaxpr
    with verifier errors".)
    """
    if wanted != jax.config.read("jax_enable_x64"):
        jax.config.update("jax_enable_x64", wanted)
        jax.clear_caches()


def _writes_files(name: str) -> bool:
    return any(name == job and module.FILES for job, module in JOBS.values())


def _defaults(arguments: list[str]) -> sweep.Sweep:
    """The defaults of the sweep, from the file named if that is the command."""
    file = find_file(arguments[1:]) if arguments[:1] == ["sweep"] else None
    return sweep.Sweep() if file is None else read_settings(sweep.Sweep, file, sweep.HIDDEN)


def _report_refusal(name: str, error: Exception) -> int:
    """Say why in one line."""
    if isinstance(error, OSError) and error.strerror:
        error = OSError(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
    print(f"{f'jaxflow {name}'.strip()}: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    program()
