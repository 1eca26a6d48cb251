"""Steps on a fixed cache are the steps of a growing one; on a GPU a graph survives a new z."""

import pytest
import torch

from t2local.models.graph_decode import StepDecoder
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
