"""The site of made-up results, built once for the tests of a process, and a browser."""

import io
import json
import shutil
import tempfile

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from experiments.catalogue import FOLDERS
from experiments.site import build, tour
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


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for name in FOLDERS:
        write_result(folder, name, *(("0.0.9", True) if name == OTHER else ()))
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("white", "black", "red")]
    frames[0].save(folder / MOVING / f"{MOVING}.webp", save_all=True, append_images=frames[1:], lossless=True)
    return folder


@pytest.fixture(scope="session")
def site(results, tmp_path_factory):
    """The folder of the site. The tour of the README, which `test_readme` runs, is not run again for it."""
    folder = tmp_path_factory.mktemp("built") / "site"
    picture = tour.execute(["import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.ylabel('loss')"])[0][
        "pictures"
    ]
    shown = lambda text: [{"printed": "of the tour\n", "pictures": picture} for _ in tour.BLOCK.findall(text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tour, "run_tour", shown)
        build.build(results, folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, which keeps what it asked for and what it complained of."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver (on Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        still = ("background-networking", "component-update", "sync", "quic", "gpu", "dev-shm-usage")
        switches = ["headless", "no-sandbox", "no-first-run", *(f"disable-{what}" for what in still)]
        for switch in (*switches, f"user-data-dir={profile}"):
            options.add_argument(f"--{switch}")
        opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        yield opened
        opened.quit()
