"""Answers from 8-bit weights say so, and a tick does without them."""

from dataclasses import replace

from t2local.adapt.dispatch import Done
from t2local.engine.answers import _timing
from t2local.models.decode.sampling import Sampling
from t2local.ui.chat.view import transcript_html
from t2local.ui.forms import create_sampling
from tests.ui.test_cards import ANSWER, CHAT

DONE = Done(("It is 56.",), 5, 0.1, 0.2, "stop", 30, 512)


def shown(done: Done) -> str:
    answer = replace(ANSWER, timing=_timing(done))
    return transcript_html(replace(CHAT, messages=(CHAT.messages[0], answer)))


def test_an_answer_from_8_bit_weights_says_so_and_how_to_do_without():
    assert "8-bit weights" not in shown(DONE)
    html = shown(replace(DONE, int8_tokens=4))
    assert "8-bit weights</span>" in html
    assert "exact answers" in html


def test_an_answer_kept_by_an_earlier_version_says_nothing():
    old = {key: value for key, value in _timing(DONE).items() if key != "packed_tokens"}
    answer = replace(ANSWER, timing=old)
    assert "8-bit" not in transcript_html(replace(CHAT, messages=(CHAT.messages[0], answer)))


def test_a_tick_asks_for_exact_answers():
    form = create_sampling()
    values = {part: getattr(Sampling(), name) for name, part in form.components.items()}
    assert form.read(values) == Sampling()
    values[form.components["exact"]] = True
    assert form.read(values) == Sampling(exact=True)
