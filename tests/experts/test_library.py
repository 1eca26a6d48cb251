"""Keeping experts: nothing is lost, nothing is overwritten, shipped ones stay as they are."""

import json
from dataclasses import replace

import pytest
import torch

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts import Library, read_expert, write_expert
from t2local.experts.expert import check_name, free_name
from t2local.experts.library import (
    TRASH_KEPT,
    MixtureFile,
    MixtureStore,
    read_mixture,
    write_mixture,
)
from t2local.svf import attach
from t2local.svf.mixing import Gains, Mixture
from tests.experts.support import MODEL, small_expert


@pytest.fixture(scope="module")
def expert(tiny):
    return small_expert(attach(tiny("llama")))


@pytest.fixture
def library(expert, tmp_path, monkeypatch):
    """`counting` is the user's own; `shipped` came with the app."""
    monkeypatch.setattr(paths, "SHIPPED_EXPERTS", tmp_path / "shipped")
    library = Library(MODEL)
    library.save(expert)
    shipped = replace(expert, name="shipped")
    write_expert(shipped, library.shipped_folder / "shipped.safetensors")
    return library


def same_z(left, right) -> bool:
    return all(torch.equal(left.z[name], right.z[name]) for name in left.z | right.z)


def names(library) -> list[str]:
    return [stored.expert.name for stored in library.files()]


def test_rename_keeps_everything_but_the_name(library, expert):
    library.rename("counting", "legs")
    assert names(library) == ["legs", "shipped"]
    renamed = library.load("legs")
    assert replace(renamed, name="counting", z={}) == replace(expert, z={})
    assert same_z(renamed, expert)


def test_a_copy_stands_beside_its_original_and_gets_a_free_name(library, expert):
    assert library.duplicate("shipped").name == "shipped-copy"
    assert library.duplicate("shipped").name == "shipped-copy-2"
    assert same_z(library.load("shipped-copy-2"), expert)
    library.rename("shipped-copy", "mine")
    assert {"shipped", "mine", "counting"} <= set(names(library))


def test_delete_then_restore_is_the_identity_also_after_a_restart(library):
    before = (library.own_folder / "counting.safetensors").read_bytes()
    library.delete("counting")
    assert names(library) == ["shipped"]
    again = Library(MODEL)
    assert [deleted.name for deleted in again.deleted()] == ["counting"]
    assert again.restore("counting") == "counting"
    assert (library.own_folder / "counting.safetensors").read_bytes() == before
    assert again.deleted() == []


def test_restore_brings_back_what_was_deleted_last_and_overwrites_nothing(library, expert):
    for text in ("first", "second"):
        library.save(replace(expert, description=text))
        library.delete("counting")
    library.restore("counting")
    assert library.load("counting").description == "second"
    with pytest.raises(T2LocalError, match="such as 'counting-2'"):
        library.restore("counting")
    library.restore("counting", "older")
    assert library.load("older").description == "first"


def test_the_trash_keeps_the_newest(library):
    for _ in range(TRASH_KEPT + 2):
        library.duplicate("shipped", "copy")
        library.delete("copy")
    assert len(library.deleted()) == TRASH_KEPT


def test_a_damaged_file_can_be_deleted(library):
    (library.own_folder / "broken.safetensors").write_bytes(b"nonsense")
    library.delete("broken")
    assert [stored.path.stem for stored in library.files()] == ["counting", "shipped"]


def test_an_own_expert_over_a_shipped_one_uncovers_it_when_deleted(library, expert):
    library.save(replace(expert, name="shipped", description="mine"))
    library.delete("shipped")
    assert library.load("shipped").description != "mine"
    library.restore("shipped")
    assert library.load("shipped").description == "mine"


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda lib: lib.rename("shipped", "x"), "cannot be renamed; duplicate it"),
        (lambda lib: lib.delete("shipped"), "cannot be deleted; duplicate it"),
        (lambda lib: lib.rename("counting", "shipped"), "such as 'shipped-2'"),
        (lambda lib: lib.rename("counting", "SHIPPED"), "already"),
        (lambda lib: lib.rename("counting", "base"), "means something to the dispatcher"),
        (lambda lib: lib.rename("counting", "../x"), "cannot be an expert's name"),
        (lambda lib: lib.rename("counting", "x" * 65), "65 characters"),
        (lambda lib: lib.rename("counting", "busy", {"busy"}), "already"),
        (lambda lib: lib.rename("nobody", "x"), "no expert 'nobody'"),
        (lambda lib: lib.duplicate("counting", "shipped"), "already"),
        (lambda lib: lib.restore("counting"), "trash holds: nothing"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(library, act, words):
    before = {p: p.read_bytes() for p in library.own_folder.rglob("*") if p.is_file()}
    with pytest.raises(T2LocalError, match=words) as error:
        act(library)
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in library.own_folder.rglob("*") if p.is_file()} == before


