"""A figure opened large: it fills the window, can be read, and is saved as a file."""

import json
import re
import struct
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from t2local.plots import plot_accuracy
from t2local.plots.bars import Score
from tests.ui.conftest import DESKTOP, PHONE, ask

pytestmark = pytest.mark.browser
EVERYWHERE = [(size, scheme) for size in (DESKTOP, PHONE) for scheme in ("light", "dark")]
FIGURE, MIXTURE = "#plot-dispatch", "#plot-mixture"


def plots_of(page, *, asked=True):
    """Open the chat's plots."""
    if asked:
        ask(page, "math spiders")
    if page.viewport_size["width"] < 1000:
        page.click("[data-page=show-wheel]")
    page.get_by_role("button", name="plots").click()
    page.wait_for_selector("#plot-spectrum .js-plotly-plot .main-svg", state="attached")


def dressed(open_page, size, scheme, *, asked=True):
    page = open_page(size)
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
    plots_of(page, asked=asked)
    return page


def open_large(page, figure=FIGURE):
    page.locator(f"{figure} .enlarge").click()
    page.wait_for_selector("#figure .main-svg", state="attached")


def put(page, figure, target=FIGURE):
    """Draw another figure in the place of one of the page's."""
    page.evaluate(
        "([at, f]) => Plotly.react(document.querySelector(at), f.data, f.layout)",
        [f"{target} .js-plotly-plot", json.loads(figure.to_json())],
    )


def saved(page, format, folder) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=format.upper()).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def rgb(page, selector, name):
    words = page.locator(selector).first.evaluate("(e, name) => getComputedStyle(e)[name]", name)
    return [float(part) for part in re.findall(r"[\d.]+", words)[:3]]


