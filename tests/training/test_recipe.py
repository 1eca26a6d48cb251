import pytest
import torch

from t2local.experts import ExpertStore
from t2local.experts.store import check_fits
from t2local.progress import CancelToken, Progress, drain
from t2local.tasks.datasets import Dataset, folds, split_rows
from t2local.tasks.rows import Example
from t2local.training import recipe as module
from t2local.training.config import TrainConfig, method_for
from t2local.training.preferences import Reference
from t2local.training.recipe import Measuring, train_expert
from t2local.training.reports import MEASURING_FORGOTTEN, Gain
from t2local.training.runs import Plan
from t2local.training.validation import OtherTask


@pytest.fixture
def trained(loaded, svf, colours):
    source = Dataset("colours", colours[:8], colours[8:10], colours[10:])
    config = TrainConfig(steps=3, prompts_per_step=4, learning_rate=2e-2, validate_every=3)
    plan = Plan("red", "colours", "choice", config, "Says red", command="t2local train")
    return drain(train_expert(loaded, svf, source, plan)).expert


def test_the_card_says_what_made_the_expert(trained):
    card = trained.training
    assert card["steps"] == 3
    assert card["command"] == "t2local train"
    assert card["data_sha256"]
    assert trained.held_out.n == 2
    low, high = trained.held_out.ci95_difference
    assert low <= trained.held_out.trained - trained.held_out.base <= high


def test_a_trained_expert_fits_the_model_it_was_trained_on_and_survives_its_file(
    trained, loaded, svf
):
    assert check_fits(trained, svf, loaded.name, loaded.quantization) == ""
    store = ExpertStore(loaded.slug)
    store.save(trained)
    again = store.load("red")
    assert again.training == trained.training
    assert all(torch.equal(again.z[n], trained.z[n]) for n in trained.z)


def test_the_gain_is_told_before_what_was_forgotten_is_measured(loaded, svf, colours):
    source = Dataset("colours", colours[:8], colours[8:10], colours[10:])
    config = TrainConfig(steps=2, prompts_per_step=4, validate_every=2)
    others, events = [OtherTask("other", tuple(colours[:4]))], []
    work = train_expert(loaded, svf, source, Plan("red", "c", "choice", config), others=others)
    trained = drain(work, events.append)
    (gain,) = (event for event in events if isinstance(event, Gain))
    assert gain == Gain(2, trained.held_out)
    stages = [e.stage if isinstance(e, Progress) else "" for e in events[: events.index(gain)]]
    assert not any(MEASURING_FORGOTTEN in stage for stage in stages)


def test_a_stop_while_forgetting_is_measured_keeps_the_expert(loaded, svf, colours):
    source = Dataset("colours", colours[:8], colours[8:10], colours[10:])
    config = TrainConfig(steps=2, prompts_per_step=4, validate_every=2)
    others = [OtherTask(name, tuple(colours[:4])) for name in ("first", "second")]
    cancel = CancelToken()

    def on_event(event):
        if isinstance(event, Progress) and MEASURING_FORGOTTEN in event.stage and event.done:
            cancel.cancel()

    plan = Plan("red", "colours", "choice", config)
    work = train_expert(loaded, svf, source, plan, cancel=cancel, others=others)
    expert = drain(work, on_event).expert
    assert [task["task"] for task in expert.training["forgetting"]] == ["first"]
    assert expert.held_out.n == 2


CONFIG = TrainConfig(steps=3, prompts_per_step=2, learning_rate=2e-2, validate_every=3)
PLAN = Plan("red", "five rows", "choice", CONFIG)


@pytest.fixture
def five(colours):
    return split_rows("five rows", colours[:5])


def test_few_rows_are_all_trained_on_and_each_is_held_out_once(five, colours):
    assert five.leave_one_out
    assert list(five.train) == colours[:5]
    parts = folds(five)
    assert [part.held_out for part in parts] == [[row] for row in colours[:5]]
    assert all(part.held_out[0] not in part.train for part in parts)
    assert not split_rows("ten rows", colours[:10]).leave_one_out


def test_rows_of_one_prompt_leave_together():
    rows = [Example("twice", "a"), Example("twice", "b"), Example("once", "c")]
    first, second = folds(split_rows("three", rows))
    assert first.train == [rows[2]]
    assert second.train == rows[:2]


def test_no_expert_has_seen_the_row_it_answers(loaded, svf, five, monkeypatch):
    seen = []
    train = module.train

    def watched(loaded, svf, examples, *arguments, **options):
        seen.append({e.prompt for e in examples})
        return train(loaded, svf, examples, *arguments, **options)

    monkeypatch.setattr(module, "train", watched)
    method = method_for(loaded, svf, CONFIG)
    measuring = Measuring(loaded, svf, five, PLAN, method, None, None, Reference(loaded, svf))
    scored = drain(measuring.leave_one_out())
    assert len(scored.answers) == 5
    assert [row.prompt in prompts for row, prompts in zip(five.held_out, seen, strict=False)] == [
        False
    ] * 5
    assert {len(prompts) for prompts in seen} == {4}


def test_the_card_says_that_rows_were_left_out_in_turn(loaded, svf, five):
    trained = drain(train_expert(loaded, svf, five, PLAN))
    assert trained.expert.training["leave_one_out"] is True
    assert trained.held_out.n == 5


def test_where_the_others_teach_nothing_the_base_model_answers(loaded, svf, five, monkeypatch):
    hopeless = split_rows(
        "five", [Example(e.prompt, "red", {"choices": ["a", "b"]}) for e in five.train]
    )
    plan, method = Plan("red", "x", "exact", CONFIG), method_for(loaded, svf, CONFIG)
    measuring = Measuring(loaded, svf, hopeless, plan, method, None, None, Reference(loaded, svf))
    scored = drain(measuring.leave_one_out())
    assert set(scored.rewards) == {-1.0}
