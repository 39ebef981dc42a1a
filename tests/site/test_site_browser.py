"""The site in a real browser, from the file system, as wide as a desk and as a phone."""

import json
import time
from importlib.resources import files

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from experiments.catalogue import FOLDERS

WIDTHS = {"desk": 1280, "phone": 390}


@pytest.fixture(params=WIDTHS)
def at(request, browser, site):
    """`at(page)` opens a page at a width, and hands back the browser."""
    width = WIDTHS[request.param]
    screen = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if width < 500 else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def opened(page):
        address = (site / page).as_uri()
        browser.get(address)
        there = "return document.readyState === 'complete' && location.href === arguments[0]"
        WebDriverWait(browser, 20).until(lambda browser: browser.execute_script(there, address))
        return browser

    return opened


def complaints(browser):
    """What the console holds, and the requests of our pages that failed or went beyond the file system."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        event["params"]["requestId"]: event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
        and event["params"]["documentURL"].startswith("file:")  # not the page with which a browser opens
    }
    failed = [event["params"]["requestId"] for event in events if event["method"] == "Network.loadingFailed"]
    elsewhere = [url for url in asked.values() if not url.startswith(("file:", "data:", "blob:"))]
    return browser.get_log("browser") + [asked[one] for one in failed if one in asked] + elsewhere


def fits(browser):
    """Whether the page is no wider than the window."""
    return browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_the_gallery_shows_every_card(at):
    browser = at("gallery.html")
    cards = browser.find_elements(By.CSS_SELECTOR, ".card")
    assert [card.get_attribute("id") for card in cards] == list(FOLDERS)
    assert all(card.is_displayed() and card.size["width"] <= 1280 for card in cards)
    browser.execute_script("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    drawn = (
        "return [...document.querySelectorAll('.card img')].filter(image => image.naturalWidth > 0).length"
    )
    WebDriverWait(browser, 20).until(lambda browser: browser.execute_script(drawn) == len(FOLDERS))
    assert fits(browser)
    assert not complaints(browser)


def test_the_search_finds_modified(at):
    browser = at("index.html")
    browser.execute_script("document.querySelector('#__search').click()")  # on a phone it is behind a button
    field = browser.find_element(By.CSS_SELECTOR, ".md-search__input")
    WebDriverWait(browser, 20).until(lambda _: field.is_displayed())
    time.sleep(0.5)  # the field slides in
    field.send_keys("modified")
    found = lambda browser: browser.find_elements(By.CSS_SELECTOR, ".md-search-result__item a")
    WebDriverWait(browser, 30).until(found)
    assert any("dynamics.html" in link.get_attribute("href") for link in found(browser))
    assert not complaints(browser)


def test_a_formula_is_rendered(at):
    browser = at("reference/games.html")
    formulas = browser.find_elements(By.CSS_SELECTOR, ".formula math")
    assert len(formulas) > 3
    assert all(formula.size["height"] > 8 and formula.size["width"] > 4 for formula in formulas)
    assert browser.execute_script("return document.querySelectorAll('math mfrac, math msub').length") > 3
    assert fits(browser)
    assert not complaints(browser)


@pytest.mark.parametrize(
    "page", ["index.html", "gallery.html", "results/discovery.html", "tour.html", "reference/games.html"]
)
def test_no_serious_barrier_is_found(at, page):
    """By axe-core, which tells of contrast, names, texts, headings and the keyboard."""
    browser = at(page)
    browser.execute_script(files("axe_core_python").joinpath("axe.min.js").read_text())
    asked = "const done = arguments[0]; axe.run({resultTypes: ['violations']}).then(done)"
    found = browser.execute_async_script(asked)["violations"]
    grave = [
        (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
    ]
    assert not grave
    assert not browser.find_elements(
        By.CSS_SELECTOR, ".md-typeset__scrollwrap:not([tabindex])"
    )  # wide tables
    assert fits(browser)
    assert not complaints(browser)
