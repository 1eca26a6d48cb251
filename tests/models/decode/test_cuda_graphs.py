"""Steps on a fixed cache are the steps of a growing one; on a GPU a graph survives a new z."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from t2local.models.decode import cuda_graphs
from t2local.models.decode.cuda_graphs import GraphSteps, StepDecoder, Variant
from t2local.models.decode.generate import Decoder, Sampling
from t2local.svf import attach
from tests.svf.support import random_z, relative

IDS = torch.tensor([[5, 80, 81, 82, 90, 14], [7, 9, 120, 121, 41, 42]])  # [B, T]
SAID = torch.tensor([[30, 31, 32, 33], [40, 41, 42, 43]])  # [B, steps]


def grown(model, ids: torch.Tensor, said: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Next-token logits after the prompt and after each token, without any cache."""
    found = []
    for n in range(said.shape[1] + 1):
        whole = torch.cat([ids, said[:, :n]], dim=1)
        seen = torch.cat([mask, torch.ones_like(said[:, :n])], dim=1)
        with torch.no_grad():
            out = model(whole, attention_mask=seen, position_ids=(seen.cumsum(-1) - 1).clamp(min=0))
        found.append(out.logits[:, -1])
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2"])
@pytest.mark.parametrize("padded", [False, True])
def test_steps_on_a_fixed_cache_equal_reading_everything_again(tiny, family, padded):
    model = tiny(family)
    mask = torch.ones_like(IDS)
    mask[1, : 2 * padded] = 0
    decoder = StepDecoder(model, 2, 16)
    expected = grown(model, IDS, SAID, mask)
    for _ in range(2):  # a decoder is used again for the next prompt
        found = [decoder.read(IDS, mask if padded else None)]
        found += [decoder.step(tokens) for tokens in SAID.T]
        assert not decoder.captured
        for step, exact in zip(found, expected, strict=True):
            assert (step - exact).abs().max() < 1e-4


def test_what_is_put_around_a_step_holds_for_it(tiny):
    svf = attach(tiny("llama"))
    z, buffer = random_z(svf), svf.buffer()
    svf.fill(buffer, z)
    decoder = StepDecoder(svf.model, 2, 16)
    with svf.using_buffer(buffer):
        expected = grown(svf.model, IDS, SAID, torch.ones_like(IDS))
        found = [decoder.read(IDS)]
    found += [decoder.step(t, "adapted", lambda: svf.using_buffer(buffer)) for t in SAID.T]
    for step, exact in zip(found, expected, strict=True):
        assert (step - exact).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "phi3"])
def test_a_cache_is_taken_over_and_given_back_as_the_forward_filled_it(tiny, family):
    model, ids, said = tiny(family), IDS[:1], SAID[:1]
    decoder, expected = StepDecoder(model, 1, 16), grown(model, ids, said, torch.ones_like(ids))
    for _ in range(2):  # what an earlier answer left there is forgotten
        cache = DynamicCache()
        with torch.no_grad():
            model(ids, past_key_values=cache)
        decoder.take_over(cache)
        for token, exact in zip(said.T, expected[1:], strict=True):
            assert (decoder.step(token) - exact).abs().max() < 1e-4
        assert decoder.length == ids.shape[1] + said.shape[1]
    whole = DynamicCache()
    with torch.no_grad():
        model(torch.cat([ids, said], dim=1), past_key_values=whole)
    for ours, theirs in zip(decoder.ordinary().layers, whole.layers, strict=True):
        assert torch.allclose(ours.keys, theirs.keys, atol=1e-4)
        assert torch.allclose(ours.values, theirs.values, atol=1e-4)


def test_the_fixed_cache_is_as_large_as_the_longest_answer_needs(tiny_loaded, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "SMALLEST", 16)
    loaded = tiny_loaded()
    steps, sizes = GraphSteps(loaded), []
    for prompt, more in ((5, 8), (5, 30), (40, 400), (5, 200), (5, 10)):
        decoder = Decoder(loaded, list(range(3, 3 + prompt)), Sampling(max_new_tokens=more))
        decoder.push(decoder.sample(decoder.logits()))
        assert decoder.quickly(Variant(steps, "base", nullcontext)) is not None
        sizes.append(steps._decoder.max_tokens)
    assert sizes == [16, 64, 512, 512, 16]


def test_what_is_not_captured_has_a_reason(tiny_loaded):
    loaded = tiny_loaded()
    on_gpu = replace(loaded, device="cuda:0")
    assert cuda_graphs.why_not(on_gpu) == ""
    assert "CUDA" in cuda_graphs.why_not(loaded)
    assert "8-bit" in cuda_graphs.why_not(replace(on_gpu, quantization="int8"))
    loaded.model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    assert "spread" in cuda_graphs.why_not(on_gpu)
    for family, word in (("mistral", "window"), ("gemma2", "Gemma2"), ("gpt2", "GPT2")):
        assert word in cuda_graphs.why_not(replace(tiny_loaded(family), device="cuda:0"))


@pytest.mark.gpu
def test_a_captured_step_equals_the_eager_one_and_survives_a_change_of_z(tiny):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here; run `pytest -m gpu` on a machine that has one")
    svf = attach(tiny("llama").cuda())
    ids, said, buffer = IDS.cuda(), SAID.cuda(), svf.buffer()
    decoder = StepDecoder(svf.model, 2, 16)
    for seed in range(3):
        svf.fill(buffer, {name: row.cuda() for name, row in random_z(svf, seed=seed).items()})
        with svf.using_buffer(buffer):
            expected = grown(svf.model, ids, said, torch.ones_like(ids))
            found = [decoder.read(ids)]
        found += [decoder.step(t, "adapted", lambda: svf.using_buffer(buffer)) for t in said.T]
        assert decoder.captured
        assert list(decoder._graphs) == ["adapted"]
        for step, exact in zip(found, expected, strict=True):
            assert relative(step, exact) < 1e-4
    expected = grown(svf.model, ids, said, torch.ones_like(ids))
    found = [decoder.read(ids), *(decoder.step(t) for t in said.T)]
    assert set(decoder._graphs) == {"adapted", "base"}
    for step, exact in zip(found, expected, strict=True):
        assert relative(step, exact) < 1e-4
