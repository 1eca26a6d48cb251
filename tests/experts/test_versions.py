"""Earlier versions of an expert are kept, come back, and are never lost on the way."""

from dataclasses import replace

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.experts import Expert, ExpertStore, Library
from t2local.experts.versions import MOST_KEPT, Versions
from t2local.training.runner import adopted


@pytest.fixture
def store(home):
    return ExpertStore("tiny")


def expert(value, run="", name="red"):
    z = {"layers.0": torch.full((4,), float(value))}
    return Expert(name, "tiny", "print", z, training={"run": run} if run else {})


def value(store, name="red"):
    return float(store.load(name).z["layers.0"][0])


def test_going_on_makes_a_new_version_and_back_is_one_step(store):
    adopted(expert(1), "first", "tiny", store.save)
    adopted(expert(2), "second", "tiny", store.save, start="red")
    assert (value(store), len(Versions(store).of("red"))) == (2.0, 1)
    assert Versions(store).back("red").z["layers.0"][0] == 1.0
    assert (value(store), len(Versions(store).of("red"))) == (1.0, 1)
    Versions(store).back("red")
    assert value(store) == 2.0, "and forth"


def test_without_going_on_another_of_the_name_gets_a_free_one(store):
    adopted(expert(1), "first", "tiny", store.save)
    assert adopted(expert(2), "second", "tiny", store.save).name == "red-2"
    assert Versions(store).of("red") == []


def test_pressing_on_goes_through_all_versions(store):
    for number in range(4):
        adopted(expert(number), f"run {number}", "tiny", store.save, start="red")
    seen = [value(store)]
    for _ in range(4):
        Versions(store).back("red")
        seen.append(value(store))
    assert seen == [3.0, 2.0, 1.0, 0.0, 3.0]
    assert len(Versions(store).of("red")) == 3


def test_a_new_expert_does_not_inherit_the_versions_of_another(store):
    library = Library("tiny")
    for number in range(2):
        adopted(expert(number), f"run {number}", "tiny", store.save, start="red")
    library.delete("red")
    adopted(expert(7), "another", "tiny", store.save)
    assert Versions(store).of("red") == []


def test_versions_go_with_a_renamed_expert(store):
    for number in range(2):
        adopted(expert(number), f"run {number}", "tiny", store.save, start="red")
    Library("tiny").rename("red", "blue")
    assert (Versions(store).of("red"), len(Versions(store).of("blue"))) == ([], 1)


def test_going_on_under_another_name_replaces_nothing(store):
    adopted(expert(1), "first", "tiny", store.save)
    kept = adopted(expert(2, name="blue"), "second", "tiny", store.save, start="red")
    assert (kept.name, value(store), value(store, "blue")) == ("blue", 1.0, 2.0)
    assert Versions(store).of("red") == []


def test_the_same_run_again_keeps_one_version(store):
    """It was killed after its expert was saved and before it was told so."""
    adopted(expert(1), "first", "tiny", store.save)
    for _ in range(2):
        adopted(expert(2), "second", "tiny", store.save, start="red")
    assert len(Versions(store).of("red")) == 1
    Versions(store).keep("red")
    Versions(store).keep("red")
    assert len(Versions(store).of("red")) == 2, "killed between the copy and the save"


def test_an_expert_of_a_name_that_begins_alike_has_its_own_versions(store):
    for name in ("red", "red.2"):
        adopted(expert(1, name=name), "first", "tiny", store.save)
        adopted(expert(2, name=name), "second", "tiny", store.save, start=name)
    assert [len(Versions(store).of(name)) for name in ("red", "red.2")] == [1, 1]


def test_only_some_are_kept(store):
    for number in range(MOST_KEPT + 4):
        adopted(expert(number), f"run {number}", "tiny", store.save, start="red")
    assert len(Versions(store).of("red")) == MOST_KEPT
    assert value(store) == MOST_KEPT + 3


def test_nothing_to_go_back_to_and_a_damaged_version(store):
    adopted(expert(1), "first", "tiny", store.save)
    with pytest.raises(T2LocalError, match="no earlier version"):
        Versions(store).back("red")
    adopted(expert(2), "second", "tiny", store.save, start="red")
    Versions(store).of("red")[0].path.write_bytes(b"half a file")
    with pytest.raises(T2LocalError):
        Versions(store).back("red")
    assert value(store) == 2.0


def test_versions_are_no_experts(store):
    adopted(expert(1), "first", "tiny", store.save)
    adopted(replace(expert(2)), "second", "tiny", store.save, start="red")
    assert [file.path.stem for file in store.files()] == ["red"]
