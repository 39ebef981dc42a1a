"""Files such as experiments write, with numbers that are made up."""

import io
import json

import matplotlib.pyplot as plt

from jaxflow import __version__

MOVING = "fokker_planck"  # with a picture that moves
OTHER = "ravine"  # made by another version, in its quick form


def write_result(folder, name, version=__version__, quick=False):
    """Files such as an experiment writes."""
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.set_title(name)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=40)
    plt.close(figure)
    lines = {
        "slope | of *one*": {"measured": 1.25, "expected": 1.0, "interval": [None, 1.5], "reached": True},
        "several": {"measured": [1, None], "expected": None, "interval": None, "reached": None},
        "too large": {"measured": 7.5, "expected": 2, "interval": [1.0, 3.0], "reached": False},
    }
    content = {"experiment": name, "quick": quick, "seconds": 12.5, "headlines": lines, "device": "a machine"}
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}.png").write_bytes(picture.getvalue())
    (folder / name / f"{name}.json").write_text(json.dumps(content | {"versions": {"jaxflow": version}}))
