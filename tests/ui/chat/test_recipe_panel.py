"""Recipes in the page: kept, loaded, sent as a link or a file, opened with what is missing told."""

import json
import random
from dataclasses import replace

import pytest

from t2local.adapt.dispatch import CLASSIFIER, MANUAL
from t2local.engine.recipes import Recipe, link_code, recipe_bytes, recipe_from_link
from t2local.engine.requests import Controls
from t2local.models.decode.sampling import Sampling
from t2local.svf.mixing import Gains, Mixture
from tests.ui.chat.test_settings import alpha, until
from tests.ui.conftest import DESKTOP, PHONE, ask, open_tab, serve

pytestmark = pytest.mark.browser

MIXTURE = Mixture({"math": 0.8637, "code": -0.25}, 1.3, Gains(late=0.5), {"m": {"math": 0.123}})
RECIPE = Recipe(
    "half math", "SmolLM2-135M-Instruct", Controls(MANUAL, mixture=MIXTURE),
    Sampling(temperature=0.35, max_new_tokens=99, seed=7), "Be brief.", "How many legs?",
)  # fmt: skip


def open_panel(page):
    page.click("#recipe .label-wrap")
    page.wait_for_selector("#recipe-save")


def toast(page, words):
    page.wait_for_selector(f".toast-body >> text={words}")


def message(page):
    return page.input_value("#message textarea")


def choose(page, title):
    page.click("#presets input")
    page.locator("#presets [role=option]").filter(has_text=title).first.click()


def seen(page):
    """Wait until the wheel says what `RECIPE` does."""
    page.wait_for_selector("[data-expert=math]", state="attached")
    until(page, "math", 0.85)
    page.wait_for_function("document.querySelector('#strategy input').value === 'manual'")
    page.wait_for_function("document.querySelector('#strength input').value === '1.3'")


def asked_as(served, recipe):
    """The last question was put as the recipe says, to the last digit."""
    _, request = served.engine.requests[-1]
    assert request.controls.mixture == recipe.controls.mixture
    assert request.sampling == recipe.sampling
    assert request.messages[0] == {"role": "system", "content": recipe.system_prompt}


def test_a_recipe_is_saved_and_loaded_again(open_page, served):
    page = open_page()
    page.focus("[data-expert=code]")
    page.keyboard.press("End")
    page.wait_for_function("document.querySelector('#strategy input').value === 'manual'")
    page.click("text=sampling and system prompt")
    page.fill("#system-prompt textarea", "Be brief.")
    page.fill("#message textarea", "not in it")
    open_panel(page)
    page.fill("#recipe-name textarea, #recipe-name input", "all code")
    page.click("#recipe-save")
    toast(page, "The recipe is kept as 'all code'.")
    page.click("#defaults")
    until(page, "code", 0)
    assert page.input_value("#presets input") == "all code"
    page.click("#recipe-load")
    until(page, "code", 2)
    assert page.input_value("#strategy input") == "manual"
    assert page.input_value("#system-prompt textarea") == "Be brief."
    assert message(page) == "not in it"
    (kept,) = [p for p in served.engine.recipes.list() if p.title == "all code"]
    assert served.engine.recipes.load(kept.id).prompt == ""


def test_a_preset_is_renamed_deleted_and_brought_back(open_page, served):
    served.engine.recipes.save(replace(RECIPE, title="to be renamed"))
    page = open_page()
    open_panel(page)
    choose(page, "to be renamed")
    page.fill("#recipe-name textarea, #recipe-name input", "renamed")
    page.click("#recipe-rename")
    page.wait_for_function("document.querySelector('#presets input').value === 'renamed'")
    page.click("#recipe-delete")
    page.wait_for_selector("#recipe-undo")
    assert "renamed" not in [p.title for p in served.engine.recipes.list()]
    page.click("#recipe-undo")
    page.wait_for_function("document.querySelector('#presets input').value === 'renamed'")
    assert "renamed" in [p.title for p in served.engine.recipes.list()]
    page.wait_for_selector("#recipe-undo", state="hidden")


def test_a_damaged_preset_is_told_and_left(open_page, served):
    path = served.engine.recipes.folder / "broken.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{<b>")
    page = open_page()
    open_panel(page)
    page.wait_for_selector("#recipe >> text=The recipe 'broken.json' cannot be read")
    assert path.exists()
    path.unlink()


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_link_is_copied_and_opens_as_it_was_in_a_fresh_page(open_page, served, size):
    served.engine.recipes.save(replace(RECIPE, title="linked"))
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    open_panel(page)
    choose(page, "linked")
    page.click("#recipe-load")
    seen(page)
    page.fill("#message textarea", "How many legs?")
    page.click("#recipe-with-message input")
    page.click("#recipe-link")
    page.wait_for_selector("#recipe-made-link textarea, #recipe-made-link input")
    page.wait_for_function(
        "document.querySelector('#recipe-made-link :is(textarea, input)').value.length > 99"
    )
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{served.url}?recipe=")
    assert recipe_from_link(link) == replace(RECIPE, title="linked")

    other = open_page(size, url=link)
    if size == PHONE:
        other.click("text=The wheel")
    seen(other)
    assert message(other) == "How many legs?"
    other.wait_for_function("!location.search.includes('recipe')")
    assert "chat=" in other.url
    before = len(served.engine.chats.list())
    assert other.query_selector(".turn") is None, "nobody was asked anything"
    if size == PHONE:
        other.keyboard.press("Escape")
    other.press("#message textarea", "Enter")
    other.wait_for_selector(".turn.assistant [data-act=retry]")
    assert len(served.engine.chats.list()) == before + 1
    asked_as(served, RECIPE)
    other.reload()
    other.wait_for_selector(".said >> text=How many legs?")
    seen(other)
    if size == DESKTOP:
        n = len(served.engine.requests)
        other.click("[data-act=retry]")
        other.wait_for_selector(".turn.live")
        assert len(served.engine.requests) == n + 1
        asked_as(served, RECIPE)


