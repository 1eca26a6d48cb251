from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from t2local.experts import Expert, ExpertStore
from t2local.experts.prompt_print import print_of, print_of_others
from t2local.svf import attach
from t2local.tasks.datasets import Dataset, everyday_messages
from t2local.tasks.rows import Example
from t2local.training.finding import Found, found_by_similarity
from t2local.training.validation import OtherTask

SUMS = [Example(f"{a} + {b} = ?", str(a + b)) for a in range(10, 22) for b in (31, 47, 58)]
PROGRAMS = tuple(Example(f"def f{i}(x): return x + {i}", "") for i in range(20))


@pytest.fixture
def loaded(tiny_loaded):
    return tiny_loaded("llama")


@pytest.fixture
def summing(loaded):
    """An expert with the print of some sums, and the sums that are held out."""
    source = Dataset("sums", SUMS[:20], SUMS[20:24], SUMS[24:])
    taken = print_of(loaded, [row.turns for row in SUMS[:24]])
    return Expert("sums", loaded.name, "", {}, prompt_print=taken), source


def found(loaded, expert, source, *tasks):
    others = print_of_others(loaded)
    return found_by_similarity(loaded, expert, others, source, tasks, nullcontext)


def test_an_expert_is_found_for_its_own_prompts_and_for_no_everyday_message(loaded, summing):
    measured = found(loaded, *summing)
    assert measured.of_own == 12
    assert measured.own >= 11
    assert measured.of_others == 60
    assert measured.taken <= 3


def test_prompts_of_other_tasks_count_as_others(loaded, summing):
    assert found(loaded, *summing, OtherTask("programs", PROGRAMS)).of_others == 20 + 30


def test_another_printed_expert_keeps_its_prompts(loaded, summing):
    svf, programs = attach(loaded.model), OtherTask("programs", PROGRAMS)
    taken = print_of(loaded, [row.turns for row in PROGRAMS], lambda: svf.using({}))
    z = {name: torch.ones(rank) for name, rank in svf.ranks.items()}
    ExpertStore(loaded.slug).save(Expert("programs", loaded.name, "", z, prompt_print=taken))
    svf.detach()
    assert found(loaded, *summing, programs).taken <= 3


def test_its_own_task_and_the_question_of_pass_one_are_nobody_elses(loaded, summing):
    tasks = OtherTask("sums", tuple(SUMS)), OtherTask("classifier", PROGRAMS)
    assert found(loaded, *summing, *tasks).of_others == 60  # everyday messages alone


def test_a_print_of_something_else_finds_nothing(loaded, summing):
    expert, source = summing
    wrong = print_of(loaded, [row.turns for row in PROGRAMS])
    own, others = (found(loaded, e, source) for e in (expert, replace(expert, prompt_print=wrong)))
    assert others.own < own.own


def test_where_every_row_was_trained_on_nothing_is_claimed(loaded, summing):
    expert, source = summing
    assert found(loaded, expert, replace(source, leave_one_out=True)) is None


@pytest.mark.parametrize(
    "card",
    [
        {},
        {"found": None},
        {"found": "all"},
        {"found": {"own": 1}},
        {"found": {"own": "1", "of_own": 2, "taken": 0, "of_others": 3}},
    ],
)
def test_a_card_that_does_not_say_it_says_nothing(card):
    assert Found.from_card(card) is None


def test_a_card_that_says_it_is_read():
    measured = Found(9, 10, 0, 40)
    assert Found.from_card({"found": measured.as_dict()}) == measured


def test_everyday_messages_that_are_held_out_are_in_no_print():
    assert not set(everyday_messages("train")) & set(everyday_messages("held_out"))
    assert min(len(everyday_messages(split)) for split in ("train", "held_out")) > 100
