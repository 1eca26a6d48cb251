import re
from dataclasses import replace

import pytest

from t2local.engine.chat_content import Chat, Message
from t2local.engine.requests import EngineStatus, NextTokens
from t2local.plots import theme
from t2local.ui.chat.cards import describe_change, dispatch_card
from t2local.ui.chat.view import (
    line_html,
    live_html,
    next_tokens_html,
    steer_marks,
    transcript_html,
    visible,
)
from t2local.ui.experts.layout import experts_html
from t2local.ui.messages import EXAMPLES
from t2local.ui.style import READY_HINT, header_html, hint
from tests.ui.fake_engine import FakeEngine

DISPATCH = {
    "strategy": "classifier", "probabilities": {"math": 0.86, "other": 0.14}, "chosen": "math",
    "alpha": {"math": 0.86}, "strength": 1.0, "seconds": 0.31, "note": "", "cut_tokens": 0,
}  # fmt: skip
ANSWER = Message("assistant", "It is 56.", DISPATCH, {"second_pass_s": 6.1, "tokens": 5})
CHAT = Chat("ab" * 16, "legs", (Message("user", "How many <legs>?"), ANSWER))


def test_card_shows_decision_times_and_offers_others():
    html = dispatch_card(DISPATCH, ANSWER.timing, answer_with=("math", "base"))
    for part in ("classifier", "0.31 s", "6.1 s", "0.86", theme.colour("math")):
        assert part in html
    assert html.count('data-act="answer_with"') == 2


def test_card_says_what_was_noted():
    html = dispatch_card({**DISPATCH, "note": "below <0.4>"}, None)
    assert "below &lt;0.4&gt;" in html


def test_a_card_without_probabilities_says_why():
    def card(strategy, **more):
        empty = {**DISPATCH, "probabilities": {}, "strategy": strategy}
        return dispatch_card({**empty, **more}, None)

    assert "your sliders decide" in card("manual")
    assert "found from a few examples" in card("few-shot:mine")
    assert "you chose who answers" in card("manual", override="code")
    assert "gave no probabilities" in card("classifier")


def test_override_is_named_as_your_choice():
    html = dispatch_card({**DISPATCH, "override": "code", "alpha": {"code": 1.0}}, None)
    assert "code · your choice" in html
    assert "0.86" in html, "what pass 1 had said stays visible"


def test_change_in_words():
    before = {"alpha": {"math": 0.86}, "strength": 1.0, "gains": {"mlp": 1.0}}
    after = {"alpha": {"math": -1.0}, "strength": 0.5, "gains": {"mlp": 0.0}}
    assert describe_change(before, after) == (
        "math +0.86 → −1.00, strength 1.00 → 0.50, mlp gain 1.00 → 0.00"
    )


def test_steering_twice_at_one_place_is_one_mark():
    steps = [(3, {"alpha": {"math": 0.5}}), (3, {"alpha": {"math": 0.1}}), (7, {"alpha": {}})]
    marks = steer_marks(replace(ANSWER, steered=tuple(steps)))
    assert [at for at, _ in marks] == [3, 7]
    assert "math +0.86 → +0.10" in marks[0][1]
    assert "math +0.10 → 0.00" in marks[1][1]


def test_transcript_escapes_what_people_write():
    html = transcript_html(CHAT, ("math", "base"))
    assert "How many &lt;legs&gt;?" in html
    assert "<legs>" not in html
    assert html.count('data-act="retry"') == 1


def test_a_speaking_answer_has_no_buttons():
    html = live_html(CHAT, "writing")
    assert "caret" in html
    assert 'data-act="retry"' not in html
    before = transcript_html(CHAT, ("math",), at_work=True)
    assert "How many" in before
    assert "It is 56" not in before, "that is the answer at work, an element of its own"
    assert 'data-act="edit"' not in before


def said(text: str, stage=None, **more) -> str:
    answer = replace(ANSWER, content=text, **more)
    chat = replace(CHAT, messages=(CHAT.messages[0], answer))
    return transcript_html(chat) if stage is None else live_html(chat, stage)


def test_thinking_is_folded_and_no_part_of_the_answer_that_is_copied():
    html = said("<think>\n8 times **7**\n</think>\n\nIt is 56.")
    folded, after = html.split("</details>")[-2:]
    assert '<details class="thought">' in folded
    assert "8 times <strong>7</strong>" in folded
    assert "13 characters" in folded
    assert "It is 56." in after
    assert "8 times" not in after
    assert 'data-raw="It is 56."' in html
    assert "think>" not in html


