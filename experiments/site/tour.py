"""The tour of the README, run from top to bottom, with what it prints and the pictures that it draws."""

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from experiments.site.docstrings import ROOT
from jaxflow._disk.results import write

BLOCK = re.compile(r"```python\n(.*?)```\n", re.DOTALL)
# Most of the tour's time is compilation.
FAST_TO_COMPILE = " ".join(
    f"--xla_{flag}"
    for flag in (
        "backend_optimization_level=0",
        "llvm_disable_expensive_passes=true",
        "cpu_parallel_codegen_split_count=1",
    )
)


def tour_of(readme: str) -> str:
    """The part of the README with the tour: all from its heading with code to the table of what to call."""
    begin, end = readme.find("## Five minutes"), readme.find("## I want to")
    if not 0 <= begin < end:
        raise ValueError("README.md must have its tour between `## Five minutes` and `## I want to …`.")
    return readme[begin:end]


def tour_page(text: str, shown: list[dict[str, Any]], folder: Path) -> str:
    """The tour with what each block of code showed; pictures are written to `folder`, next to the page."""
    left = iter(enumerate(shown))

    def with_output(match: re.Match[str]) -> str:
        number, one = next(left)
        parts = [match[0]]
        if one["printed"].strip():
            parts.append(f'```text title="printed"\n{one["printed"].rstrip()}\n```\n')
        for i, picture in enumerate(one["pictures"]):
            name = f"tour_{number}_{i}.png"
            (folder / name).write_bytes(base64.b64decode(picture["png"]))
            parts.append(f"![{picture['alternative']}]({name})\n")
        return "\n".join(parts)

    told = "Every block of code below was run when this page was built, and shows what it printed and drew."
    body = BLOCK.sub(with_output, text).removeprefix("## Five minutes").strip()
    return f"# Tour\n\n{told}\n\n{body}\n"


def run_tour(text: str) -> list[dict[str, Any]]:
    """What each block shows, run in a process of its own; kept until a block or the library changes."""
    blocks = BLOCK.findall(text)
    key = hashlib.sha256(json.dumps(blocks).encode())
    for path in sorted((ROOT / "jaxflow").rglob("*.py")):
        key.update(path.read_bytes())
    kept = user_cache_path("jaxflow", appauthor=False) / "tour" / f"{key.hexdigest()[:32]}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    with tempfile.TemporaryDirectory() as folder:  # where its files go
        given = Path(folder) / "blocks.json"
        given.write_text(json.dumps(blocks))
        where = {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", FAST_TO_COMPILE),
        }
        command = [sys.executable, "-m", "experiments.site.tour", str(given)]
        done = subprocess.run(
            command, cwd=folder, env=os.environ | where, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(f"the tour of README.md must run, and fails:\n{done.stderr[-2000:].strip()}")
        write(kept, given.read_bytes())  # which may be on another file system
    return json.loads(kept.read_text())


def execute(blocks: list[str]) -> list[dict[str, Any]]:
    """Run blocks one after another in one namespace; what each prints, and the pictures it leaves open."""
    import matplotlib

    from jaxflow._disk.program_cache import keep_programs

    matplotlib.use("Agg")
    keep_programs()
    import matplotlib.pyplot as plt

    plt.close("all")  # what was drawn before is not theirs
    names: dict[str, Any] = {"__name__": "tour"}
    shown = []
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "README.md", "exec"), names)
        pictures = [_picture(plt.figure(number)) for number in plt.get_fignums()]
        plt.close("all")
        shown.append({"printed": printed.getvalue(), "pictures": pictures})
    return shown


def _picture(figure: Any) -> dict[str, str]:
    """A figure as PNG, with the words on it as its alternative text."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    words = [(axes.get_title(), axes.get_ylabel(), axes.get_xlabel()) for axes in figure.axes]
    told = "; ".join(" against ".join(filter(None, one[1:])) or one[0] for one in words if any(one))
    plain = re.sub(r"[\[\]$\\]", "", told) or "no labels"
    return {
        "png": base64.b64encode(buffer.getvalue()).decode(),
        "alternative": f"Picture drawn by the code: {plain}",
    }


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(json.dumps(execute(json.loads(file.read_text()))))
