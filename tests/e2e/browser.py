# SPDX-License-Identifier: Apache-2.0
"""Chromium for the tests of the dashboard: fixtures `browser`, `server`, `page`, `cut_page`, and what they all do. With
PARED_SHOTS=1 the tests leave screenshots in build/screenshots to be looked at; they take as long as the rest."""

import json
import os
import shutil

import pytest
from pared_server import ROOT, Server

try:
    import playwright.sync_api as playwright
except ImportError:
    playwright = None
CHROMIUM = shutil.which("chromium")
playwright_only = pytest.mark.skipif(not (playwright and CHROMIUM), reason="skipped: no chromium or no playwright")
SHOTS = os.path.join(ROOT, "build", "screenshots")
DIGITS = os.path.join(ROOT, "examples", "digits")
AXE = os.path.join(ROOT, "build", "npm", "node_modules", "axe-core", "axe.min.js")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    os.makedirs(SHOTS, exist_ok=True)
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server():
    with Server() as s:
        yield s


def watched(browser, request, expected):
    """A page whose test fails on any console error but the expected."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    errors = []
    tab.on("pageerror", lambda e: errors.append(str(e)))
    known = lambda text: any(words in text for words in expected)  # noqa: E731
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" and not known(m.text) else None)
    yield tab
    context.close()
    assert errors == []


@pytest.fixture
def page(browser, request):
    yield from watched(browser, request, ["status of 4"])


@pytest.fixture
def cut_page(browser, request):
    """The same where requests are cut off on purpose."""
    yield from watched(browser, request, ["status of 4", "net::ERR_"])


def fits(tab):
    return tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def upload(tab, zone, path):
    card = tab.locator(".drop").nth(zone)
    card.locator("input[type=file]").set_input_files(path)
    card.get_by_text("is ready").wait_for(timeout=20000)


def shot(tab, name, full_page=True):
    if os.environ.get("PARED_SHOTS"):
        tab.screenshot(path=os.path.join(SHOTS, name + ".png"), full_page=full_page)


def put(server, path, name):
    with open(os.path.join(DIGITS, name), "rb") as f:
        return server.request("POST", f"/v1/{path}?name={name}", body=f.read()).json()["id"]


COLOUR_RULES = ["color-contrast", "link-in-text-block"]


def axe(tab, only=None):
    """What axe-core finds wrong with the page as it is: [(rule, impact, first places)]. only: names of rules, else all.
    The page's own policy forbids strange scripts, so it is put in from outside, as a debugger does."""
    if not os.path.exists(AXE):
        pytest.skip("skipped: axe-core is not below build/npm (make build/npm/ok)")
    if not tab.evaluate("'axe' in window"):
        with open(AXE) as f:
            tab.evaluate(f.read())
    found = json.loads(
        tab.evaluate(
            """(only) => axe.run(document, { resultTypes: ['violations'],
                                             ...(only ? { runOnly: { type: 'rule', values: only } } : {}) })
                 .then((r) => JSON.stringify(r.violations))""",
            only,
        )
    )
    return [(v["id"], v["impact"], [(n["target"], n["failureSummary"][:300]) for n in v["nodes"][:3]]) for v in found]


LOOKS = [(1280, "light"), (1280, "dark"), (360, "dark"), (360, "light")]


def in_every_look(tab):
    """One page without loading it again: wide and narrow, light and dark. Yields (name, rules of axe that this look may
    break): the first look of a width any rule, another theme those of colours."""
    checked = set()
    for width, scheme in LOOKS:
        tab.set_viewport_size({"width": width, "height": 800})
        tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        tab.evaluate(
            """() => new Promise((done) =>
                 requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 20))))"""
        )
        yield ("phone-" if width < 500 else "") + scheme, COLOUR_RULES if width in checked else None
        checked.add(width)
    tab.set_viewport_size({"width": LOOKS[0][0], "height": 800})
    tab.emulate_media(color_scheme=LOOKS[0][1])
