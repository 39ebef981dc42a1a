"""The site of made-up results, built once for the tests of all processes, and a browser."""

import os
import shutil
import tempfile

import pytest
from filelock import FileLock
from made_up_results import MOVING, OTHER, write_result
from PIL import Image

from experiments.catalogue import FOLDERS
from experiments.site import build, tour


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
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "site"
    with FileLock(shared / "site.lock"):
        if not folder.exists():
            build_once(results, folder)
    return folder


def build_once(results, folder):
    picture = tour.execute(["import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.ylabel('loss')"])[0][
        "pictures"
    ]
    shown = lambda text: [{"printed": "of the tour\n", "pictures": picture} for _ in tour.BLOCK.findall(text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tour, "run_tour", shown)
        build.build(results, folder)


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
