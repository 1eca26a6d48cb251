"""What the dispatcher learns from: four labels, no prompt on both sides."""

import itertools
import re
from collections import Counter

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.datasets import HELD_OUT, TOPICS, small_talk, topic_labels


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def test_small_talk_is_ours_distinct_and_split():
    train, held_out = small_talk("train"), small_talk(HELD_OUT)
    assert (len(train), len(held_out)) == (140, 100)
    assert len(set(train) | set(held_out)) == 240
    for one, other in itertools.product(train, held_out):
        assert len(words(one) & words(other)) / len(words(one) | words(other)) < 0.5, (one, other)


def test_each_label_has_its_share_and_says_where_it_is_from(data_folder):
    examples = topic_labels("train", 40, 0, data_folder)
    assert Counter(e.answer for e in examples) == dict.fromkeys(TOPICS, 40)
    assert all(TOPICS[e.columns["label"]] == e.answer for e in examples)
    assert {e.columns["source"] for e in examples if e.answer == "math"} == {"gsm8k", "svamp"}


def test_no_prompt_is_on_both_sides(data_folder):
    train = {e.prompt for e in topic_labels("train", 10_000, 0, data_folder)}
    assert not train & {e.prompt for e in topic_labels(HELD_OUT, 10_000, 0, data_folder)}


def test_seeded(data_folder):
    assert topic_labels("train", 9, 5, data_folder) == topic_labels("train", 9, 5, data_folder)
    assert topic_labels("train", 9, 5, data_folder) != topic_labels("train", 9, 6, data_folder)


def test_lost_small_talk_is_said(tmp_path):
    with pytest.raises(T2LocalError, match="missing"):
        small_talk("train", tmp_path / "gone.jsonl")