def contrast(one, other) -> float:
    """WCAG's contrast of two colours, each 0 to 255."""

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in (part / 255 for part in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("size", "scheme"), EVERYWHERE)
def test_a_figure_fills_the_window_and_escape_closes_it(open_page, size, scheme):
    page = dressed(open_page, size, scheme, asked=False)
    small = page.locator(f"{MIXTURE} .ytick text").first.evaluate(
        "e => parseFloat(getComputedStyle(e).fontSize)"
    )
    open_large(page, MIXTURE)
    box = page.locator("#figure").bounding_box()
    assert (box["x"], box["y"], box["width"], box["height"]) == (0, 0, *size)
    drawn = page.locator("#figure .svg-container").bounding_box()
    assert drawn["width"] >= 0.93 * size[0]
    assert drawn["height"] >= 0.8 * size[1]
    assert drawn["x"] + drawn["width"] <= size[0]
    assert drawn["y"] + drawn["height"] <= size[1]
    names = "e => [...e.querySelectorAll('.ytick text')].map(text => text.textContent)"
    assert page.locator("#figure").evaluate(names) == page.locator(MIXTURE).evaluate(names)
    large = page.locator("#figure .ytick text").first.evaluate(
        "e => parseFloat(getComputedStyle(e).fontSize)"
    )
    assert large >= 1.25 * small
    paper = rgb(page, "#figure", "backgroundColor")
    for part in ("#figure .ytick text", "#figure .xtick text"):
        assert contrast(rgb(page, part, "fill"), paper) >= 7
    assert contrast(rgb(page, "#figure header p", "color"), paper) >= 7
    for place in page.locator("#figure header button").all():
        at = place.bounding_box()
        assert 0 <= at["x"] <= at["x"] + at["width"] <= size[0], "a button is cut off"
    page.keyboard.press("Escape")
    page.wait_for_selector("#figure", state="hidden")
    assert page.evaluate("document.activeElement.matches('#plot-mixture .enlarge')")
    assert page.is_visible("#wheel"), "the drawer behind it stays open"


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_a_figure_is_saved_as_svg_and_png(open_page, tmp_path, size, scheme):
    page = dressed(open_page, size, scheme)
    open_large(page)
    drawn = page.locator("#figure .svg-container").bounding_box()
    drawing = saved(page, "svg", tmp_path)
    assert drawing.name == "t2local-dispatch.svg"
    root = ElementTree.fromstring(drawing.read_text("utf-8"))
    assert root.tag.endswith("svg")
    words = {text.strip() for text in root.itertext()}
    assert {"math", "code", "0.86"} <= words
    behind = root.find("{*}rect").get("style")
    paper = re.search(r"fill: rgb\(([^)]*)\)", behind).group(1)
    assert [int(part) for part in paper.split(",")] == rgb(page, "#figure", "backgroundColor")
    picture = saved(page, "png", tmp_path)
    assert picture.name == "t2local-dispatch.png"
    bytes_ = picture.read_bytes()
    assert bytes_[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", bytes_[16:24])
    assert abs(width - 2 * drawn["width"]) <= 2
    assert abs(height - 2 * drawn["height"]) <= 2
    page.locator("#figure").get_by_role("button", name="Close").click()
    page.wait_for_selector("#figure", state="hidden")


def test_every_figure_of_the_chat_opens_and_one_that_shows_nothing_does_not(open_page):
    page = open_page()
    plots_of(page, asked=False)
    page.wait_for_selector("#plot-mixture .enlarge:visible")
    assert not page.is_visible(f"{FIGURE} .enlarge"), "nothing was asked of pass 1 yet"
    said = []
    for name in ("mixture", "spectrum"):
        button = page.locator(f"#plot-{name}").get_by_role("button", name="open large")
        assert button.bounding_box()["width"] >= 24
        open_large(page, f"#plot-{name}")
        said.append(page.inner_text("#figure-said"))
        page.keyboard.press("Escape")
    assert "α" in said[0]
    assert "σ" in said[1]
    ask(page, "math spiders")  # its figures take the place of those before
    page.wait_for_selector(f"{FIGURE} .enlarge:visible")
    open_large(page)
    assert page.locator(f"{FIGURE} .enlarge").count() == 1
    assert page.locator("#figure .bars .point").count() == 4


def test_a_figure_that_changes_is_followed_while_it_is_large(open_page):
    page = open_page()
    plots_of(page, asked=False)
    open_large(page, MIXTURE)
    put(page, plot_accuracy([Score("t", "a new one", 40, 12)]), MIXTURE)
    page.wait_for_selector("#figure .ytick >> text=a new one")
    page.set_viewport_size({"width": 1000, "height": 700})
    page.wait_for_function("document.querySelector('#figure .svg-container').offsetWidth < 1000")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_intervals_stand_out_from_their_bars_and_from_the_paper(open_page, scheme):
    page = dressed(open_page, DESKTOP, scheme, asked=False)
    names = ("base", "math", "code", "reasoning", "classifier", "vision", "other", "my own")
    put(page, plot_accuracy([Score("t", name, 60, 30) for name in names]), MIXTURE)
    open_large(page, MIXTURE)
    page.wait_for_selector("#figure .errorbar path")
    opacity = 0.75
    for place in (MIXTURE, "#figure"):
        paper = rgb(page, "#wheel" if place == MIXTURE else "#figure", "backgroundColor")
        stroke = rgb(page, f"{place} .errorbar path", "stroke")
        assert contrast(stroke, paper) >= 7
        bars = page.locator(f"{place} .bars .point > path")
        fills = bars.evaluate_all("paths => paths.map(path => getComputedStyle(path).fill)")
        assert len(fills) == len(names)
        for fill in fills:
            own = [float(part) for part in re.findall(r"[\d.]+", fill)[:3]]
            seen = [opacity * a + (1 - opacity) * b for a, b in zip(own, paper, strict=True)]
            assert contrast(stroke, seen) >= 3, fill
    widths = [
        float(rgb(page, f"{place} .errorbar path", "strokeWidth")[0])
        for place in (MIXTURE, "#figure")
    ]
    assert widths[0] >= 2
    assert all(small < large for small, large in pairwise(widths))
