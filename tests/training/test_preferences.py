"""Whole answers of which one was preferred: what is learnt, and what counts as learnt."""

from dataclasses import replace

import pytest
import torch

from t2local.adapt.answering import are_preferences, choices_of, score_choices
from t2local.models.chat_format import end_of_turn
from t2local.progress import drain
from t2local.tasks.datasets import split_rows
from t2local.tasks.rows import WHOLE, Example
from t2local.training.config import SVFMethod, TrainConfig
from t2local.training.loop import train
from t2local.training.policies import policy_for
from t2local.training.preferences import PreferencePolicy, Reference, log_likelihoods, rise
from t2local.training.recipe import train_expert
from t2local.training.reports import Answers
from t2local.training.runs import Plan
from t2local.training.step_memory import StepWork
from t2local.training.validation import score_greedy

CONFIG = TrainConfig(
    steps=6, prompts_per_step=4, validate_every=3, learning_rate=0.02, max_new_tokens=4
)


def pair(prompt, better, worse, **columns):
    return Example(prompt, better, {"choices": [better, worse], "label": 0, WHOLE: True, **columns})


@pytest.fixture
def rows():
    return [pair(f"question {n}", "yes", "no, never") for n in range(12)]


def test_that_an_answer_ends_counts_where_it_is_whole(loaded):
    whole, part = pair("a", "yes", "no"), Example("a", "yes", {"choices": ["yes", "no"]})
    end = end_of_turn(loaded.tokenizer)
    assert [ids[-1] for ids in choices_of(loaded, whole).ids] == [end, end]
    assert [[*ids, end] for ids in choices_of(loaded, part).ids] == choices_of(loaded, whole).ids
    assert not torch.equal(*(score_choices(loaded, [row])[0] for row in (whole, part)))


def test_rows_are_preferences_only_where_all_are(rows):
    other = Example("a", "b", {"choices": ["b", "c"], "label": 0})
    assert are_preferences(rows)
    assert not are_preferences([])
    assert not are_preferences([*rows, other])
    assert not are_preferences([replace(row, written=True) for row in rows])


def test_policy_for_preferences(loaded, svf, rows):
    assert isinstance(policy_for(loaded, svf, rows, "choice", CONFIG), PreferencePolicy)


def test_the_base_model_is_asked_once_for_each_row(loaded, svf, rows, monkeypatch):
    asked = []
    real = log_likelihoods

    def watched(loaded, examples):
        asked.extend(examples)
        return real(loaded, examples)

    monkeypatch.setattr("t2local.training.preferences.log_likelihoods", watched)
    reference = Reference(loaded, svf)
    first, again = reference.of([*rows[:3], rows[0]]), reference.of(rows[:3])
    assert asked == rows[:3]
    assert all(torch.equal(a, b) for a, b in zip(first, [*again, again[0]], strict=True))


def test_the_base_model_itself_prefers_neither(loaded, svf, rows):
    reference = Reference(loaded, svf)
    scored = score_greedy(loaded, lambda: svf.using({}), rows, "choice", 1, reference=reference)
    assert scored.right == [0.5] * len(rows)
    assert scored.accuracy == 0.5
    assert scored.rewards == tuple([0.0] * len(rows))


def test_the_loss_at_the_base_model_is_the_imitated_answers(loaded, svf, rows):
    method = SVFMethod(loaded, svf)
    work = StepWork(0, method.holding(method.start()))
    policy = policy_for(loaded, svf, rows, "choice", CONFIG)
    rollout = policy.rollout(rows[:2], 0, work)
    parts = list(policy.losses(rollout, policy.advantages(policy.rewards(rollout, work)), work))
    with torch.no_grad():
        likely = [row[0].item() for row in log_likelihoods(loaded, rows[:2])]
    lengths = [len(choices_of(loaded, row).ids[0]) for row in rows[:2]]
    imitated = -sum(a / n for a, n in zip(likely, lengths, strict=True)) / 2
    assert sum(loss.item() for loss, _ in parts) == pytest.approx(imitated, rel=1e-4)
    assert [round(e, 5) for _, terms in parts for e in terms.expected] == [0.0, 0.0]


def test_an_answer_that_became_rarer_is_not_preferred(loaded, svf, rows):
    """However much rarer the other one became."""
    method, reference = SVFMethod(loaded, svf), Reference(loaded, svf)
    generator = torch.Generator().manual_seed(0)
    both = 0
    for _ in range(40):
        flat = method.start() + 1.0 * torch.randn(method.start().shape, generator=generator)
        rises, heights = rise(loaded, method.holding(flat), reference, rows[:2])
        with torch.no_grad(), method.holding(flat)():
            own = log_likelihoods(loaded, rows[:2])
        moved = [(a - b).tolist() for a, b in zip(own, reference.of(rows[:2]), strict=True)]
        assert rises == [float(up > max(down, 0.0)) for up, down in moved]
        assert [h > 0 for h in heights] == [up > 0 for up, _ in moved]
        both += sum(down < up < 0 for up, down in moved)
    assert both > 0, "it did happen"


def test_pairs_are_learnt_and_unseen_ones_follow(loaded, svf, rows):
    trained = drain(
        train_expert(loaded, svf, split_rows("pairs", rows), Plan("yes", "x", "choice", CONFIG))
    )
    assert trained.held_out.base == 0.5
    assert trained.held_out.trained == 1.0
    assert trained.card["prefers"] is True
    assert trained.expert.labels == ()


def test_what_a_person_is_shown_was_written(loaded, svf, rows):
    shown = []
    drain(
        train(loaded, svf, rows[:8], rows[8:], "choice", CONFIG),
        lambda event: shown.append(event) if isinstance(event, Answers) else None,
    )
    (first, *_, last) = shown
    assert len(first.rows) == 3
    assert all(base == now for _, base, now in first.rows), "nothing was learnt yet"
    assert all(base not in ("yes", "no, never") for _, base, _ in last.rows)


def test_training_goes_on_from_other_numbers(loaded, svf, rows):
    method = SVFMethod(loaded, svf)
    start = method.start() * 1.01
    moved = []
    outcome = drain(
        train(
            loaded, svf, rows[:8], rows[8:], "choice", replace(CONFIG, steps=1, learning_rate=1e-9),
            start=start,
        ),
        moved.append,
    )  # fmt: skip
    assert torch.allclose(outcome.flat, start, atol=1e-5)
    assert not torch.allclose(outcome.flat, method.start(), atol=1e-3)


def test_of_two_steps_that_prefer_all_the_one_that_says_it_likelier_is_best(
    loaded, svf, rows, monkeypatch
):
    """An answer that was most unlikely rises by many nats: the measure must not end before."""
    reference = Reference(loaded, svf)
    base = reference.of(rows[:2])

    def risen(by):
        far = [row + torch.tensor([by, 0.0]) for row in base]
        monkeypatch.setattr("t2local.training.preferences.log_likelihoods", lambda *_: far)
        return rise(loaded, lambda: svf.using({}), reference, rows[:2])

    (early, low), (late, high) = risen(8.0), risen(20.0)
    assert early == late == [1.0, 1.0]
    assert all(a < b < 1.0 for a, b in zip(low, high, strict=True))
