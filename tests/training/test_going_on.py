"""A run that goes on from an expert: its z, its rows again, its new version or an offer."""

from dataclasses import replace

import pytest

from t2local.adapt.answering import action_of
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore
from t2local.experts.versions import Versions
from t2local.progress import drain
from t2local.tasks.rows import WHOLE, Example
from t2local.tasks.uploads import write_rows
from t2local.training.config import LORA, TrainConfig
from t2local.training.recipe import dataset_of
from t2local.training.runner import adopt_offered, drop_offered, going_on, running
from t2local.training.runs import Plan, Run

pytestmark = pytest.mark.usefixtures("no_other_tasks")
CONFIG = TrainConfig(steps=2, prompts_per_step=4, learning_rate=2e-2, checkpoint_every=1)
SMALL = replace(CONFIG, steps=1, learning_rate=1e-9)


def rows(word, count=14):
    columns = {"choices": ["blue", "red", "green"], "label": 1}
    return [Example(f"{word} {n}?", "red", columns) for n in range(count)]


@pytest.fixture
def first(home, loaded, svf):
    """An expert with its run and its rows on disk."""
    plan = Plan("red", str(write_rows(rows("old"), "old")), "choice", CONFIG)
    return trained(plan, loaded, svf).expert


def trained(plan, loaded, svf):
    store = ExpertStore(loaded.slug)
    return drain(running(Run.create(plan), loaded, svf, store.save))


def further(source, run="", **more):
    return Plan("red", str(source), "choice", SMALL, start="red", start_run=run, **more)


def test_it_begins_where_the_other_ended_and_is_its_new_version(first, loaded, svf):
    store = ExpertStore(loaded.slug)
    second = trained(further(write_rows(rows("new"), "new")), loaded, svf)
    for name, row in first.z.items():
        assert row.allclose(second.expert.z[name], atol=1e-5), "a step of nothing"
    assert second.expert.name == "red"
    assert len(Versions(store).of("red")) == 1
    assert store.load("red").training["run"] == second.expert.training["run"]
    assert second.card["start"] == "red"
    since = second.card["since_start"]
    assert since["base"] == since["trained"] == second.held_out.trained


def test_its_own_rows_are_learnt_again_and_none_is_measured(first, loaded, svf):
    source = write_rows(rows("new"), "new")
    data, _ = dataset_of(Plan("red", str(source), "choice", SMALL))
    run, replays, words = going_on(first, "red", data, "choice")
    assert (run, replays) == (first.training["run"], True)
    assert "rows are learnt again" in words
    both, _ = dataset_of(further(source, run, replays=True))
    old, _ = dataset_of(Run.open(run).plan())
    again = [e for e in both.train if e.prompt.startswith("old")]
    assert again
    assert {e.key for e in again} <= {e.key for e in old.train}, "none that was held out then"
    assert both.held_out == data.held_out
    assert both.validation == data.validation
    assert both.sha256 != data.sha256, "the card says on which rows"


def test_a_version_of_a_version_learns_the_rows_of_both_again(first, loaded, svf):
    run = first.training["run"]
    plan = further(write_rows(rows("new"), "new"), run, replays=True)
    second = trained(plan, loaded, svf).expert
    source = write_rows(rows("last", 40), "last")
    data, _ = dataset_of(Plan("red", str(source), "choice", SMALL))
    second_run = going_on(second, "red", data, "choice").run
    both, _ = dataset_of(further(source, second_run, replays=True))
    assert {e.prompt.split()[0] for e in both.train} == {"old", "new", "last"}


def test_rows_that_are_asked_or_rewarded_otherwise_are_not_mixed_and_it_says_so(first):
    plain = write_rows([Example(f"q {n}", f"answer {n}") for n in range(14)], "plain")
    data, _ = dataset_of(Plan("x", str(plain), "exact", SMALL))
    found = going_on(first, "another", data, "exact")
    assert not found.replays
    assert "rewarded by 'choice'" in found.words
    pairs = [
        Example(f"q {n}", "yes", {"choices": ["yes", "no"], "label": 0, WHOLE: True})
        for n in range(14)
    ]
    data, _ = dataset_of(Plan("x", str(write_rows(pairs, "pairs")), "choice", SMALL))
    assert action_of(data.rows) == "choice"
    found = going_on(first, "another", data, "choice")
    assert not found.replays
    assert "these are asked in another way" in found.words


