"""Every result, one process each and several at a time, with a table of what was reached."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from experiments import common
from experiments.catalogue import FOLDERS
from jaxflow import __version__


class Outcome(NamedTuple):
    """What became of one result: seconds, claims reached and made, and an error's last line or nothing."""

    name: str
    seconds: float | None
    reached: int
    claims: int
    error: str


def read_outcome(name: str, folder: Path) -> Outcome:
    """What the JSON of a result tells."""
    content = json.loads((folder / f"{name}.json").read_text())
    verdicts = [line["reached"] for line in content["headlines"].values() if line["reached"] is not None]
    return Outcome(name, content["seconds"], sum(verdicts), len(verdicts), "")


def there_already(name: str, folder: Path, quick: bool) -> bool:
    """Whether a result of this form and this version is there, whole."""
    try:
        content = json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return False
    mine = content.get("quick") is quick and content.get("versions", {}).get("jaxflow") == __version__
    return mine and (folder / f"{name}.png").exists()


def run_one(name: str, folder: Path, options: list[str]) -> Outcome:
    command = [sys.executable, "-m", "experiments", name, "--output", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Outcome(name, None, 0, 0, (done.stderr.strip().splitlines() or ["no message"])[-1])
    return read_outcome(name, folder)


def outcomes(names: list[str], output: Path, jobs: int, options: list[str]) -> Iterator[Outcome]:
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(run_one, name, output / name, options) for name in names]
        for done in common.progress(as_completed(waiting), "results", total=len(waiting)):
            yield done.result()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments all", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller versions, in seconds each")
    parser.add_argument("--output", type=Path, default=Path("results"), help="default: %(default)s")
    parser.add_argument(
        "--jobs", type=int, default=2, help="results computed at a time (default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="compute also what is there already")
    parser.add_argument(
        "--no-cache", action="store_true", help="compile all programs, even those kept on disk"
    )
    chosen = parser.parse_args(arguments)
    if chosen.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {chosen.jobs}.")
    there = lambda name: not chosen.again and there_already(name, chosen.output / name, chosen.quick)
    kept = [name for name in FOLDERS if there(name)]
    options = ["--quick"] * chosen.quick + ["--no-cache"] * chosen.no_cache
    began = time.perf_counter()
    found = [read_outcome(name, chosen.output / name) for name in kept]
    found += outcomes([name for name in FOLDERS if name not in kept], chosen.output, chosen.jobs, options)
    order = list(FOLDERS)
    found.sort(key=lambda one: order.index(one.name))
    rows = [
        (
            one.name,
            one.seconds,
            f"{one.reached} of {one.claims}",
            one.error or ("kept" if one.name in kept else ""),
        )
        for one in found
    ]
    print(common.table(("", "seconds", "reached", ""), rows))
    good = [one for one in found if not one.error and one.reached == one.claims]
    print(f"{len(good)} of {len(found)} results without a failure, in {time.perf_counter() - began:.0f} s.")
    return int(len(good) < len(found))
