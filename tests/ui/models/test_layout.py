"""The Models tab in a browser, on a real engine with a two-layer random model."""

import pytest

from t2local.models.fit.catalogue import entries
from tests.ui.adapt.test_layout import served_engine
from tests.ui.conftest import PHONE, ask, open_tab

__all__ = ["served_engine"]
pytestmark = pytest.mark.browser


def models_page(open_page, url, **options):
    page = open_page(url=url, ready=False, **options)
    page.set_default_timeout(60_000)  # the catalogue's sizes are counted first
    page.wait_for_selector("#message textarea:enabled")
    open_tab(page, "Models")
    page.wait_for_selector("#models-cards .model")
    return page


def look_at(page, source):
    page.fill("#models-source input, #models-source textarea", source)
    page.click("#models-look")


def test_what_fits_is_shown_before_anything_is_loaded(open_page, served_engine):
    engine, url = served_engine
    page = models_page(open_page, url)
    assert page.locator("#models-cards .model .verdict").count() == len(entries())
    assert page.locator(".ribbon >> text=suggested").count() == 1
    assert "tiny-llama" in page.inner_text("#models-loaded h4")
    assert "HF_HUB_OFFLINE is set" in page.inner_text("#models-offline")
    page.click(".model[data-source='meta-llama/Meta-Llama-3-70B-Instruct']")
    page.wait_for_selector("#models-words h4 >> text=Llama 3 70B")
    assert page.locator("#models-table td .verdict, #models-table td small").count() == 12
    page.wait_for_selector("#plot-memory .js-plotly-plot .bars path")
    assert page.locator(".model.chosen").count() == 1
    assert "accept its licence" in page.inner_text("#models-progress")
    page.click("#models-download")
    page.wait_for_selector(".toast-body >> text=HF_HUB_OFFLINE")
    assert engine.status.model_name == "tiny-llama"


def test_a_folder_is_loaded_and_the_chat_follows(open_page, served_engine, tiny_folder):
    engine, url = served_engine
    page = models_page(open_page, url)
    look_at(page, str(tiny_folder("qwen2")))
    page.wait_for_selector("#models-words >> text=tiny-qwen2")
    page.click("#models-load")
    page.wait_for_selector("#models-loaded h4 >> text=tiny-qwen2")
    assert "no experts for this model" in page.inner_text("#models-loaded")
    page.wait_for_selector("#header >> text=chosen in this page")
    page.click("[data-act=train]")
    page.wait_for_selector("#train-file, #train-new", state="visible")
    page.get_by_role("tab", name="Chat").click()
    page.wait_for_selector("#mixer >> text=no experts yet")
    ask(page, "hello")
    assert engine.status.model_name == "tiny-qwen2"
    assert engine.status.serial == 1


def test_a_wrong_id_is_one_sentence_and_a_phone_shows_one_column(open_page, served_engine):
    engine, url = served_engine
    page = models_page(open_page, url, size=PHONE)
    look_at(page, "nobody/has-this-model")
    page.wait_for_selector(".toast-body >> text=nobody/has-this-model")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE[0], f"the page is {width} pixels wide"
    assert engine.status.ready
    page.get_by_role("tab", name="Chat").click()
    ask(page, "hello")
