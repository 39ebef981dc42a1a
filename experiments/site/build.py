"""Building the site: pages as Markdown in a folder of their own, which MkDocs makes into HTML."""

import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from experiments.catalogue import CHAPTERS
from experiments.site import notebooks, reference, result_pages, tour
from experiments.site.docstrings import ROOT, page_of
from experiments.site.found_results import Found, find_results

HERE = Path(__file__).parent
MARK = ".built-by-experiments.site"  # in every site, so that no other folder is ever replaced


def build(results: Path, output: Path, *, without_missing: bool = False) -> None:
    """Build the site of the results in `results/NAME` into the folder `output`, whole or not at all.

    Raises `ValueError` where results are missing, unless that was asked for, and where `output` holds something else
    than an earlier site.
    """
    _check_output(output)
    found, missing = find_results(results)
    if missing and not without_missing:
        runs = "".join(f"\n  python -m experiments {name} --output {results / name}" for name in missing)
        raise ValueError(
            f"{results} must hold all results, and these are missing: {', '.join(missing)}. Make them by{runs}\n"
            "or build without them by --without-missing."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        pages, site = Path(folder) / "pages", Path(folder) / "site"
        write_pages(pages, found, missing)
        run_mkdocs(pages, site, list(found))
        (site / "404.html").unlink()  # of servers alone; its links are to the root of one
        (site / MARK).touch()
        if output.exists():
            output.rename(Path(folder) / "before")
        site.rename(output)


def _check_output(output: Path) -> None:
    if output.exists() and not (output.is_dir() and ((output / MARK).exists() or not any(output.iterdir()))):
        raise ValueError(f"--output must be a new or empty folder or an earlier site, got {str(output)!r}.")


def write_pages(folder: Path, found: dict[str, Found], missing: list[str]) -> None:
    """All pages in Markdown, with their pictures and notebooks."""
    for name in ("assets", "results", "reference", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path in (HERE / "assets").iterdir():
        shutil.copy(path, folder / "assets")
    shutil.copy(ROOT / "CITATION.cff", folder)
    readme = _with_links((ROOT / "README.md").read_text())
    for name in re.findall(r"\]\(figures/([\w.]+)\)", readme):
        shutil.copy(ROOT / "experiments" / "figures" / name, folder / "figures")
    part = tour.tour_of(readme)
    pages = {
        "index.md": readme,
        "gallery.md": result_pages.gallery(found, missing),
        "tour.md": tour.tour_page(part, tour.run_tour(part), folder),
        "contributing.md": _with_links((ROOT / "CONTRIBUTING.md").read_text()),
        "changelog.md": _with_links((ROOT / "CHANGELOG.md").read_text()),
    }
    pages |= {f"reference/{name}": text for name, text in reference.reference_pages().items()}
    for name, one in found.items():
        pages[f"results/{name}.md"] = result_pages.result_page(one)
        shutil.copy(one.figure, folder / "results")
        if one.moving:
            shutil.copy(one.moving, folder / "results")
            _write_still(one.moving, folder / "results" / f"{name}-still.png")
        notebooks.write_notebook(folder / "results" / f"{name}.ipynb", name)
    for name, text in pages.items():
        (folder / name).write_text(text)


def _write_still(moving: Path, path: Path) -> None:
    """The last frame of an animation."""
    from PIL import Image

    with Image.open(moving) as picture:
        picture.seek(picture.n_frames - 1)  # type: ignore[attr-defined]
        picture.convert("RGB").save(path)


def _with_links(text: str) -> str:
    """Links to files of the repository as links to pages of the site."""
    targets = {
        "experiments/figures/": "figures/",
        "experiments/README.md": "gallery.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
    }
    for old, new in targets.items():
        text = text.replace(f"]({old}", f"]({new}")
    return text


def run_mkdocs(pages: Path, site: Path, names: list[str]) -> None:
    """Make HTML of the pages. Raises `ValueError` where MkDocs warns of anything."""
    os.environ["NO_MKDOCS_2_WARNING"] = "true"  # a notice of the theme's, on its successor
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    settings: dict[str, Any] = {"docs_dir": str(pages), "site_dir": str(site), "nav": _navigation(names)}
    warnings = _Warnings()
    logging.getLogger("mkdocs").addHandler(warnings)
    try:
        config = load_config(str(HERE / "mkdocs.yml"), strict=True, **settings)
        config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(ROOT)]
        config.plugins.on_startup(command="build", dirty=False)
        mkdocs_build(config)
    except Abort as error:
        raise ValueError(
            f"MkDocs must build the site without a warning: {'; '.join(warnings.said)}."
        ) from error
    finally:
        logging.getLogger("mkdocs").removeHandler(warnings)


class _Warnings(logging.Handler):
    """Keeps what MkDocs warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def _navigation(names: list[str]) -> list[dict[str, Any]]:
    title = lambda name: page_of(name).title.partition(":")[0].rstrip(".")
    chapters = [
        {chapter.title: [{title(name): f"results/{name}.md"} for name in chapter.results if name in names]}
        for chapter in CHAPTERS.values()
        if any(name in names for name in chapter.results)
    ]
    api = [{"jaxflow": "reference/index.md"}]
    api += [{f"jaxflow.{package}": f"reference/{package}.md"} for package in reference.PACKAGES]
    return [
        {"Home": "index.md"},
        {"Gallery": [{"All results": "gallery.md"}, *chapters]},
        {"Tour": "tour.md"},
        {"API reference": api},
        {"Contributing": "contributing.md"},
        {"Changelog": "changelog.md"},
    ]
