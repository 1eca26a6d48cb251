"""Prompts in the page: saved, chosen, filled, edited, deleted and brought back, handed on."""

import json

import pytest

from t2local.engine.prompts import SavedPrompt
from tests.ui.conftest import DESKTOP, PHONE, serve

pytestmark = pytest.mark.browser
BOX = "#message textarea"


@pytest.fixture
def home(tmp_path):
    served, close = serve(tmp_path)
    yield served
    close()


def library(open_page, home, size=DESKTOP, **options):
    page = open_page(size, home.url, **options)
    if size == PHONE:
        page.click("text=☰ Chats")
    page.click("#prompts .label-wrap")
    page.wait_for_selector("#prompt-name textarea, #prompt-name input")
    page.wait_for_timeout(500)
    return page


def choose(page, name):
    page.click("#prompt-chosen input")
    page.locator("#prompt-chosen [role=option]").filter(has_text=name).click()
    page.wait_for_selector(".prompt-fields")


def test_a_message_is_kept_and_used_again_with_other_words(open_page, home):
    page = library(open_page, home)
    page.fill(BOX, "How many legs have {{number}} {{animal}}s?")
    page.fill("#prompt-name input, #prompt-name textarea", "legs")
    page.click("#prompt-save")
    page.wait_for_selector("[data-variable=number]")
    assert home.engine.prompts.list() == [
        SavedPrompt("legs", "How many legs have {{number}} {{animal}}s?")
    ]
    page.fill("[data-variable=number]", "7")
    page.fill("[data-variable=animal]", "<b>spider")
    page.click(".prompt-fields button")
    page.wait_for_function("document.querySelector('#message textarea').value.includes('7')")
    assert page.input_value(BOX) == "How many legs have 7 <b>spiders?"
    assert page.locator(".turn").count() == 0, "it is not sent"


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_examples_are_added_used_deleted_and_brought_back(open_page, home, size, scheme):
    page = library(open_page, home, size, color_scheme=scheme)
    page.click("#prompt-examples")
    page.wait_for_selector("#prompt-examples", state="hidden")
    count = len(home.engine.prompts.list())
    choose(page, "beginner")
    boxes = [page.locator(part).bounding_box() for part in ("#prompts", ".prompt-fields button")]
    assert all(box["x"] + box["width"] <= size[0] for box in boxes)
    page.click("#prompt-delete")
    page.wait_for_selector("#prompt-undo")
    assert len(home.engine.prompts.list()) == count - 1
    page.click("#prompt-undo")
    page.wait_for_selector("[data-variable=topic]")
    assert len(home.engine.prompts.list()) == count
    page.fill("[data-variable=topic]", "singular values")
    page.click(".prompt-fields button")
    page.wait_for_function("document.querySelector('#message textarea').value.includes('singular')")
    assert "{{how many}}" in page.input_value(BOX), "what was left empty is still to be written"


def test_an_edited_prompt_takes_the_place_of_the_one_before_which_comes_back(open_page, home):
    home.engine.prompts.keep(SavedPrompt("legs", "first {{x}}"))
    page = library(open_page, home)
    choose(page, "legs")
    page.click("#prompt-edit")
    page.wait_for_function("document.querySelector('#message textarea').value === 'first {{x}}'")
    page.fill(BOX, "second {{y}}")
    page.click("#prompt-save")
    page.wait_for_selector("[data-variable=y]")
    page.click("#prompt-undo")
    page.wait_for_selector("[data-variable=x]")
    assert home.engine.prompts.find("legs").text == "first {{x}}"


def test_prompts_go_out_and_come_in_as_a_file(open_page, home, tmp_path):
    home.engine.prompts.keep(SavedPrompt("legs", "How many {{x}}?"))
    page = library(open_page, home)
    with page.expect_download() as download:
        page.click("#prompt-export")
    content = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert content["prompts"] == [{"name": "legs", "text": "How many {{x}}?"}]
    other = tmp_path / "other.json"
    content["prompts"].append({"name": "arms", "text": "How many arms?"})
    other.write_text(json.dumps(content), encoding="utf-8")
    page.set_input_files("#prompts input[type=file]", str(other))
    page.wait_for_selector(".toast-body >> text=1 prompt came in")
    assert [prompt.name for prompt in home.engine.prompts.list()] == ["arms", "legs"]
