"""The Arena tab in a browser: blind until the vote, and one vote a pair."""

import json

import pytest

from t2local.adapt.dispatch import BASE
from t2local.engine.standings import PairStanding, Place, Standings
from t2local.evaluation.bradley_terry import Score, Tally
from t2local.ui.arena.view import pair_html, standings_html, verdict
from tests.ui.conftest import PHONE, ask, open_tab, serve

browser_test = pytest.mark.browser


WIDE = Score(0.6, 0.4, 0.8)


def standing(tally, clear=False, more=7, score=WIDE):
    return PairStanding("math", BASE, tally, score, clear, more)


@pytest.mark.parametrize(
    ("pair", "said"),
    [(standing(Tally(9, 1, 2), clear=True), "math is preferred"),
     (standing(Tally(9, 1, 4)), "about 7 more votes"),
     (standing(Tally(9, 1, 4), more=1), "about 1 more vote,"),
     (standing(Tally(9, 1, 8), more=None), "Nearly even so far; too few votes"),
     (standing(Tally(900, 9, 890), more=None, score=Score(0.5, 0.48, 0.52)), "Hardly a difference"),
     (standing(Tally(0, 3, 0), more=None), "Only ties"),
     (standing(Tally(5, 3, 4)), "Too few")],
)  # fmt: skip
def test_each_pair_says_how_clear_it_is(pair, said):
    assert said in verdict(pair)


def test_standings_show_the_whole_axis_and_each_interval_on_it():
    places = (Place("math", "math", 9, WIDE), Place(BASE, BASE, 9, None))
    html = standings_html(Standings(places, (), BASE, 9))
    assert "left:40.0%;right:20.0%" in html
    ends = html.split('class="ends"')[1]
    assert ends.index("0") < ends.index("50") < ends.index("100 %")


def test_before_the_first_pair_it_says_what_to_do():
    assert "at least two" in pair_html(None)


@pytest.fixture
def own(tmp_path):
    served, close = serve(tmp_path, delay_s=0.005)
    yield served
    close()


def arena(open_page, url, **options):
    page = open_page(url=url, **options)
    open_tab(page, "Arena")
    page.wait_for_selector("#arena-contenders input:checked")
    return page


def pair(page, prompt):
    page.fill("#arena-prompt textarea", prompt)
    page.click("#arena-ask")
    page.wait_for_selector("#arena-vote-a:visible")


@browser_test
def test_a_vote_shows_the_names_and_counts(open_page, own):
    page = arena(open_page, own.url)
    pair(page, "differ about math")
    before = page.inner_text("#arena-pair")
    assert not any(name in before.replace("about math", "") for name in ("base", "math", "code"))
    assert page.locator("#arena-pair .chip").count() == 0
    page.click("#arena-vote-b")
    page.wait_for_selector(".blind-pair .won .better")
    assert page.locator("#arena-vote-a").is_hidden()
    page.wait_for_selector("#arena-table .against")
    assert "1 vote;" in page.inner_text("#arena-table")
    (found,) = own.engine.verdicts.votes()
    assert found.vote.said == "b"
    assert page.locator(".blind-pair section").nth(1).get_attribute("class") == "won"


@browser_test
def test_a_reload_brings_back_the_pair_that_waits(open_page, own):
    page = arena(open_page, own.url)
    pair(page, "differ, and wait")
    texts = page.locator(".blind-pair .answer").all_inner_texts()
    page.reload()
    page.wait_for_selector("#arena-vote-a:visible")
    assert page.locator(".blind-pair .answer").all_inner_texts() == texts


@browser_test
def test_stop_leaves_no_pair_and_the_next_can_be_asked(open_page, own):
    page = arena(open_page, own.url)
    page.fill("#arena-prompt textarea", "very slowly differ")
    page.click("#arena-ask")
    page.wait_for_selector("#arena-stop:visible")
    page.click("#arena-stop")
    page.wait_for_selector("#arena-ask:enabled")
    page.wait_for_selector("#arena-pair >> text=No pair yet")
    assert own.engine.verdicts.awaited() == []
    pair(page, "differ now")


@browser_test
def test_votes_are_saved_as_a_file_and_a_question_comes_from_the_chats(open_page, own):
    page = open_page(url=own.url)
    ask(page, "How do spiders differ?")
    open_tab(page, "Arena")
    page.wait_for_selector("#arena-contenders input:checked")
    page.click("#arena-earlier")
    page.wait_for_function("document.querySelector('#arena-prompt textarea').value !== ''")
    assert page.input_value("#arena-prompt textarea") == "How do spiders differ?"
    page.click("#arena-ask")
    page.click("#arena-vote-tie")
    page.wait_for_selector("#arena-jsonl:visible")
    with page.expect_download() as saved:
        page.click("#arena-jsonl")
    (line,) = saved.value.path().read_text().splitlines()
    assert json.loads(line)["vote"] == "tie"


@browser_test
def test_too_few_contenders_get_a_sentence_and_a_phone_one_column(open_page, own):
    page = arena(open_page, own.url, size=PHONE)
    for name in ("math", "code"):
        page.locator("#arena-contenders label", has_text=name).click()
    page.fill("#arena-prompt textarea", "hello")
    page.click("#arena-ask")
    page.wait_for_selector(".toast-body >> text=at least two")
    assert page.input_value("#arena-prompt textarea") == "hello", "nothing is lost"
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE[0], f"the page is {width} pixels wide"
