"""Rows from chats: judged under an answer, listed in the tab Train, taken up to be learnt."""

import time
from types import SimpleNamespace

import pytest
import torch

from t2local.engine.chat_content import Chat, Message
from t2local.engine.lessons import lessons_of
from t2local.engine.verdicts import UP, Verdicts
from t2local.experts import Expert
from t2local.experts.store import write_expert
from t2local.models.load.loader import model_slug
from t2local.training.runs import Plan, Run
from t2local.ui.train.taught import taught_html
from tests.ui.conftest import ask, done, open_tab

browser_test = pytest.mark.browser


def talk(question, answer):
    messages = (Message("user", question), Message("assistant", answer))
    return Chat("ab" * 8, messages=messages)


def test_each_row_says_what_was_done(home):
    verdicts = Verdicts(home)
    verdicts.rewrite(talk("How many <b>?", "Lots."), 1, "<i>56</i>", "")
    verdicts.thumb(talk("And now?", "Fine."), 1, UP, "")
    found = verdicts.all()
    html = taught_html(found, lessons_of(found), ["broken.json"])
    for part in (
        "you wrote",
        "thumb up",
        "&lt;i&gt;56&lt;/i&gt;",
        "How many &lt;b&gt;?",
        "broken.json",
    ):
        assert part in html
    assert html.count('data-act="drop"') == 2
    assert html.count('data-act="change"') == 1
    assert "Training needs 5 different questions" in html


def test_nothing_yet_says_where_rows_come_from():
    assert "Under every answer" in taught_html([])


@browser_test
def test_a_thumb_is_shown_kept_and_taken_back(open_page, served):
    page = open_page()
    ask(page, "thumbs for spiders")
    page.click("[data-thumb=up]")
    page.wait_for_selector("[data-thumb=up][aria-pressed=true]")
    assert [v.thumb for v in served.engine.verdicts.all() if "thumbs" in v.question] == ["up"]
    page.reload()
    page.wait_for_selector("[data-thumb=up][aria-pressed=true]")
    page.click("[data-thumb=down]")
    page.wait_for_selector("[data-thumb=down][aria-pressed=true]")
    page.click("[data-thumb=down]")
    page.wait_for_selector("[data-thumb=down][aria-pressed=false]")
    assert [v for v in served.engine.verdicts.all() if "thumbs" in v.question] == []


@browser_test
def test_what_was_wanted_takes_the_answers_place_and_can_be_taken_back(open_page, served):
    page = open_page()
    ask(page, "write over spiders")
    page.click("[data-act=rewrite]")
    page.fill(".turn.assistant .editor textarea", "Just 56.")
    page.click(".turn.assistant [data-edit=send]")
    page.wait_for_selector(".turn.assistant .answer >> text=Just 56.")
    (row,) = [v for v in served.engine.verdicts.all() if "write over" in v.question]
    assert row.wanted == "Just 56."
    assert "8 legs" in row.answer
    ask(page, "and again write over")
    asked = served.engine.requests[-1][1].messages
    assert asked[1]["content"] == "Just 56.", "the chat goes on with it"
    page.click("[data-act=take_back]")
    page.wait_for_selector(".turn.assistant:nth-of-type(2) .answer >> text=8 legs")
    assert [v for v in served.engine.verdicts.all() if v.wanted == "Just 56."] == []


@browser_test
def test_the_better_of_two(open_page, served):
    page = open_page()
    page.check("#compare input")
    ask(page, "prefer spiders")
    page.click("[data-side=base]")
    page.wait_for_selector("[data-side=base][aria-pressed=true]")
    (row,) = [v for v in served.engine.verdicts.all() if "prefer" in v.question]
    assert "THE ANSWER" in row.answer
    assert row.over_mixture["alpha"]
    assert not row.mixture


@browser_test
def test_asking_again_is_noted(open_page, served):
    page = open_page()
    ask(page, "again spiders")
    page.click("[data-act=retry]")
    deadline, noted = time.monotonic() + 20, []
    while not noted and time.monotonic() < deadline:
        page.wait_for_timeout(50)
        noted = [v for v in served.engine.verdicts.all() if "again spiders" in v.question]
    assert [v.again for v in noted] == [True]
    done(page)


@browser_test
def test_deleting_a_chat_asks_about_its_rows(open_page, served):
    for rows, left in (("keep", 1), ("drop", 0)):
        page = open_page()
        ask(page, f"delete and {rows}")
        page.click("[data-thumb=up]")
        page.wait_for_selector("[data-thumb=up][aria-pressed=true]")
        row = page.locator(".chat-row[aria-current]")
        row.hover()
        row.locator("[data-act=ask]").click()
        assert "keep its 1 row" in row.inner_text()
        which = "[data-rows=drop]" if rows == "drop" else ":not([data-rows])"
        row.locator(f"[data-act=remove]{which}").click()
        page.wait_for_selector(".welcome")
        kept = [v for v in served.engine.verdicts.all() if f"delete and {rows}" in v.question]
        assert len(kept) == left


@browser_test
def test_rows_are_listed_changed_dropped_and_taken_up(open_page, served):
    verdicts = served.engine.verdicts
    for number in range(6):
        verdicts.rewrite(talk(f"question {number}", f"long {number}"), 1, f"short {number}", "")
    page = open_page()
    open_tab(page, "Train")
    page.wait_for_selector("#train-taught summary")
    page.click("#train-taught summary")
    page.wait_for_selector(".taught-row >> text=question 5")
    row = page.locator(".taught-row", has_text="question 5")
    row.locator("[data-act=change]").click()
    row.locator("textarea").fill("shorter 5")
    row.get_by_text("Keep this").click()
    page.wait_for_selector(".taught-row .wanted >> text=shorter 5")
    page.locator(".taught-row", has_text="question 4").locator("[data-act=drop]").click()
    page.wait_for_selector(".taught-row >> text=question 4", state="detached")
    page.click("#taught-learn")
    page.wait_for_selector("#train-step")
    page.wait_for_selector("#train-new >> text=shorter 5")
    with page.expect_download() as saved:
        page.click("#taught-export")
    assert "shorter 5" in saved.value.path().read_text(encoding="utf-8")
    assert page.input_value("#train-name textarea, #train-name input") == "from-my-chats"


@browser_test
def test_what_was_learnt_at_night_is_told_and_can_be_dropped(open_page, served, home, monkeypatch):
    loaded = SimpleNamespace(slug=model_slug("embedded"))
    monkeypatch.setattr(served.engine.training, "model", lambda: (loaded, None))
    run = Run.create(Plan("from-my-chats", "rows.jsonl", "choice", offered=True))
    gain = {"n": 12, "base": 0.5, "trained": 0.75, "ci95_difference": [0.1, 0.4]}
    fell = {**gain, "task": "math", "ci95_difference": [-0.4, -0.1]}
    run.finish({"expert": "from-my-chats", "held_out": gain, "forgetting": [fell], "prefers": True})
    expert = Expert("from-my-chats", "tiny", "print", {"layers.0": torch.ones(4)})
    write_expert(expert, run.offered)
    page = open_page()
    page.wait_for_selector("text=learnt while you were away")
    page.wait_for_selector("text=Worse elsewhere: math")
    open_tab(page, "Train")
    page.wait_for_selector("#train-status >> text=Nothing has changed yet")
    page.wait_for_selector("#train-status >> text=of your own answers risen")
    assert page.is_visible("#train-adopt")
    assert page.inner_text("#train-try") == "Try it before you decide"
    page.click("#train-drop")
    page.wait_for_selector("#train-drop", state="hidden")
    assert not run.offered.exists()
