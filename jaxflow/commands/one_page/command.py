"""`python -m jaxflow report FOLDER`: the results of any command as one HTML page that needs no other file."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from jaxflow._disk import results
from jaxflow.commands.one_page.page import page
from jaxflow.commands.one_page.reading import Results, read_results

FILES = ("report.html",)


@dataclass(frozen=True)
class Report:
    """Turn the output folder of any command, or of an experiment, into one HTML page to send to a colleague.

    The page holds the figure, the verdict, the numbers as tables, the settings, and the versions and the device they
    were made with. It is written to report.html in the same folder, needs no other file and asks no server for
    anything.
    """

    folder: tyro.conf.Positional[Path]
    """The output folder of compare, sweep, order, edge, density or landscape, or of python -m experiments NAME."""
    cache: ClassVar[bool] = False  # nothing is compiled
    x64: ClassVar[bool] = False

    @property
    def output(self) -> Path:
        return self.folder


def prepare(settings: Report) -> tuple[Results]:
    """What the folder holds; a folder that holds no results, or others than ours, is refused here."""
    found = read_results(settings.folder)
    results.check_folder(settings.folder, *FILES, argument="folder")
    return (found,)


def run(settings: Report, found: Results) -> None:
    """Write the page."""
    path = settings.folder / FILES[0]
    results.write(path, page(found).encode())
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB), which needs no other file.")
