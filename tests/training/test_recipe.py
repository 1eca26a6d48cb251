import pytest
import torch

from t2local.experts import ExpertStore
from t2local.experts.store import check_fits
from t2local.progress import CancelToken, Progress, drain
from t2local.tasks.datasets import Dataset
from t2local.training.config import TrainConfig
from t2local.training.recipe import train_expert
from t2local.training.reports import MEASURING_FORGOTTEN
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
