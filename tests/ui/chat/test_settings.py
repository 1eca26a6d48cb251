"""The wheel agrees with what the chat shows, and keeps what a person has set."""

import pytest

from tests.ui.conftest import ask

pytestmark = pytest.mark.browser


def alpha(page, name):
    return float(page.input_value(f"[data-expert={name}]"))


def choose(page, strategy):
    page.click("#strategy input")
    page.locator("#strategy [role=option]").filter(has_text=strategy).first.click()


def until(page, name, value):
    """Wait until a slider stands there."""
    page.wait_for_function(
        "([name, value]) => +document.querySelector(`[data-expert=${name}]`).value === value",
        arg=[name, value],
    )


def test_a_reopened_chat_shows_the_mixture_of_its_last_answer(open_page, served):
    page = open_page()
    ask(page, "some code please")
    until(page, "code", 0.85)  # 0.86 on a slider of 0.05
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    ask(page, "reasoning please")
    until(page, "reasoning", 0.85)
    page.click(".chat-title >> text=some code please")
    page.wait_for_selector(".said >> text=some code please")
    until(page, "code", 0.85)
    assert alpha(page, "reasoning") < 0.2
    assert "0.86" in page.inner_text(".card")
    page.reload()
    page.wait_for_selector(".said >> text=some code please")
    until(page, "code", 0.85)


def test_a_new_chat_keeps_the_settings_until_they_are_reset(open_page, served):
    page = open_page()
    before = page.input_value("#strategy input")
    page.focus("[data-expert=math]")
    page.keyboard.press("End")
    page.wait_for_function("document.querySelector('#strategy input').value === 'manual'")
    page.click("text=sampling and system prompt")
    page.fill("#set-max_new_tokens input", "12")
    page.fill("#set-temperature input[type=number]", "0.73")
    page.press("#set-temperature input[type=number]", "Tab")
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    assert (page.input_value("#strategy input"), alpha(page, "math")) == ("manual", 2.0)
    ask(page, "with what was set")
    _, request = served.engine.requests[-1]
    assert request.controls.mixture.alpha == {"math": 2.0}
    assert request.sampling.max_new_tokens == 12, "the number typed is the number used"
    assert request.sampling.temperature == 0.73
    page.click("#defaults")
    until(page, "math", 0)
    assert page.input_value("#strategy input") == before
    assert page.input_value("#set-max_new_tokens input") != "12"
    assert page.inner_text(".turn.user .said") == "with what was set", "the chat stays"
