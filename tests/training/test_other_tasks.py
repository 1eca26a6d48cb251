"""Which tasks are asked: the shipped experts' and the user's earlier ones', never one's own."""

import json
import random

import pytest

from t2local.experts import ExpertStore
from t2local.tasks.datasets import Dataset
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.recipe import dataset_of, make_expert
from t2local.training.runner import MOST_CHOICES, MOST_EXPERTS, MOST_TEXTS, other_tasks
from t2local.training.runs import Plan, Run

NOTHING = Dataset("", [], [], [])


@pytest.fixture
def earlier(loaded, svf, tmp_path):
    """`earlier(name, rows, choice)`: a finished run of the user's, its expert and its data."""

    def make(name, rows=40, choice=True, start=0):
        path = tmp_path / f"{name}.jsonl"
        lines = [{"prompt": f"Which, {i}?", "answer": "a"} for i in range(start, start + rows)]
        lines = [line | {"choices": ["a", "b"], "label": 0} for line in lines] if choice else lines
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        plan = Plan(name, str(path), "exact", TrainConfig(max_new_tokens=7))
        run = Run.create(plan)
        source, _ = dataset_of(plan)
        card = {"data_sha256": source.sha256}
        ExpertStore(loaded.slug).save(make_expert(loaded, svf, svf.identity(), plan, (), card))
        run.finish({})
        return path, source

    return make


def names(own, source, loaded):
    return [task.name for task in other_tasks(own, source, loaded.slug)]


def test_every_shipped_task_but_ones_own(loaded):
    assert names("new", NOTHING, loaded) == ["math", "code", "reasoning", "classifier"]
    assert names("code", NOTHING, loaded) == ["math", "reasoning", "classifier"]


def test_the_classifiers_messages_are_asked_as_in_pass_1(loaded):
    task = other_tasks("new", NOTHING, loaded.slug)[-1]
    assert all(e.prompt.startswith("Classify the following message") for e in task.rows)


def test_an_earlier_experts_held_out_rows_are_asked_with_its_own_reward(earlier, loaded):
    _, source = earlier("mails")
    task = other_tasks("new", NOTHING, loaded.slug)[-1]
    assert (task.name, task.reward, task.max_new_tokens) == ("mails", "exact", 7)
    assert {e.prompt for e in task.rows} == {e.prompt for e in source.held_out}
    assert "mails" not in names("mails", NOTHING, loaded)


def test_at_most_so_many_rows_and_fewer_to_write(earlier, loaded):
    earlier("long", 400)
    earlier("written", 400, choice=False, start=1000)
    rows = {task.name: len(task.rows) for task in other_tasks("new", NOTHING, loaded.slug)}
    assert (rows["long"], rows["written"]) == (MOST_CHOICES, MOST_TEXTS)


def test_rows_that_the_new_expert_has_are_not_another_tasks(earlier, loaded):
    _, source = earlier("mails")
    some = random.Random(0).sample(list(source.held_out), 3)
    task = other_tasks("new", Dataset("", some, [], []), loaded.slug)[-1]
    assert len(task.rows) == len(source.held_out) - 3
    assert not {e.prompt for e in task.rows} & {e.prompt for e in some}
    everything = Dataset("", source.held_out, source.train, source.validation)
    assert "mails" not in names("new", everything, loaded)


def test_data_that_changed_or_is_gone_is_passed_over(earlier, loaded):
    changed, _ = earlier("changed")
    gone, _ = earlier("gone", start=100)
    with changed.open("a") as file:
        file.write('{"prompt": "One more?", "answer": "a", "choices": ["a", "b"], "label": 0}\n')
    gone.unlink()
    assert names("new", NOTHING, loaded) == ["math", "code", "reasoning", "classifier"]


def test_an_expert_that_was_deleted_and_a_run_that_did_not_end_have_no_task(earlier, loaded):
    earlier("deleted")
    (ExpertStore(loaded.slug).own_folder / "deleted.safetensors").unlink()
    earlier("unfinished", start=100)
    (Run.open("last").folder / "expert.json").unlink()
    assert names("new", NOTHING, loaded) == ["math", "code", "reasoning", "classifier"]


def test_ones_own_expert_stands_in_place_of_a_shipped_one_of_its_name(earlier, loaded):
    earlier("math")
    tasks = {task.name: task for task in other_tasks("new", NOTHING, loaded.slug)}
    assert list(tasks) == ["math", "code", "reasoning", "classifier"]
    assert all(isinstance(e, Example) and e.answer == "a" for e in tasks["math"].rows)


def test_only_the_newest_experts_are_asked(earlier, loaded):
    for number in range(MOST_EXPERTS + 2):
        earlier(f"mine-{number}", start=100 * number)
    assert len(names("new", NOTHING, loaded)) == 4 + MOST_EXPERTS


def test_a_damaged_run_is_passed_over(earlier, loaded):
    earlier("mails")
    (Run.open("last").folder / "run.json").write_text("{")
    assert "mails" not in names("new", NOTHING, loaded)