def test_rows_that_are_gone_are_told_of(first, loaded, svf):
    data, _ = dataset_of(Plan("red", str(write_rows(rows("new"), "new")), "choice", SMALL))
    gone = replace(first, training={**first.training, "run": "nowhere"})
    run, replays, words = going_on(gone, "red", data, "choice")
    assert (run, replays) == ("", False)
    assert "not learnt again" in words


def test_an_expert_that_is_gone_and_an_adapter_are_refused(first, loaded, svf):
    source = str(write_rows(rows("new"), "new"))
    with pytest.raises(T2LocalError, match="no expert 'blue'"):
        trained(Plan("red", source, "choice", SMALL, start="blue"), loaded, svf)
    lora = replace(SMALL, method=LORA)
    with pytest.raises(T2LocalError, match="LoRA adapter cannot go on"):
        trained(Plan("red", source, "choice", lora, start="red"), loaded, svf)


def test_what_is_offered_changes_nothing_until_it_is_adopted(first, loaded, svf):
    store = ExpertStore(loaded.slug)
    plan = further(write_rows(rows("new"), "new"), offered=True)
    run = Run.create(plan)
    drain(running(run, loaded, svf, pytest.fail))
    assert run.offered.is_file()
    assert store.load("red").training["run"] == first.training["run"]
    adopt_offered(run, loaded.slug, store.save)
    assert store.load("red").training["run"] == run.name
    assert len(Versions(store).of("red")) == 1
    assert run.result()["offer"] == "adopted"
    assert not run.offered.exists()


def test_what_is_dropped_is_gone_and_the_run_says_so(first, loaded, svf):
    run = Run.create(further(write_rows(rows("new"), "new"), offered=True))
    drain(running(run, loaded, svf, pytest.fail))
    drop_offered(run)
    drop_offered(run)  # gone already
    assert not run.offered.exists()
    assert run.result()["offer"] == "dropped"


def test_no_row_is_measured_that_the_start_has_learnt_from(first, loaded, svf):
    """The file was only added to: the split is drawn anew, over what is new."""
    run = first.training["run"]
    source = write_rows([*rows("old"), *rows("new")], "both")
    old, _ = dataset_of(Run.open(run).plan())
    both, _ = dataset_of(further(source, run))
    learnt = {e.group for e in (*old.train, *old.validation)}
    measured = {e.group for e in (*both.validation, *both.held_out)}
    assert not learnt & measured
    assert learnt <= {e.group for e in both.train}
    assert len({e.group for e in both.rows}) == 28, "none is lost"
    again, _ = dataset_of(further(source, run, replays=True))
    groups = [e.group for e in again.train]
    assert len(groups) == len(set(groups)), "none is learnt twice"


def test_too_few_rows_that_the_start_has_not_seen_are_told(first, loaded, svf):
    source = write_rows(rows("old"), "again")
    with pytest.raises(T2LocalError, match="were learnt by 'red' already"):
        dataset_of(further(source, first.training["run"]))


def test_an_expert_that_chooses_keeps_its_labels_or_gets_another_name(first):
    assert first.labels == ("blue", "red", "green")
    columns = {"choices": ["blue", "red"], "label": 1}
    fewer = [Example(f"new {n}?", "red", columns) for n in range(14)]
    data, _ = dataset_of(Plan("red", str(write_rows(fewer, "fewer")), "choice", SMALL))
    with pytest.raises(T2LocalError, match="chooses among blue, red, green"):
        going_on(first, "red", data, "choice")
    going_on(first, "other", data, "choice")


def test_a_run_killed_after_its_expert_was_saved_still_knows_what_it_began_with(first, loaded, svf):
    store = ExpertStore(loaded.slug)
    run = Run.create(further(write_rows(rows("new"), "new")))
    drain(running(run, loaded, svf, store.save))
    (run.folder / "expert.json").unlink()
    again = drain(running(run, loaded, svf, store.save))
    assert again.card["since_start"]["base"] == again.card["since_start"]["trained"]
    assert len(Versions(store).of("red")) == 1
