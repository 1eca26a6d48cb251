"""Forgetting: nothing at z = 1, something far from it; the base model is asked once."""

import json

import pytest
import torch

from t2local.adapt.applier import holding
from t2local.progress import CancelToken, Progress, drain
from t2local.svf import attach
from t2local.tasks.rows import Example
from t2local.training import validation
from t2local.training.validation import Forgetting, OtherTask, as_card, forgetting, in_words


@pytest.fixture
def tasks(colours, texts):
    animals = [
        Example(f"What sings, {i}?", "bird", {"choices": ["bird", "stone", "table", "door"]})
        for i in range(20)
    ]
    return (
        OtherTask("colours", tuple(colours)),
        OtherTask("animals", tuple(animals), "exact"),
        OtherTask("texts", tuple(texts), "contains", 4),
    )


@pytest.fixture
def forwards(loaded):
    """A list that grows with every forward of the model."""
    seen = []
    loaded.model.base_model.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


def far(svf):
    torch.manual_seed(3)
    return {name: 1 + torch.randn_like(row) for name, row in svf.identity().items()}


@pytest.mark.parametrize("rebuilt", [True, False])
def test_z_of_one_forgets_nothing(loaded, svf, tasks, rebuilt):
    one = svf.identity()
    around = holding(loaded, svf, one) if rebuilt else lambda: svf.using(one)
    results = drain(forgetting(loaded, svf, around, tasks))
    assert [r.task for r in results] == ["colours", "animals", "texts"]
    for result, task in zip(results, tasks, strict=True):
        low, high = result.ci95_difference
        assert result.n == len(task.rows)
        assert result.base == result.trained
        assert low < 0 < high


def test_a_z_far_from_one_changes_something_and_the_same_each_time(loaded, svf, tasks):
    around = holding(loaded, svf, far(svf))
    first = drain(forgetting(loaded, svf, around, tasks))
    assert any(r.base != r.trained for r in first)
    validation.scores_path().unlink()
    assert drain(forgetting(loaded, svf, around, tasks)) == first


def test_the_base_model_is_measured_without_what_is_in_force_around_it(loaded, svf, tasks):
    plain = drain(forgetting(loaded, svf, lambda: svf.using({}), tasks))
    validation.scores_path().unlink()
    with svf.using(far(svf)):
        inside = drain(forgetting(loaded, svf, lambda: svf.using({}), tasks))
    assert inside == plain


def test_the_second_run_does_not_ask_the_base_model(loaded, svf, tasks, forwards):
    around = holding(loaded, svf, far(svf))
    first = drain(forgetting(loaded, svf, around, tasks[:2]))
    both = len(forwards)
    assert drain(forgetting(loaded, svf, around, tasks[:2])) == first
    assert len(forwards) - both == both / 2


def test_scores_are_remembered_for_these_rows_and_weights_alone(loaded, svf, tasks, tiny_loaded):
    other = tiny_loaded("llama", seed=1)
    colours = tasks[0].rows
    keys = {
        validation.scores_key(loaded, svf, colours, "choice", 96),
        validation.scores_key(loaded, svf, colours[1:], "choice", 96),
        validation.scores_key(loaded, svf, colours, "exact", 96),
        validation.scores_key(loaded, svf, colours, "choice", 8),
        validation.scores_key(other, attach(other.model), colours, "choice", 96),
    }
    assert len(keys) == 5
    assert validation.scores_key(loaded, svf, colours, "choice", 96) in keys


@pytest.mark.parametrize("damage", ["", "{", "[1]", '"x"'])
def test_damaged_scores_are_measured_again(loaded, svf, tasks, damage):
    around = holding(loaded, svf, far(svf))
    first = drain(forgetting(loaded, svf, around, tasks[:1]))
    validation.scores_path().write_text(damage)
    assert drain(forgetting(loaded, svf, around, tasks[:1])) == first
    (key,) = json.loads(validation.scores_path().read_text())
    for wrong in ("01", "x" * 12, 5):
        validation.scores_path().write_text(json.dumps({key: wrong}))
        assert validation.recall(key, 12) is None


def test_only_the_newest_scores_are_kept(monkeypatch):
    monkeypatch.setattr(validation, "MOST_KEPT", 2)
    for name in "abc":
        validation.remember(name, [1.0, 0.0])
    assert [validation.recall(name, 2) for name in "abc"] == [None, [1.0, 0.0], [1.0, 0.0]]


def test_a_home_that_cannot_be_written_does_not_cost_the_run(loaded, svf, tasks, home):
    home.write_text("a file, not a folder")
    around = holding(loaded, svf, svf.identity())
    (result,) = drain(forgetting(loaded, svf, around, tasks[:1]))
    assert result.base == result.trained


def test_progress_names_the_task_and_a_cancelled_one_keeps_the_tasks_before(loaded, svf, tasks):
    cancel, seen = CancelToken(), []

    def on_event(event):
        seen.append(event)
        if event.done == 1:
            cancel.cancel()

    kept = drain(forgetting(loaded, svf, lambda: svf.using({}), tasks, cancel), on_event)
    assert seen[0] == Progress("Measuring what was forgotten: colours", 0, 3, "tasks")
    assert [result.task for result in kept] == ["colours"]


def test_nothing_to_measure_gives_nothing(loaded, svf):
    assert drain(forgetting(loaded, svf, lambda: svf.using({}), ())) == ()


def test_a_card_is_plain_json():
    result = Forgetting("math", 60, 0.5, 0.25, (-0.4, -0.1))
    (entry,) = json.loads(json.dumps(as_card([result])))
    assert entry == {
        "task": "math", "n": 60, "base": 0.5, "trained": 0.25, "ci95_difference": [-0.4, -0.1]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("trained", "interval", "words"),
    [
        (0.4, (-0.1, 0.06), "math: 42 % → 40 % of 60, no proven change"),
        (0.2, (-0.3, -0.1), "math: 42 % → 20 % of 60, worse"),
        (0.8, (0.2, 0.5), "math: 42 % → 80 % of 60, better"),
    ],
)
def test_in_words(trained, interval, words):
    assert in_words(Forgetting("math", 60, 0.4167, trained, interval)) == words
