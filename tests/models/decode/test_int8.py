import pytest
import torch
from transformers import DynamicCache

from t2local.models.decode.generate import Decoder, Sampling
from t2local.models.decode.int8 import (
    ROOM,
    FastCache,
    Int8Steps,
    Packer,
    fast_step,
    int8_product,
    why_not,
)
from t2local.progress import drain
from tests.models.decode.products import float_product

PROMPT = [50, 60, 70, 80, 90, 100]
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=12)
FAMILIES = ("llama", "qwen2")
needs_int8 = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported() or torch.backends.quantized.engine not in ("x86", "fbgemm"),
    reason="this processor has no 8-bit products",
)


@pytest.fixture
def packable(tiny_loaded, monkeypatch):
    """`packable(family)`: a tiny model that counts as packable on any processor."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr("t2local.models.fit.anatomy.ENGINES", {torch.backends.quantized.engine})
    return tiny_loaded


def with_biases(loaded):
    """Biases and norms as a trained model has them, instead of the zeros and ones of a new one."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in loaded.model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.3, generator=generator)
        elif "norm" in name:
            parameter.data.uniform_(0.5, 2.0, generator=generator)
    return loaded


def packed(loaded, product=float_product):
    model = loaded.model
    return drain(Packer(loaded, product).packing(lambda name: model.get_submodule(name).weight))


def read(loaded, ids):
    """The ordinary logits of every position and the cache after `ids`."""
    cache = DynamicCache()
    with torch.no_grad():
        return loaded.model(torch.tensor([ids]), past_key_values=cache).logits[0], cache


def after_prompt(loaded, model, tokens):
    """Logits `[len(tokens), V]` of the fast step after each of `tokens`, which follow `PROMPT`."""
    cache = FastCache(read(loaded, PROMPT)[1])
    return torch.cat([fast_step(model, cache, token) for token in tokens]), cache


@pytest.mark.parametrize("family", FAMILIES)
def test_with_exact_products_a_step_is_the_ordinary_forward(packable, family):
    loaded = with_biases(packable(family))
    tokens = list(range(100, 120))
    logits, cache = after_prompt(loaded, packed(loaded), tokens)
    expected, ordinary = read(loaded, PROMPT + tokens)
    assert (logits - expected[len(PROMPT) :]).abs().max() < 1e-4
    given_back = cache.ordinary()
    assert given_back.get_seq_length() == len(PROMPT) + len(tokens)
    for ours, theirs in zip(given_back.layers, ordinary.layers, strict=True):
        assert torch.allclose(ours.keys, theirs.keys, atol=1e-4)
        assert torch.allclose(ours.values, theirs.values, atol=1e-4)


@needs_int8
@pytest.mark.parametrize("family", FAMILIES)
def test_eight_bits_move_the_logits_by_a_few_per_cent(packable, family):
    loaded = with_biases(packable(family))
    tokens = list(range(100, 120))
    expected = read(loaded, PROMPT + tokens)[0][len(PROMPT) :]
    logits = after_prompt(loaded, packed(loaded, int8_product), tokens)[0]
    error = float((logits - expected).norm() / expected.norm())
    assert 0 < error < 0.05


def test_a_cache_grows_without_losing_what_it_holds(packable):
    loaded = packable()
    tokens = [50 + i % 200 for i in range(ROOM + 10)]
    logits, cache = after_prompt(loaded, packed(loaded), tokens)
    assert cache.length == len(PROMPT) + len(tokens) <= cache.capacity
    expected = read(loaded, PROMPT + tokens)[0][-1]
    assert (logits[-1] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(max_new_tokens=12, seed=3)])
def test_the_decoder_says_the_same_and_stops_at_the_same_place(packable, sampling):
    loaded = packable()
    model = Int8Steps(packed(loaded))

    def said(quick):
        decoder = Decoder(loaded, PROMPT, sampling)
        while not decoder.done:
            decoder.push(decoder.sample(decoder.logits(quick)))
        return decoder.said, decoder.finished

    ordinary, fast = said(None), said(model)
    assert fast == ordinary
    stop = ordinary[0][0][5]  # a token that it says is made the end token
    loaded.model.generation_config.eos_token_id = stop
    assert said(model) == said(None)
    assert said(model)[1] == [True]


def test_a_kept_cache_serves_either_way_and_steps_may_take_turns(packable):
    loaded = packable()
    model = Int8Steps(packed(loaded))
    ordinary, fast = (Decoder(loaded, PROMPT, GREEDY) for _ in range(2))
    for turn in range(9):
        serving = model if turn % 3 else None
        assert torch.allclose(fast.logits(serving), ordinary.logits(), atol=1e-4)
        token = ordinary.sample(ordinary.logits())
        ordinary.push(token)
        fast.push(token)
    assert fast.said == ordinary.said
    kept = fast.kept()
    assert isinstance(kept.cache, DynamicCache)
    assert kept.cache.get_seq_length() == len(kept.ids[0])
    again = Decoder(loaded, [*kept.ids[0], 77, 78], GREEDY, cache=kept)
    expected = read(loaded, [*kept.ids[0], 77, 78])[0][-1:]
    assert torch.allclose(again.logits(model), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["mistral", "qwen3", "gemma2", "gpt2"])
def test_other_architectures_are_refused_with_a_reason(packable, family):
    assert why_not(packable(family))


def test_a_processor_without_eight_bit_products_is_refused(tiny_loaded, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert "8-bit" in why_not(tiny_loaded("llama"))
