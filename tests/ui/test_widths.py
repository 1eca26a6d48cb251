"""From a wall to a laptop zoomed to 200 %: no sideways scroll, nothing cut off or overlapping."""

import pytest

from tests.ui.conftest import DESKTOP, ask

pytestmark = pytest.mark.browser
WALL = (1920, 1080)
ZOOMED = {"150 %": ((960, 600), 1.5), "200 %": ((720, 450), 2.0)}
TABS = ("Train", "Adapt", "Experts", "Label", "Arena", "Evaluate", "Models", "Jobs")
CUT_OFF = """() => [...document.querySelectorAll("button, [role=tab]")].filter((button) => {
    const at = button.getBoundingClientRect();
    if (!button.checkVisibility({ checkVisibilityCSS: true }) || !at.width) return false;
    if (button.closest(".toast-body, #chats-column, #wheel")) return false;
    const turned = button.matches(".label-wrap"); // its arrow, which counts as it lay before
    const narrow = !turned && button.scrollWidth > button.clientWidth + 2;
    return at.left < 0 || at.right > innerWidth + 0.5 || narrow;
}).map((button) => button.outerHTML.slice(0, 120))"""


def box(page, selector):
    at = page.locator(selector).bounding_box()
    return at["x"], at["y"], at["x"] + at["width"], at["y"] + at["height"]


def overlap(one, other) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def fits(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CUT_OFF) == []


@pytest.mark.parametrize(
    ("size", "scale"), [(WALL, 1.0), *ZOOMED.values()], ids=["wall", *ZOOMED]
)  # fmt: skip
def test_every_tab_fits(open_page, size, scale):
    page = open_page(size, device_scale_factor=scale)
    ask(page, "math spiders")
    fits(page)
    for tab in TABS:
        # not a click of the mouse, which waits until messages above the tab are gone
        page.get_by_role("tab", name=tab).evaluate("tab => tab.click()")
        page.wait_for_timeout(200)
        fits(page)


@pytest.mark.parametrize("zoom", ZOOMED)
def test_a_zoomed_chat_keeps_its_parts_apart(open_page, zoom):
    size, scale = ZOOMED[zoom]
    page = open_page(size, device_scale_factor=scale)
    ask(page, "math spiders")
    parts = ["#header", "#tabs .tab-wrapper", "#transcript", "#composer", "#drawers", "#under"]
    boxes = [box(page, part) for part in parts]
    for i, one in enumerate(boxes):
        assert one[3] <= size[1] + 1, f"{parts[i]} ends below the window"
        for j in range(i):
            assert not overlap(one, boxes[j]), (parts[i], parts[j])
    transcript = boxes[2]
    assert transcript[3] - transcript[1] >= 0.3 * size[1], "room to read"
    page.click("[data-page=show-wheel]")
    page.get_by_role("button", name="plots").click()
    page.wait_for_selector("#plot-mixture .enlarge:visible")
    fits(page)


def test_a_wall_is_used(open_page):
    page = open_page(DESKTOP)
    ask(page, "math spiders")
    page.get_by_role("button", name="plots").click()
    page.wait_for_selector("#plot-mixture .svg-container", state="attached")
    measured = (
        "() => ['.turns', '#composer', '#under', '#plot-mixture .svg-container']"
        ".map(at => document.querySelector(at).getBoundingClientRect().width)"
    )
    usual = page.evaluate(measured)
    letters = "() => parseFloat(getComputedStyle(document.querySelector('.answer p')).fontSize)"
    small = page.evaluate(letters)
    page.set_viewport_size({"width": WALL[0], "height": WALL[1]})
    page.wait_for_function(
        "before => document.querySelector('#plot-mixture .svg-container').offsetWidth > before",
        arg=usual[-1],
    )
    wide = page.evaluate(measured)
    assert all(after >= 1.3 * before for before, after in zip(usual, wide, strict=True))
    assert page.evaluate(letters) > small
    for column in ("#chats-column", "#stage", "#wheel"):
        assert page.is_visible(column)
