import json
from dataclasses import replace

import pytest
import torch

from t2local.experts import Expert
from t2local.experts.prompt_print import (
    MOST_PROMPTS,
    MOST_ROWS,
    PromptPrint,
    print_of,
    print_of_others,
    sampled,
)
from t2local.experts.store import ExpertStore, read_expert, write_expert

ROWS = PromptPrint(torch.randn(5, 8).half(), 3)
EXPERT = Expert("math", "tiny", "print", {"model.layers.0.mlp.up_proj": torch.rand(4)})


def test_a_print_is_the_same_after_its_text():
    back = PromptPrint.from_text(ROWS.text())
    assert back.depth == ROWS.depth
    assert torch.equal(back.embeddings, ROWS.embeddings)


def test_a_print_travels_in_its_experts_file_without_another_tensor(tmp_path):
    path = tmp_path / "math.safetensors"
    expert = replace(EXPERT, prompt_print=ROWS)
    write_expert(expert, path)
    back = read_expert(path)
    assert torch.equal(back.prompt_print.embeddings, ROWS.embeddings)
    assert back.z.keys() == expert.z.keys()


def test_an_expert_without_a_print_has_none_when_it_is_read(tmp_path):
    write_expert(EXPERT, tmp_path / "math.safetensors")
    assert read_expert(tmp_path / "math.safetensors").prompt_print is None


def changed(**values):
    return json.dumps(json.loads(ROWS.text()) | values)


BROKEN = {
    "no JSON": "print",
    "nothing": "",
    "a list": "[1, 2]",
    "no depth": json.dumps({"shape": [5, 8], "float16": ""}),
    "depth 0": changed(depth=0),
    "more rows than it holds": changed(shape=[6, 8]),
    "negative rows": changed(shape=[-5, -8]),
    "a shape of three": changed(shape=[5, 8, 1]),
    "too many rows": changed(shape=[MOST_ROWS + 1, 8], float16="A" * 4),
    "no base64": changed(float16="§§§"),
    "a text of another length": changed(float16=json.loads(ROWS.text())["float16"][:-8]),
    "NaN": PromptPrint(torch.full((5, 8), torch.nan).half(), 3).text(),
    "infinity": PromptPrint(torch.full((5, 8), torch.inf).half(), 3).text(),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_is_no_print_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        PromptPrint.from_text(text)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_print_costs_no_expert(tmp_path, monkeypatch, text):
    path = tmp_path / "math.safetensors"
    monkeypatch.setattr(PromptPrint, "text", lambda self: text)
    write_expert(replace(EXPERT, prompt_print=ROWS), path)
    assert read_expert(path).prompt_print is None


def test_a_sample_is_the_same_each_time_in_order_and_never_longer():
    prompts = list(range(200))
    taken = sampled(prompts)
    assert taken == sampled(prompts) == sorted(taken)
    assert len(set(taken)) == MOST_PROMPTS
    assert sampled(prompts[:10]) == prompts[:10]


def test_a_print_fits_the_model_it_was_taken_of_and_none_of_another_width(tiny_loaded):
    loaded = tiny_loaded("llama")
    taken = print_of(loaded, [[{"role": "user", "content": text}] for text in "abcd"])
    assert taken.fits(loaded)
    assert taken.embeddings.dtype == torch.float16
    assert not replace(taken, embeddings=taken.embeddings[:, :-1]).fits(loaded)
    assert not replace(taken, depth=taken.depth + 1).fits(loaded)


def test_the_print_of_everyday_messages_is_kept_for_a_model(tiny_loaded):
    store, loaded = ExpertStore("some-model"), tiny_loaded("llama")
    assert store.print_of_others(loaded) is None
    taken = store.know_others(loaded)
    assert torch.equal(store.print_of_others(loaded).embeddings, taken.embeddings)
    assert torch.equal(print_of_others(loaded).embeddings, taken.embeddings)
    assert store.files() == []  # it is no expert


def test_a_damaged_print_of_everyday_messages_counts_as_none(tiny_loaded):
    store = ExpertStore("some-model")
    path = store.save_print_of_others(ROWS)
    assert store.print_of_others(tiny_loaded("llama")) is None  # another model's
    path.write_bytes(b"\xff\xfe half")
    assert store.print_of_others(tiny_loaded("llama")) is None
