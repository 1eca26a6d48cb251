"""The catalogue's models have the sizes that their makers publish."""

import pytest
from transformers import LlamaConfig

from t2local.errors import T2LocalError
from t2local.models.fit.anatomy import anatomy_of
from t2local.models.fit.catalogue import architecture, entries, find
from t2local.models.load.load_errors import HUB_ID


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.id)
def test_a_model_built_from_its_sizes_has_its_published_parameters(entry):
    assert anatomy_of(entry.id).parameters == entry.parameters


def test_every_entry_can_be_asked_for():
    ids = [entry.id for entry in entries()]
    assert ids[0] == "embedded"
    assert len(set(ids)) == len(ids)
    assert all(HUB_ID.fullmatch(model_id) for model_id in ids)
    assert all(entry.good_for and entry.license_url.startswith("https://") for entry in entries())


def test_an_id_is_found_in_any_case_and_no_other():
    assert find(" qwen/qwen3-0.6b ").title == "Qwen3 0.6B"
    assert find("Qwen/Qwen3-0.6B-Base") is None


def test_only_the_language_model_of_one_that_sees_is_adapted():
    (seeing,) = (entry for entry in entries() if entry.sees_images)
    adapted = anatomy_of(seeing.id).adapted()
    assert len(adapted) == 7 * 32
    assert all("language_model" in matrix.name for matrix in adapted)
    spoken = anatomy_of("meta-llama/Meta-Llama-3-8B-Instruct").adapted()
    assert [m.rank for m in adapted] == [m.rank for m in spoken]


def test_a_folder_needs_no_weights_to_be_measured(tmp_path):
    architecture("Qwen/Qwen3-0.6B").save_pretrained(tmp_path)
    assert anatomy_of(str(tmp_path)) == anatomy_of("Qwen/Qwen3-0.6B")


def test_a_folder_named_like_a_catalogue_model_is_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LlamaConfig(num_hidden_layers=1).save_pretrained("embedded")
    assert anatomy_of("embedded").layers == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nobody/nothing", "not in the local Hub cache"),
        ("no/such/folder", "no such folder"),
        ("missing.gguf", "no such folder"),
    ],
)
def test_what_is_not_there_is_said(source, words):
    with pytest.raises(T2LocalError, match=words):
        anatomy_of(source)


def test_a_model_that_writes_no_text_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}', encoding="utf-8")
    with pytest.raises(T2LocalError, match="cannot be estimated"):
        anatomy_of(str(tmp_path))
