"""Templates are the model's own; what a template cannot do has a documented way out."""

import pytest

from t2local.errors import T2LocalError
from t2local.models.chat_format import render_chat, stop_tokens
from tests.conftest import byte_tokenizer

TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "more"},
]
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[model]{% endif %}"
)


@pytest.fixture
def tokenizer():
    from copy import deepcopy

    return deepcopy(byte_tokenizer())


def text(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_the_models_template_opens_the_assistants_turn(tokenizer):
    shown = text(tokenizer, render_chat(tokenizer, TALK[:1]))
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_continued_answer_stays_open(tokenizer):
    shown = text(tokenizer, render_chat(tokenizer, TALK[:2], continue_last=True))
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nHello"


def test_continuing_an_empty_answer_is_beginning_it(tokenizer):
    empty = [TALK[0], {"role": "assistant", "content": ""}]
    continued = render_chat(tokenizer, empty, continue_last=True)
    assert continued == render_chat(tokenizer, TALK[:1])


def test_turns_are_a_prefix_of_what_follows(tokenizer):
    first = render_chat(tokenizer, TALK[:1])
    assert render_chat(tokenizer, TALK)[: len(first)] == first


def test_without_a_template_the_plain_one_is_used(tokenizer):
    tokenizer.chat_template = None
    shown = text(tokenizer, render_chat(tokenizer, TALK))
    assert shown == "User: hi\n\nAssistant: Hello\n\nUser: more\n\nAssistant:"
    continued = text(tokenizer, render_chat(tokenizer, TALK[:2], continue_last=True))
    assert continued == "User: hi\n\nAssistant: Hello"


def test_a_refused_system_text_goes_in_front_of_the_first_question(tokenizer):
    tokenizer.chat_template = NO_SYSTEM
    messages = [{"role": "system", "content": "Be brief."}, *TALK]
    shown = text(tokenizer, render_chat(tokenizer, messages))
    assert shown == "[user]Be brief.\n\nhi[assistant]Hello[user]more[model]"


def test_other_refusals_are_one_sentence(tokenizer):
    tokenizer.chat_template = NO_SYSTEM
    with pytest.raises(T2LocalError, match=r"Roles must alternate.*alternate"):
        render_chat(tokenizer, [TALK[1], TALK[0]])


def test_everything_that_ends_a_turn_stops(tokenizer):
    assert stop_tokens(tokenizer, None) == {2}
    assert stop_tokens(tokenizer, [7, 9]) == {2, 7, 9}
    tokenizer.add_tokens(["<end_of_turn>"])
    assert tokenizer.convert_tokens_to_ids("<end_of_turn>") in stop_tokens(tokenizer, 7)
