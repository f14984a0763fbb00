"""The page in a headless Chromium: what a person does with a mouse, a keyboard and a finger."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from report_pages import HOSTILE

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    """Chromium, or a skip that says what to install."""
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, BROWSERS)]
    binary = next((path for path in found if path and Path(path).exists()), None)
    if binary is None:
        pytest.skip("no browser: apt-get install chromium, or set CHROMIUM to the path of Chromium or Chrome")
    driver = pytest.importorskip("playwright.sync_api", reason="no driver of browsers: pip install playwright")
    with driver.sync_playwright() as play:
        # Root, as in containers, may not use the sandbox.
        arguments = ["--no-sandbox"] if sys.platform == "linux" and os.geteuid() == 0 else []
        started = play.chromium.launch(executable_path=binary, args=arguments)
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Open a page; at the end there must be no messages in its console, no errors, and no requests to a network."""
    said, contexts = [], []

    def go(path, *, address="", **options):
        contexts.append(browser.new_context(**{"viewport": DESKTOP, **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(f"request: {request.url}"))
        page.goto(path.resolve().as_uri() + address)
        page.wait_for_selector(".plot, .strip")
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []


def until(page, expression, argument=None, seconds=10.0):
    """Wait until a function of JavaScript returns true. The page's policy refuses what the driver would wait with."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"not within {seconds:g} s: {expression}"
        page.wait_for_timeout(30)


WORDS = "#region-title ~ p"
NEW_WORDS = f"before => document.querySelector('{WORDS}').textContent !== before"


def middle(box, x=0.5, y=0.5):
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def pixels(page, selector):
    """Return a canvas as text, to compare it with what it is later."""
    return page.eval_on_selector(selector, "canvas => canvas.toDataURL()")


def split(page):
    return float(page.eval_on_selector(".stage", "stage => parseFloat(stage.style.getPropertyValue('--split'))"))


def overflow(page):
    """Return by how many pixels the page is wider than the screen; window.innerWidth grows with the page on phones."""
    return page.evaluate("document.documentElement.scrollWidth") - page.viewport_size["width"]


def test_one_result_by_mouse_and_keyboard(results, visit):
    results.report("painted", "-o", "page.html")
    page = visit(results.place / "page.html")
    page.wait_for_selector(".plot .dot")
    images = page.eval_on_selector_all("img", "all => Promise.all(all.map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(images) == 6
    assert min(images) > 0
    assert overflow(page) <= 0
    stage = page.locator(".stage").bounding_box()

    # The divider moves by the mouse and by its range, and both agree.
    page.mouse.move(*middle(stage))
    page.mouse.down()
    page.mouse.move(*middle(stage, x=0.25), steps=4)
    page.mouse.up()
    assert split(page) == pytest.approx(25, abs=1)
    assert float(page.locator("[aria-label^='Divider']").input_value()) == pytest.approx(25, abs=1)
    page.locator("[aria-label^='Divider']").focus()
    page.keyboard.press("End")
    assert split(page) == 100

    # Keys flip the samples, and the picture on the right changes with them; on a range they do not.
    before = pixels(page, ".stage .right")
    page.locator("#main").focus()
    shown = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        shown.append(page.locator("output[aria-live]").first.text_content().partition(" (")[2])
    assert shown == ["1 of 3)", "2 of 3)", "3 of 3)", "1 of 3)", "3 of 3)"]
    assert pixels(page, ".stage .right") != before
    label = page.locator(".stage .right").get_attribute("aria-label")
    assert label.replace(", closest to all others", "") == "Sample 3 of photo.png"
    assert page.locator(".strip [aria-pressed=true]").text_content().startswith("Sample 3")
    page.get_by_role("button", name="Play").click()
    until(page, "() => document.querySelector('.stage .right').getAttribute('aria-label').startsWith('Sample 2')")
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Left picture").select_option("mask")
    assert page.locator(".stage .left").get_attribute("aria-label") == "Mask of photo.png"

    # A click and a drag choose a region, whose distribution appears; so do numbers that are typed.
    words = page.locator(WORDS).first
    first = words.text_content()
    page.evaluate("scrollTo(0, 0)")
    stage = page.locator(".stage").bounding_box()
    page.mouse.click(*middle(stage, 0.9, 0.1))
    until(page, NEW_WORDS, first)
    assert words.text_content().startswith("Mean 0.")
    assert page.locator(".plot .dot").count() == 3
    second = words.text_content()
    page.mouse.move(*middle(stage, 0.3, 0.3))
    page.mouse.down()
    page.mouse.move(*middle(stage, 0.7, 0.8), steps=4)
    page.mouse.up()
    until(page, NEW_WORDS, second)
    assert [
        int(page.get_by_label(f"{side} [px]").input_value()) for side in ("left", "top", "width", "height")
    ] == pytest.approx([0.3 * 32, 0.3 * 20, 0.4 * 32, 0.5 * 20], abs=1)
    page.get_by_label("width [px]").fill("4")
    page.get_by_label("width [px]").press("Enter")
    assert page.eval_on_selector(".box", "box => box.style.width") == "12.5%"
    assert "standard deviation" in page.locator("svg.plot").get_attribute("aria-label")

    # Directions: the mean at 0, another picture at 3 and along another direction.
    slider = page.get_by_label("Standard deviations along the direction")
    mean = pixels(page, "#directions canvas")
    slider.fill("3")
    far = pixels(page, "#directions canvas")
    page.get_by_role("button", name="Direction 2").click()
    until(page, "before => document.querySelector('#directions canvas').toDataURL() !== before", far)
    assert mean != far
    page.get_by_role("button", name="Back to the mean").click()
    assert pixels(page, "#directions canvas") == mean

    # Maps have numbers at their color bars, and at the mouse.
    page.locator("canvas.map").first.hover()
    assert " at " in page.locator("figcaption output").first.text_content()
    assert page.locator(".bar li").first.text_content() == "0"


def test_colors_and_the_region_are_those_of_the_files(results, visit):
    """The mean of a region of a page without loss of size is that of the file."""
    from invdiff.io.images import read_image

    results.report("gray", "-o", "page.html")
    page = visit(results.place / "page.html")
    page.wait_for_selector(".plot .dot")
    for name, value in {"left": 4, "top": 3, "width": 16, "height": 10}.items():
        page.get_by_label(f"{name} [px]").fill(str(value))
        page.get_by_label(f"{name} [px]").press("Enter")
    page.get_by_text("Values", exact=True).click()
    files = [(read_image(results.place / "gray" / f"sample-{k}.png").pixels[:, 3:13, 4:20].mean() + 1) / 2 for k in (1, 2)]
    shown = "() => [...document.querySelectorAll('details td:nth-child(2)')].map((cell) => Number(cell.textContent))"
    near = f"files => ({shown})().every((value, k) => Math.abs(value - files[k]) < 0.006)"
    assert page.eval_on_selector(".box", "box => box.style.width") == "50%"
    until(page, near, files)
    assert len(page.evaluate(shown)) == 2
    assert "truth" in page.locator(WORDS).first.text_content()


def test_a_study_on_a_phone_in_the_dark(results, study, visit):
    results.report("study", code=1)
    phone = {"viewport": PHONE, "color_scheme": "dark", "has_touch": True, "is_mobile": True}
    page = visit(study / "report.html", **phone)
    page.wait_for_selector(".plot .dot")
    assert overflow(page) <= 0
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert page.evaluate(ground) < 60
    page.locator("#theme").tap()
    assert page.evaluate(ground) > 200

    # A finger chooses a region, and another picture from the list, which shuts.
    words = page.locator(WORDS).first
    first = words.text_content()
    page.locator(".stage").tap(position={"x": 20, "y": 20})
    until(page, NEW_WORDS, first)
    page.locator("#list summary").tap()
    page.locator("#list li button").nth(2).tap()
    assert page.locator("h1").text_content() == HOSTILE
    assert page.locator("#list details").get_attribute("open") is None
    assert overflow(page) <= 0
    assert "Only one sample was drawn" in page.locator(".note").text_content()
    assert "damaged.png" in page.locator("main ul.plain").text_content()


def test_an_address_leads_to_a_picture(results, study, visit):
    results.report("study", code=1)
    page = visit(study / "report.html", address="#gray.png")
    assert page.locator("h1").text_content() == "gray.png"
    page.get_by_role("button", name="Next picture").click()
    assert page.locator("h1").text_content() == HOSTILE
    page.get_by_role("button", name="sub/photo.png").last.click()
    assert page.locator("h1").text_content() == "sub/photo.png"
    assert page.evaluate("location.hash") == "#sub%2Fphoto.png"
