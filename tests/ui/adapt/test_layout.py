"""The Adapt tab in a browser, on a real engine with a two-layer random model."""

from pathlib import Path

import pytest
import torch

from t2local.adapt.dispatch import MANUAL
from t2local.engine.engine import Engine
from t2local.engine.job_record import SEARCH
from t2local.engine.lessons import lessons_of
from t2local.engine.recipes import read_recipe
from t2local.engine.requests import Controls
from t2local.experts import Expert
from t2local.models.decode.sampling import Sampling
from t2local.progress import FINISHED
from t2local.ui.page import build_app
from tests.ui.conftest import PHONE, open_tab, opened

pytestmark = pytest.mark.browser

COLOURS = ("blue", "red")
ROWS = "prompt,answer\n" + "".join(f"thing {i}: red or blue?,{COLOURS[i % 2]}\n" for i in range(6))


@pytest.fixture
def served_engine(tiny_folder):
    engine = Engine(str(tiny_folder("llama"))).load()
    _, svf = engine._trained_model()
    for seed, name in enumerate(("math", "code")):
        generator = torch.Generator().manual_seed(seed)
        z = {n: 1 + 0.3 * torch.randn(r, generator=generator) for n, r in svf.ranks.items()}
        engine.adopt(Expert(name, engine.status.model_name, svf.fingerprint(z), z))
    url, close = opened(build_app(engine))
    yield engine, url
    close()


def adapt_page(open_page, url, **options):
    page = open_page(url=url, ready=False, **options)
    page.wait_for_selector("#message textarea:enabled")
    page.get_by_role("tab", name="Adapt").click()
    page.wait_for_selector("#adapt-pasted textarea")
    return page


def give(page, rows):
    page.fill("#adapt-pasted textarea", rows)
    page.click("#adapt-use-paste")


def test_from_typed_examples_to_a_mixture_in_the_chat(open_page, served_engine):
    engine, url = served_engine
    page = adapt_page(open_page, url)
    give(page, ROWS)
    page.wait_for_selector("#adapt-rows .example")
    assert "6 rows" in page.inner_text("#adapt-rows")
    page.click("#adapt-start")
    page.wait_for_selector("[data-generation='4']")
    page.wait_for_selector("#plot-cloud .js-plotly-plot .points path")
    page.wait_for_selector("#adapt-name input, #adapt-name textarea")
    page.fill("#adapt-name input, #adapt-name textarea", "colours")
    page.click("#adapt-recipe")
    page.wait_for_selector(".toast-body >> text=The recipe is kept as 'colours'")
    with page.expect_download() as download:
        page.click("#adapt-recipe-file")
    assert download.value.suggested_filename == "colours.recipe.json"
    recipe = engine.recipes.load("colours")
    assert read_recipe(Path(download.value.path())) == recipe
    (search,) = [status.id for status in engine.jobs.history(SEARCH)]
    found = engine.searches.report(search).found
    assert recipe.controls == Controls(MANUAL, mixture=found.mixture)
    page.click("#adapt-use")
    page.wait_for_selector("#message textarea:visible")
    page.fill("#message textarea", "hello")
    page.press("#message textarea", "Enter")
    page.wait_for_selector(".turn.assistant .card >> text=few-shot:colours")
    assert "few-shot:colours" in engine.strategies()


def test_a_mixture_is_searched_from_votes(open_page, served_engine):
    engine, url = served_engine
    page = adapt_page(open_page, url)
    assert not page.is_visible("#adapt-preferred"), "nothing was preferred yet"
    keys = [contender.key for contender in engine.contenders()][:2]
    for number in range(6):
        id = engine.arena.start(f"Question {number}", keys, Sampling(max_new_tokens=6))
        engine.jobs.wait(id, 60)
        battle = engine.arena.battle(id)
        if not battle.said:  # two answers in the same words are told apart by nobody
            engine.arena.vote(battle.id, "a")
    rows = len(lessons_of(engine.verdicts.all()).choices)
    assert rows >= 3, "two random experts say different things"
    open_tab(page, "Chat")
    open_tab(page, "Adapt")
    page.click("#adapt-preferred")
    page.wait_for_selector("#adapt-rows .example")
    assert f"{rows} rows" in page.inner_text("#adapt-rows")
    page.click("#adapt-start")
    page.wait_for_selector("#adapt-use:visible", timeout=60_000)
    (search,) = engine.jobs.history(SEARCH)
    found = engine.searches.report(search.id)
    assert found.plan.reward == "choice"
    assert found.generations[-1].best_accuracy >= 0.5, "no worse than the base model"


def test_too_few_examples_get_a_sentence_and_a_phone_shows_one_column(open_page, served_engine):
    _, url = served_engine
    page = adapt_page(open_page, url, size=PHONE)
    give(page, "prompt,answer\none?,1\ntwo?,2\n")
    page.wait_for_selector("#adapt-problem [role=alert] >> text=2 usable examples")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE[0], f"the page is {width} pixels wide"


def test_a_search_goes_on_without_its_page_and_a_second_one_shows_it(open_page, served_engine):
    engine, url = served_engine
    page = adapt_page(open_page, url)
    give(page, ROWS)
    page.wait_for_selector("#adapt-rows .example")
    page.get_by_text("thorough").click()
    page.click("#adapt-start")
    page.wait_for_selector("[data-generation]")
    page.close()
    other = adapt_page(open_page, url)
    other.wait_for_selector("[data-generation]")
    assert "6 rows" in other.inner_text("#adapt-rows")
    assert other.locator("#adapt-effort input:checked").input_value() == "thorough"
    (id,) = [status.id for status in engine.jobs.history(SEARCH)]
    other.wait_for_selector("#adapt-use:visible", timeout=60_000)
    assert engine.jobs.wait(id, 60).stage == FINISHED
