"""The Experts tab in a browser: on a scripted engine, and once on a real one."""

import pytest

from t2local.engine.engine import Engine
from t2local.experts import Library
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from t2local.ui.page import build_app
from tests.experts.support import small_expert
from tests.ui.conftest import DESKTOP, PHONE, opened, serve

pytestmark = pytest.mark.browser


@pytest.fixture
def own(tmp_path):
    """A page of its own, whose experts may change."""
    served, close = serve(tmp_path / "chats")
    yield served
    close()


def show(open_page, url, size=DESKTOP):
    page = open_page(url=url, size=size)
    page.get_by_role("tab", name="Experts").click()
    page.wait_for_selector(".expert:visible")
    return page


def act(page, name, act):
    page.click(f".expert[data-name={name}] [data-act={act}]")


def rename(page, name, to):
    act(page, name, "rename")
    page.fill(".expert-field", to)
    page.press(".expert-field", "Enter")


def test_duplicate_rename_delete_and_undo_and_the_sliders_follow(open_page, own):
    page = show(open_page, own.url)
    act(page, "math", "duplicate")
    page.wait_for_selector(".expert[data-name=math-copy]")
    page.wait_for_selector("#mixer [data-expert=math-copy]", state="attached")
    rename(page, "math-copy", "sums")
    page.wait_for_selector("#mixer [data-expert=sums]", state="attached")
    assert page.locator("#mixer [data-expert=math-copy]").count() == 0
    act(page, "sums", "remove")
    page.wait_for_selector(".undo-bar")
    page.wait_for_selector("#mixer [data-expert=sums]", state="detached")
    page.click(".undo-bar [data-act=restore]")
    page.wait_for_selector(".expert[data-name=sums]")
    page.wait_for_selector("#mixer [data-expert=sums]", state="attached")


def test_an_expert_without_a_print_can_be_made_known_to_similarity_once(open_page, own):
    own.engine.library.duplicate("math")
    page = show(open_page, own.url)
    assert "found by similarity" not in page.inner_text(".expert[data-name=math-copy]")
    act(page, "math-copy", "note_prompts")
    page.wait_for_selector("text='math-copy' is found by similarity from now on, by 64 prompts.")
    page.wait_for_selector(".expert[data-name=math-copy] footer .term")
    assert "found by similarity" in page.inner_text(".expert[data-name=math-copy]")
    assert page.locator(".expert[data-name=math-copy] [data-act=note_prompts]").count() == 0


def test_a_shipped_expert_offers_a_copy_but_no_delete(open_page, served):
    page = show(open_page, served.url)
    acts = page.locator(".expert[data-name=math] [data-act]")
    offered = [acts.nth(i).get_attribute("data-act") for i in range(acts.count())]
    assert offered == ["try_it", "compare", "duplicate", "hand_over"]
    assert "duplicate it to change it" in page.inner_text(".expert[data-name=math]")
    forgot = page.inner_text(".expert[data-name=reasoning] .forgetting")
    assert "on math: 42 → 41 of 100, no proven change" in forgot


def test_a_name_that_is_taken_is_one_message_and_changes_nothing(open_page, own):
    own.engine.library.duplicate("math")
    page = show(open_page, own.url)
    rename(page, "math-copy", "code")
    page.wait_for_selector("text=There is an expert 'code' already")
    assert page.locator(".expert[data-name=math-copy]").count() == 1


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_compare_two_and_take_one_away(open_page, served, size):
    page = show(open_page, served.url, size)
    act(page, "math", "compare")
    page.wait_for_selector(".picked")
    act(page, "code", "compare")
    page.wait_for_selector("#compare-table table")
    page.wait_for_selector("#plot-likeness .js-plotly-plot")
    assert "math and code" in page.inner_text("#compare-table")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    page.click(".picked[data-name=math] button")
    page.wait_for_selector("#compare-table table", state="detached")
    assert page.locator(".picked").count() == 1


def test_try_in_chat_sets_the_slider_and_the_strategy(open_page, served):
    page = show(open_page, served.url)
    act(page, "code", "try_it")
    page.wait_for_selector("#message:visible")
    page.wait_for_function("document.querySelector('[data-expert=code]').value === '1'")
    assert page.input_value("#strategy input") == "manual"


def test_download_then_add_as_a_shared_expert(open_page, own, tmp_path):
    page = show(open_page, own.url)
    with page.expect_download() as waiting:
        act(page, "math", "hand_over")
    assert waiting.value.suggested_filename == "math.safetensors"
    saved = tmp_path / "math.safetensors"
    waiting.value.save_as(saved)
    assert saved.read_bytes() == b"math"
    page.fill("#add-name input, #add-name textarea", "friend")
    page.set_input_files("#experts-tab input[type=file]", str(saved))
    page.wait_for_selector(".expert[data-name=friend]")
    page.wait_for_selector("#mixer [data-expert=friend]", state="attached")


def test_delete_and_undo_on_a_real_engine(open_page, tiny_folder):
    folder = tiny_folder("llama")
    loaded = drain(load_model(str(folder)))
    Library(loaded.slug).save(small_expert(attach(loaded.model), base_model=loaded.name))
    engine = Engine(str(folder)).load()
    url, close = opened(build_app(engine))
    try:
        page = show(open_page, url)
        act(page, "counting", "remove")
        page.wait_for_selector(".undo-bar")
        assert engine.experts() == []
        page.reload()  # the page stays in its tab
        page.click(".trash summary")
        page.click(".trash [data-act=restore]")
        page.wait_for_selector(".expert[data-name=counting]")
        assert [expert.name for expert in engine.experts()] == ["counting"]
    finally:
        close()
