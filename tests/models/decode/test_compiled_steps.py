"""Compiled steps give the logits of the model's own forward, for any rows under any z."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from transformers import DynamicCache

from t2local.adapt.applier import CompiledVariant, adapting
from t2local.models.decode.compiled_steps import (
    RowCache,
    compiled_problem,
    rounding_problem,
    rounding_steps,
)
from t2local.models.decode.generate import Decoder, Sampling, generate_batch
from t2local.models.groups.codes import rounded
from t2local.models.groups.linear import GroupedEmbedding, GroupedLinear, rounds_in_pairs
from t2local.models.load.loader import describe
from t2local.progress import drain
from tests.conftest import build_tiny, byte_tokenizer

PROMPTS = ([5, 80, 81, 82, 9], [7, 12, 30], [40, 41, 42, 43, 44, 45, 46])
GREEDY = Sampling(0.0, repetition_penalty=1.0, max_new_tokens=6)


def grouped(family, **changes):
    """A tiny model with its weights in groups, its bases and its compiled steps."""
    model = build_tiny(family, **changes) if changes else build_tiny(family)
    for name, module in list(model.named_modules()):
        new = None
        if isinstance(module, torch.nn.Linear):
            new = GroupedLinear(rounded(module.weight), module.bias)
        elif isinstance(module, torch.nn.Embedding):
            new = GroupedEmbedding(rounded(module.weight))
        if new is not None:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, new)
    loaded = describe(model, byte_tokenizer(), f"tiny-{family}", "gguf")
    return drain(adapting(loaded, "all", "int8"))


def random_z(svf, seed, rows=None):
    generator = torch.Generator().manual_seed(seed)
    shape = () if rows is None else (rows,)
    return {
        name: 1 + 0.3 * torch.randn(*shape, r, generator=generator) for name, r in svf.ranks.items()
    }


def distance(found, meant):
    return float((found - meant).norm() / meant.norm())


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("adapted", [False, True])
@torch.no_grad()
def test_a_row_s_steps_are_those_of_the_forward(family, adapted):
    loaded, svf = grouped(family)
    assert loaded.steps is not None
    z = random_z(svf, 0) if adapted else {}
    with svf.using(z):
        cache = DynamicCache()
        loaded.model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
        row = RowCache.of(cache)
        for token in (3, 90, 17, 17, 60):
            meant = loaded.model(torch.tensor([[token]]), past_key_values=cache).logits[:, -1]
            found = loaded.steps.step([row], torch.tensor([token]), loaded.steps.deltas)
            assert distance(found, meant) < 1e-5
        again = loaded.model(torch.tensor([[8]]), past_key_values=row.ordinary()).logits[:, -1]
        meant = loaded.model(torch.tensor([[8]]), past_key_values=cache).logits[:, -1]
        assert distance(again, meant) < 1e-5


@pytest.mark.parametrize("adapted", [False, True])
@torch.no_grad()
def test_tokens_read_together_are_those_read_one_by_one(adapted):
    loaded, svf = grouped("qwen2")
    deltas = svf.deltas(random_z(svf, 3)) if adapted else {}
    cache = DynamicCache()
    loaded.model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
    one, other = RowCache.of(cache), RowCache.of(cache)
    tokens = torch.tensor([3, 90, 17, 17, 60, 8, 9, 10, 11])
    meant = torch.cat([loaded.steps.step([one], token[None], deltas) for token in tokens])
    found = loaded.steps.several(other, tokens, deltas)
    assert distance(found, meant) < 1e-5
    assert other.length == one.length - len(tokens) + 1
    for _ in tokens[1:4]:  # three of the guessed ones come true
        other.take_in()
    again = loaded.steps.step([other], torch.tensor([50]), deltas)
    alone = RowCache(
        [k[:, : other.length - 1] for k in one.keys], [v[:, : other.length - 1] for v in one.values]
    )
    assert distance(again, loaded.steps.step([alone], torch.tensor([50]), deltas)) < 1e-5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_that_repeats_itself_is_the_same_in_fewer_steps(temperature):
    loaded, svf = grouped("qwen2")
    sampling = Sampling(temperature, repetition_penalty=0.3, max_new_tokens=60, seed=5)
    prompt = PROMPTS[2] * 3

    def said(quick):
        decoder = Decoder(loaded, prompt, sampling)
        while not decoder.done:
            decoder.push(decoder.sample(decoder.logits(quick)))
        return decoder.said

    deltas, steps = svf.deltas(random_z(svf, 4)), Counter()
    with svf.using(random_z(svf, 4)):
        meant = said(None)

        class Counting(CompiledVariant):
            def step(self, cache, tokens):
                steps["alone"] += 1
                return super().step(cache, tokens)

            def several(self, cache, tokens):
                steps["together"] += 1
                return super().several(cache, tokens)

        assert said(Counting(loaded.steps, deltas)) == meant
    n_quick = len(meant[0]) - 1
    assert steps["together"] > 0
    if temperature == 0:  # what is said already is likelier under this penalty: it loops
        assert steps["alone"] + steps["together"] < 0.9 * n_quick


@pytest.mark.parametrize("by_the_forward", range(3, 9))
def test_what_was_read_ahead_goes_where_the_forward_serves_in_between(by_the_forward):
    loaded, _svf = grouped("qwen2")
    quick = CompiledVariant(loaded.steps, {})
    sampling = Sampling(0.0, repetition_penalty=1.0, max_new_tokens=40)
    forced = [7] * 10
    decoder = Decoder(loaded, [5, *forced, 6], sampling)
    for place, token in enumerate(forced):  # from the fifth on they are guessed
        found = decoder.logits(None if place == by_the_forward else quick)
        with torch.no_grad():
            meant = loaded.model(torch.tensor([[5, *forced, 6, *forced[:place]]])).logits[:, -1]
        assert distance(found, meant) < 1e-5
        decoder.push(torch.tensor([token]))


@pytest.mark.skipif(not rounds_in_pairs(), reason="this processor has no AVX-512 BF16")
def test_folding_a_z_that_is_trained_keeps_no_graph():
    loaded, svf = grouped("llama")
    z = {name: row.requires_grad_() for name, row in svf.identity().items()}
    with svf.using(z):
        folded = loaded.steps.folded(loaded.steps.deltas)
    assert not any(weight.requires_grad for weight in folded._folded_weights)


@torch.no_grad()
def test_a_head_s_bias_counts():
    loaded, _ = grouped("llama")
    caches = []
    for _ in range(2):
        cache = DynamicCache()
        loaded.model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
        caches.append(RowCache.of(cache))
    before = loaded.steps.step(caches[:1], torch.tensor([3]), {})
    head = loaded.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.randn(head.out_features), requires_grad=False)
    assert torch.equal(loaded.steps.step(caches[1:], torch.tensor([3]), {}), before + head.bias)


@torch.no_grad()
def test_rows_of_any_length_under_their_own_z_are_those_alone():
    loaded, svf = grouped("qwen2")
    z = random_z(svf, 1, rows=len(PROMPTS))
    rows, alone, tokens = [], [], torch.tensor([3, 90, 17])
    for place, prompt in enumerate(PROMPTS):
        own = {name: row[place] for name, row in z.items()}
        with svf.using(own):
            cache = DynamicCache()
            loaded.model(torch.tensor([prompt]), past_key_values=cache)
            rows.append(RowCache.of(cache))
            alone.append(
                loaded.model(tokens[place].view(1, 1), past_key_values=cache).logits[0, -1]
            )
    found = loaded.steps.step(rows, tokens, svf.deltas(z))
    assert distance(found, torch.stack(alone)) < 1e-5


@pytest.mark.skipif(not rounds_in_pairs(), reason="this processor has no AVX-512 BF16")
@pytest.mark.parametrize("rows", [1, 3, 4, 16, 37])
@torch.no_grad()
def test_steps_with_a_z_in_the_weights_are_those_beside_it_up_to_bfloat16(rows):
    loaded, svf = grouped("qwen2")
    z = random_z(svf, 2)
    with svf.using(z):
        folded = loaded.steps.folded(loaded.steps.deltas)
        cache = DynamicCache()
        loaded.model(torch.tensor([PROMPTS[0]] * rows), past_key_values=cache)
    one, two = ([RowCache.of(cache, i) for i in range(rows)] for _ in range(2))
    generator = torch.Generator().manual_seed(rows)
    for _ in range(3):
        tokens = torch.randint(0, 100, (rows,), generator=generator)
        meant = loaded.steps.step(one, tokens, svf.deltas(z))
        assert 1e-5 < distance(folded.step(two, tokens, folded.deltas), meant) < 0.02
    base = loaded.steps.step(one, tokens, {})  # the steps it was made of are what they were
    assert distance(base, meant) > 0.05


def test_one_row_of_z_is_the_base_model_bit_for_bit():
    loaded, svf = grouped("llama")
    z = random_z(svf, 2, rows=2)
    ones = {name: torch.stack([row[0], torch.ones_like(row[0])]) for name, row in z.items()}
    with torch.no_grad():
        cache = DynamicCache()
        loaded.model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
    base = loaded.steps.step([RowCache.of(cache)], torch.tensor([3]), MappingProxyType({}))
    pair = [RowCache.of(cache), RowCache.of(cache)]
    both = loaded.steps.step(pair, torch.tensor([3, 3]), svf.deltas(ones))
    assert torch.equal(both[1], base[0])
    assert not torch.equal(both[0], base[0])


@pytest.mark.parametrize("adapted", [False, True])
def test_a_batch_says_what_it_says_without_them(adapted):
    from dataclasses import replace

    loaded, svf = grouped("qwen2")
    z = random_z(svf, 3) if adapted else {}

    def said(which):
        return generate_batch(which, PROMPTS, GREEDY, around=lambda: svf.using(z))

    assert said(loaded) == said(replace(loaded, steps=None))


def test_a_decoder_says_what_the_forward_says_and_gives_its_cache_back():
    from t2local.adapt.applier import Applier
    from t2local.svf import Mixture

    loaded, svf = grouped("qwen2")
    applier = Applier(svf, {"one": random_z(svf, 4)}, compiled=loaded.steps)
    for mixture in (Mixture(), Mixture({"one": 1.0})):
        quick, plain = Decoder(loaded, PROMPTS[0], GREEDY), Decoder(loaded, PROMPTS[0], GREEDY)
        for decoder, way in ((quick, applier.quick(mixture, True)), (plain, None)):
            while not decoder.done:
                with applier.using(mixture):
                    decoder.push(decoder.sample(decoder.logits(way)))
        assert quick.said == plain.said
        assert quick.n_quick == quick.n_tokens - 1
        kept, other = quick.kept(), plain.kept()
        assert kept.ids == other.ids
        pairs = zip(kept.cache.layers, other.cache.layers, strict=True)
        assert all(torch.allclose(a.keys, b.keys, atol=1e-4) for a, b in pairs)


def test_matrices_that_are_not_adapted_have_no_branch():
    loaded, _ = grouped("llama")
    assert compiled_problem(loaded.model) == ""
    model = build_tiny("llama")
    assert "GGUF" in compiled_problem(model)


def test_threads_that_step_at_once_each_get_their_own_rows():
    """To the bit, also adapted: what a seed gave once it gives again."""
    loaded, svf = grouped("llama")
    z = random_z(svf, 6)
    with torch.no_grad(), svf.using(z):
        cache = DynamicCache()
        loaded.model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
    tokens, deltas = [3, 90, 17, 60], svf.deltas(z)

    def logits(token):
        return loaded.steps.step([RowCache.of(cache)], torch.tensor([token]), deltas)

    meant = [logits(token) for token in tokens]
    with ThreadPoolExecutor(len(tokens)) as pool:
        for _ in range(20):
            for found, wanted in zip(pool.map(logits, tokens), meant, strict=True):
                assert torch.equal(found, wanted)


def test_another_number_of_threads_says_the_same():
    loaded, svf = grouped("qwen2")
    z, before = random_z(svf, 5), torch.get_num_threads()
    with torch.no_grad(), svf.using(z):
        cache = DynamicCache()
        loaded.model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
    found = []
    try:
        for threads in (1, 2, 3, before):
            torch.set_num_threads(threads)
            row = RowCache.of(cache)
            found.append(loaded.steps.step([row], torch.tensor([3]), svf.deltas(z)))
    finally:
        torch.set_num_threads(before)
    assert all(distance(other, found[0]) < 1e-6 for other in found[1:])


# --- From a float model.


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@torch.no_grad()
def test_rounding_floats_to_8_bits_moves_the_logits_little(family, tiny_loaded):
    loaded = tiny_loaded(family)
    assert rounding_problem(loaded) == ""
    steps, cache = drain(rounding_steps(loaded, {}, {})), DynamicCache()
    loaded.model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
    row = RowCache.of(cache)
    for token in (3, 90, 17):
        meant = loaded.model(torch.tensor([[token]]), past_key_values=cache).logits[:, -1]
        found = steps.step([row], torch.tensor([token]), {})
        assert 1e-5 < distance(found, meant) < 0.03
    assert steps.held_bytes > sum(
        p.numel() for n, p in loaded.model.named_parameters() if p.dim() == 2 and "embed" not in n
    )


@pytest.mark.parametrize("family", ["mistral", "qwen3", "gemma2", "gpt2"])
def test_floats_of_other_architectures_are_not_rounded_and_why(family, tiny_loaded):
    assert rounding_problem(tiny_loaded(family))


def test_only_float32_on_a_cpu_is_rounded(tiny_loaded):
    loaded = tiny_loaded()
    assert "only float32" in rounding_problem(replace(loaded, dtype="bfloat16"))
    assert "only float32" in rounding_problem(replace(loaded, quantization="nf4"))
