"""Thinking and answer, by the tags of many models."""

import doctest

import pytest

from t2local import thinking
from t2local.thinking import THINKING_TAGS, opens_thinking, split_thinking

ANSWER = "It is **Paris**."


@pytest.mark.parametrize(("opening", "closing"), THINKING_TAGS)
def test_thinking_in_tags_is_no_part_of_the_answer(opening, closing):
    spoken = split_thinking(f"{opening}\nLyon? No: 18.\n{closing}\n\n{ANSWER}")
    assert spoken == ("Lyon? No: 18.", ANSWER, True)
    assert split_thinking(f"{opening}\nLyon? The answer is 18") == (
        "Lyon? The answer is 18",
        "",
        False,
    )
    assert opens_thinking(f"<|assistant|>{opening}\n")
    assert not opens_thinking(f"<|assistant|>{opening}\n\n{closing}\n\n")


@pytest.mark.parametrize("closing", [end for _, end in THINKING_TAGS if end != "<|end|>"])
def test_a_tag_that_the_prompt_opened_needs_only_its_end(closing):
    text = f"Lyon? No.\n{closing}\n{ANSWER}"
    for opened in (True, False):
        assert split_thinking(text, opened=opened) == ("Lyon? No.", ANSWER, True)
    assert split_thinking("Lyon? No.", opened=True) == ("Lyon? No.", "", False)
    assert split_thinking("Lyon? No.") == ("", "Lyon? No.", True)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<THINK>a</Think>b", "a", "b"),
        ('<think mode="deep">a</think>b', "a", "b"),
        ("<think></think>\n\nb", "", "b"),
        ("<think>\n\n</think>\n\nb", "", "b"),
        ("Well. <think>a</think> b", "a", "Well.  b"),
        ("<think>a</think> b <think>c</think> d", "a\n\nc", "b  d"),
        ("<think>a <think>b</think> c</think> d", "a <think>b\n\nc", "d"),
        ("<think>a</thinking>b", "a", "b"),
        ("<thinking>a<reflection>b</reflection>c</thinking>d", "a<reflection>b</reflection>c", "d"),
        ("<think>a ```py\nx</think>b", "a ```py\nx", "b"),
        ("<think>no `</think>` yet</think>b", "no `</think>` yet", "b"),
        ("<think>it is `5`</think>b", "it is `5`", "b"),
        ("<think>a</think><answer>b</answer>", "a", "b"),
        ("<think>a</think>\n<response>\nb\n</response>\n", "a", "b"),
        ("<think>a</think>", "a", ""),
        ("<think>a</think>\n\n    return x\n", "a", "    return x"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"
            "<|return|>",
            "a",
            "b",
        ),
        ("<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b", "a", "b"),
        ("analysisWe say b.assistantfinalb", "We say b.", "b"),
        ("Here is my thought process: a\nHere is my response: b", "a", "b"),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b<|END_RESPONSE|>", "a", "b"),
    ],
)
def test_what_models_really_write(text, thought, answer):
    assert split_thinking(text) == (thought, answer, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "The tag `<think>` opens it.",
        'In "<think>" it thinks.',
        "```html\n<think>x\n```\nis wrong.",
        "1 < 2 and think > less",
        "I think so.\n  Indented stays.",
        "<thinker>x</thinker>",
        "Analysis is a field of mathematics.",
        "<answer>x</answer>",
    ],
)
def test_a_text_without_thinking_is_left_as_it_is(text):
    assert split_thinking(text) == ("", text, True)


def test_long_texts_take_no_longer_than_they_must():
    for piece in ("<think>a</think> b ", "</think>", "<think>", "< think ", "```\n<think>\n"):
        assert split_thinking(piece * 5_000)


def test_the_examples_in_docstrings_hold():
    failed, attempted = doctest.testmod(thinking)
    assert (failed, attempted > 0) == (0, True)