def test_thinking_is_open_until_the_answer_begins():
    thinking = said("<think>\n8 times", stage="writing")
    assert '<details class="thought" open>' in thinking
    assert thinking.index("caret") < thinking.index("</details>", thinking.index("thought"))
    assert thinking.count("caret") == 1
    assert "did not begin" not in thinking
    answering = said("<think>\n8 times\n</think>\nIt", stage="writing")
    assert '<details class="thought">' in answering
    assert answering.index("caret") > answering.index("</details>", answering.index("thought"))


@pytest.mark.parametrize("begun", ["<", "<thi", "<think", "<think>", "[THI"])
def test_the_beginning_of_a_tag_never_shows_as_an_answer(begun):
    assert said("It is", stage="writing").count("It is") == 1
    answer = said(begun, stage="writing").split('class="answer"')[-1]
    assert begun.replace("<", "&lt;") not in answer
    assert 'caret"></span>' in answer
    if not begun.endswith(">"):
        assert begun.replace("<", "&lt;") in said(begun)


def test_thinking_without_an_answer_says_so():
    html = said("<think>\n8 times 7 is")
    assert '<details class="thought">' in html
    assert "The answer did not begin: raise the length" in html
    assert "8 times 7 is" in html
    both = said("It is 56.", base_content="<think>\nno end")
    assert both.count("did not begin") == 1


def test_marks_of_a_turned_wheel_stand_where_it_was_turned():
    text = "<think>\n8 times 7\n</think>\n\nIt is 56."
    places = [text.index("times"), text.index("is 56")]
    html = said(text, steered=tuple((at, {"alpha": {"math": at}}) for at in places))
    thought, answered = html.split('class="thought"')[1].split("</details>")
    assert re.search(r"8 <span class=\"steer\".*?</span>times", thought, re.DOTALL)
    assert re.search(r"It <span class=\"steer\".*?</span>is 56", answered, re.DOTALL)


def test_an_answer_without_thinking_is_shown_and_copied_as_it_is():
    html = said("Tags such as `<think>` and <|end|> are text.")
    assert "thought" not in html
    assert 'data-raw="Tags such as `&lt;think&gt;` and &lt;|end|&gt; are text."' in html


def test_the_header_names_a_base_model():
    ready = FakeEngine().status
    assert "base model" not in header_html(ready)
    assert "base model" in header_html(replace(ready, base=True))


def test_an_unanswered_question_can_be_answered():
    html = transcript_html(replace(CHAT, messages=CHAT.messages[:1]))
    assert 'data-act="retry"' in html


def test_an_empty_chat_offers_six_prompts():
    html = transcript_html(Chat("ab" * 16))
    assert len(EXAMPLES) == 6
    assert html.count('data-act="example"') == 6


def test_header_and_hint_in_every_state():
    loading = EngineStatus("decomposing", 0.34)
    assert "34 %" in header_html(loading)
    assert "34 %" in hint(loading)
    failed = EngineStatus("failed", error="No <model> there.")
    assert "No &lt;model&gt; there." in header_html(failed)
    ready = FakeEngine().status
    assert "1.1 GB" in header_html(ready)
    assert hint(ready) == READY_HINT
    assert "14 tok/s" in line_html(ready, 14.2, 212)


def test_next_tokens_are_visible_and_escaped():
    html = next_tokens_html(NextTokens((("<b>", 0.5),), ((" x", 0.9),), 0.1))
    assert "<b>0" in html
    assert "&lt;b&gt;" in html
    assert [visible(text) for text in (" x", "\n", "  ", "")] == ["·x", "⏎", "··", "∅"]


def test_expert_cards_are_honest():
    experts = FakeEngine().experts()
    harmful = {"n": 200, "base": 0.5, "trained": 0.4, "ci95_difference": [-0.2, -0.05]}
    html = experts_html([experts[0], replace(experts[1], held_out=harmful)])
    assert "helps" in html
    assert "harms" in html
    assert "−20 to −5 points" in html
    assert "transferred" in html
    assert "no experts" in experts_html([])


@pytest.mark.parametrize(
    ("base", "difference", "drawn"),
    [(0.4, [0.1, 0.3], "left:50.0%;right:30.0%"),
     (0.4, [-0.2, 0.1], "left:20.0%;right:50.0%"),
     (0.9, [0.05, 0.3], "left:95.0%;right:0.0%")],
)  # fmt: skip
def test_the_interval_of_a_difference_begins_at_what_the_base_model_has(base, difference, drawn):
    held_out = {"n": 9, "base": base, "trained": base, "ci95_difference": difference}
    html = experts_html([replace(FakeEngine().experts()[0], held_out=held_out)])
    assert f'<b class="reach" style="{drawn}">' in html