def test_share_then_import_is_the_identity_but_for_the_name(library, expert, tmp_path):
    shared = library.share("counting", tmp_path)
    assert shared == tmp_path / "counting.safetensors"
    with pytest.raises(T2LocalError, match="such as 'counting-2'"):
        library.import_file(shared)
    taken_in, warning = library.import_file(shared, "friend", lambda e: f"{e.name} is transferred")
    assert warning == "friend is transferred"
    assert same_z(library.load("friend"), expert)
    assert taken_in.training == expert.training


def test_import_refuses_what_does_not_fit_and_saves_nothing(library, expert, tmp_path):
    def refuse(expert):
        raise T2LocalError("does not fit; train a new one")

    other = tmp_path / "other.safetensors"
    write_expert(replace(expert, name="other", base_model="Qwen"), other)
    with pytest.raises(T2LocalError, match="trained on Qwen"):
        library.import_file(other)
    write_expert(replace(expert, name="../evil"), other)
    with pytest.raises(T2LocalError, match="cannot be an expert's name"):
        library.import_file(other)
    with pytest.raises(T2LocalError, match="does not fit"):
        library.import_file(other, "fine", refuse)
    other.write_bytes(b"nonsense")
    with pytest.raises(T2LocalError, match="damaged"):
        library.import_file(other)
    assert names(library) == ["counting", "shipped"]


@pytest.mark.parametrize(
    "training",
    [
        {"forgetting": [{"task": "math"}]},
        {"forgetting": 3},
        {"curve": ["up"]},
        {"held_out": {"n": 3, "base": "<b>", "trained": 1, "ci95_difference": [0, 0]}},
        {"held_out": {"n": 3, "base": float("nan"), "trained": 1, "ci95_difference": [0, 0]}},
    ],
)
def test_what_is_garbled_in_a_card_is_left_out_when_it_is_read(expert, tmp_path, training):
    write_expert(replace(expert, training={"steps": 3, **training}), tmp_path / "e")
    assert read_expert(tmp_path / "e").training == {"steps": 3}


def test_a_free_name_is_one_that_may_be_used():
    assert free_name("a b/c", ()) == check_name(free_name("a b/c", ()))
    assert free_name("base", ()) == "base-2"
    assert free_name("math", {"Math", "math-2"}) == "math-3"
    assert len(check_name(free_name("x" * 200, {"x" * 59}))) <= 64


# --- Mixtures on disk.

MIXTURE = Mixture({"math": 0.6}, 0.9, Gains(mlp=0.5), {"model.layers.0.mlp.up_proj": {"code": 1.0}})


def test_save_then_load_is_the_identity(tmp_path):
    file = MixtureFile(MIXTURE, "org/some-model", {"reward": "choice", "accuracy": 0.5})
    write_mixture(file, tmp_path / "m.json")
    assert read_mixture(tmp_path / "m.json") == file


def test_alpha_alone_is_enough(tmp_path):
    path = tmp_path / "m.json"
    path.write_text('{"alpha": {"math": 0.6}}')
    assert read_mixture(path).mixture == Mixture({"math": 0.6})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[1]", "has no α"),
        ({"strength": 1}, "has no α"),
        ({"alpha": {}, "colour": 1}, "unknown key 'colour'"),
        ({"alpha": {}, "gains": {"loud": 1}}, "unknown gain 'loud'"),
        ({"alpha": {}, "schema": 99}, "newer t2local"),
        ({"alpha": {"math": "much"}}, "garbled"),
        ({"alpha": {"math": 1e9}}, "must be a number"),
        ({"alpha": {}, "by_matrix": [1]}, "garbled"),
    ],
)
def test_bad_files_get_a_sentence_each(tmp_path, content, words):
    path = tmp_path / "m.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(T2LocalError, match=words):
        read_mixture(path)


def test_another_model_and_an_expert_that_is_gone_are_refused():
    file = MixtureFile(MIXTURE, "org/some-model")
    file.check("org/some-model", ["math", "code"])
    with pytest.raises(T2LocalError, match="was made for org/some-model"):
        file.check("other", ["math", "code"])
    with pytest.raises(T2LocalError, match=r"names the expert 'code'.*import"):
        file.check("org/some-model", ["math"])


def test_the_store_knows_its_names():
    store = MixtureStore("some-model")
    assert store.names() == []
    store.save("arc", MixtureFile(MIXTURE))
    assert store.names() == ["arc"]
    assert store.load("arc").mixture == MIXTURE
    with pytest.raises(T2LocalError, match="there are: arc"):
        store.load("gone")
    with pytest.raises(T2LocalError):
        store.save("../gone", MixtureFile(MIXTURE))
