import threading

import pytest

from t2local.adapt.applier import Applier
from t2local.adapt.dispatch import CLASSIFIER, OTHER, SIMILARITY, Available
from t2local.adapt.similarity import Discriminant
from t2local.adapt.two_pass import Workshop
from t2local.bench import dispatching
from t2local.models.decode.embedding import embed
from t2local.models.decode.generate import PrefixCache
from t2local.svf import attach
from t2local.tasks.datasets import everyday_messages

EXPERTS = ("math", "code", "reasoning")


@pytest.fixture
def workshop(tiny_loaded):
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model)
    z = {name: svf.identity() for name in (*EXPERTS, "reader")}
    asked = {name: texts[:30] for name, texts in dispatching.by_expert().items()}
    asked[OTHER] = everyday_messages("train")[:60]
    told = Discriminant({name: embed(loaded, chats(texts)) for name, texts in asked.items()})
    labels = (*EXPERTS, OTHER)
    available = Available(EXPERTS, EXPERTS, "reader", labels, prints=told)
    lock = threading.RLock()
    return Workshop(loaded, Applier(svf, z), PrefixCache(), lambda: lock, available=available)


def chats(texts):
    return [[{"role": "user", "content": text}] for text in texts]


def test_the_kinds_are_eight_of_seventy_different_prompts_each():
    found = dispatching.kinds()
    assert {name: len(set(prompts)) for name, prompts in found.items()} == dict.fromkeys(found, 70)
    assert len(found) == 8


def test_no_prompt_of_a_kind_is_an_everyday_message():
    kinds = {text for prompts in dispatching.kinds().values() for text in prompts}
    everyday = {*everyday_messages("train"), *everyday_messages("held_out")}
    assert not kinds & everyday


def test_a_new_experts_recall_and_what_it_takes_are_shares(workshop):
    measured = dispatching.new_experts(workshop, 2)
    assert len(measured.rows) == 6
    assert all(0 <= row.value <= 1 for row in measured.rows)
    own = [row.value for row in measured.rows if row.name == "a new expert found"]
    assert measured.ratios["similarity_recall_of_a_new_expert"] == pytest.approx(sum(own) / 2)
    assert measured.ratios["similarity_recall_least"] == min(own)


def test_both_dispatchers_answer_the_same_questions(workshop):
    measured = dispatching.against_the_classifier(workshop, 4)
    right = {row.variant: row for row in measured.rows if row.name == "dispatched rightly"}
    assert set(right) == {CLASSIFIER, SIMILARITY}
    assert {row.unit for row in right.values()} == {"of 16"}
    assert right[SIMILARITY].value > right[CLASSIFIER].value  # which is no classifier at all here


def test_the_first_token_is_timed_with_few_and_many_experts(workshop):
    measured = dispatching.first_tokens(workshop, 2)
    assert [row.variant for row in measured.rows] == ["no dispatch", "2 experts", "20 experts"]
    assert all(row.value > 0 for row in measured.rows)
    many = dispatching.replicated(workshop.available.prints, 20)
    assert len(many.labels) == 21
    assert len(set(many.labels)) == 21