def test_a_moved_slider_is_what_answers_and_not_the_recipe(open_page, served):
    page = open_page(url=f"{served.url}?recipe={link_code(RECIPE)}")
    seen(page)
    page.focus("[data-expert=code]")
    page.keyboard.press("Home")
    until(page, "code", -1)
    page.press("#message textarea", "Enter")
    page.wait_for_selector(".turn.assistant [data-act=retry]")
    _, request = served.engine.requests[-1]
    assert request.controls.mixture == Mixture({"math": 0.864, "code": -1.0}, 1.3, Gains(late=0.5))


def test_a_link_opens_a_chat_of_its_own_beside_an_older_one(open_page, served):
    page = open_page()
    ask(page, "an older chat")
    open_tab(page, "Experts")  # a reload would come back to it
    page.goto(f"{served.url}?recipe={link_code(RECIPE)}")
    seen(page)
    page.wait_for_function("!location.search.includes('recipe')")
    assert page.query_selector(".turn") is None
    assert page.is_visible("#message")
    page.click(".chat-title >> text=an older chat")
    page.wait_for_selector(".said >> text=an older chat")


def test_missing_experts_are_named_and_the_rest_is_set(open_page, served):
    mixture = Mixture({"math": 0.5, "<b>law": 1.0}, 5.0)
    recipe = Recipe("legal", "Other-1B", Controls("few-shot:mine", mixture=mixture))
    page = open_page(url=f"{served.url}?recipe={link_code(recipe)}")
    toast(page, "The expert '<b>law' is not here and was left out; import it")
    said = page.inner_text(".toast-wrap")
    assert "made with Other-1B, and SmolLM2-135M-Instruct is loaded" in said
    assert "Set as far as the sliders go: strength." in said
    until(page, "math", 0.5)
    assert page.input_value("#strategy input") == "manual"
    assert message(page) == ""


def test_a_damaged_link_gets_a_sentence_and_leaves_the_address(open_page, served):
    page = open_page(url=f"{served.url}?recipe=AAAA")
    toast(page, "The recipe in this link cannot be read")
    page.wait_for_function("!location.search.includes('recipe')")
    page.reload()
    page.wait_for_selector("#message textarea:enabled")
    page.wait_for_timeout(500)
    assert page.query_selector(".toast-body") is None


def test_a_link_waits_for_the_model(open_page, tmp_path):
    served, close = serve(tmp_path / "chats", load_s=1e9)
    try:
        page = open_page(url=f"{served.url}?recipe={link_code(RECIPE)}", ready=False)
        page.wait_for_function("!location.search.includes('recipe')")
        served.engine.load_s = 0.0
        page.wait_for_selector("#message textarea:enabled")
        seen(page)
        assert message(page) == "How many legs?"
    finally:
        close()


def test_a_file_goes_out_and_comes_in(open_page, served, tmp_path):
    path = tmp_path / "a.recipe.json"
    path.write_bytes(recipe_bytes(RECIPE))
    page = open_page()
    open_panel(page)
    bring(page, path)
    seen(page)
    assert message(page) == "How many legs?"
    with page.expect_download() as download:
        page.click("#recipe-file")
    assert download.value.suggested_filename == "half-math.recipe.json"
    out = tmp_path / "out.json"
    download.value.save_as(out)
    assert json.loads(out.read_text()) == json.loads(recipe_bytes(replace(RECIPE, prompt="")))
    path.write_text("{}")
    bring(page, path)
    toast(page, "The recipe 'a.recipe.json' cannot be read")


def bring(page, path):
    with page.expect_file_chooser() as chooser:
        page.click("#recipe-bring")
    chooser.value.set_files(str(path))


def test_a_recipe_that_is_too_long_for_a_link_is_given_as_a_file(open_page, served):
    page = open_page()
    open_panel(page)
    draw = random.Random(0)  # which nothing makes shorter
    many = "".join(chr(draw.randrange(33, 127)) for _ in range(9000))
    page.fill("#message textarea", many)
    page.click("#recipe-with-message input")
    with page.expect_download() as download:
        page.click("#recipe-link")
    assert download.value.suggested_filename == "recipe.recipe.json"
    toast(page, "too long for a link")


def test_an_answers_own_recipe_is_put_on_the_wheel(open_page, served):
    page = open_page()
    page.click("text=sampling and system prompt")
    page.fill("#set-seed input", "11")
    page.press("#set-seed input", "Tab")
    ask(page, "some code please")
    page.fill("#set-seed input", "12")
    page.press("#set-seed input", "Tab")
    ask(page, "reasoning please")
    until(page, "reasoning", 0.85)
    page.locator(".card summary").first.click()
    page.locator("[data-act=recipe]").first.click()
    until(page, "code", 0.85)
    assert page.input_value("#strategy input") == "manual"
    assert page.input_value("#set-seed input") == "11", "of that answer, not of the last"
    assert alpha(page, "reasoning") < 0.2
    page.wait_for_selector("#recipe-save")
    page.fill("#recipe-name textarea, #recipe-name input", "of an answer")
    page.click("#recipe-save")
    toast(page, "kept as 'of an answer'")
    kept = served.engine.recipes.load("of-an-answer")
    assert kept.controls.strategy == MANUAL
    assert kept.controls.mixture.alpha["code"] == 0.86
    assert Controls().strategy == CLASSIFIER
