"""What is estimated from a configuration is what a loaded model is measured to take."""

import gc

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from t2local.models.fit.anatomy import anatomy, anatomy_of, config_of
from t2local.models.fit.estimate import (
    GB,
    TRAINING_ROWS,
    TRAINING_TOKENS,
    Plan,
    bases_bytes,
    cache_bytes,
    estimate,
    training_bytes,
    weights_bytes,
)
from t2local.models.load import quantized
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from t2local.svf.targets import find_targets, is_attention
from tests.conftest import FAMILIES

WITHIN = 0.05
LLAMA_3_8B = "meta-llama/Meta-Llama-3-8B-Instruct"


def near(estimated: int, measured: int) -> bool:
    return abs(estimated - measured) <= WITHIN * measured


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.mark.parametrize("kind", ["none", "nf4", "int8"])
def test_weights_are_what_a_loaded_model_takes(tiny_folder, family, kind):
    folder = str(tiny_folder(family))
    loaded = drain(load_model(folder, kind))
    assert weights_bytes(anatomy_of(folder), kind, loaded.dtype) == loaded.resident_bytes


def test_float_weights_are_counted_to_the_byte(tiny, family):
    model = tiny(family)
    parts = anatomy(model.config)
    assert weights_bytes(parts, "none", "float32") == quantized.resident_bytes(model)
    buffers = parts.buffer_bytes  # stay float32
    measured = quantized.resident_bytes(tiny(family).bfloat16()) - buffers // 2
    assert weights_bytes(parts, "none", "bfloat16") == pytest.approx(measured, abs=buffers)


@pytest.mark.parametrize("targets", ["all", "mlp", "attention"])
@pytest.mark.parametrize("basis", ["fp32", "bf16", "int8"])
def test_bases_are_counted_to_the_byte(tiny, family, basis, targets):
    model = tiny(family)
    parts = anatomy(model.config)
    assert bases_bytes(parts, basis, targets) == attach(model, targets, basis).basis_bytes


def test_the_adapted_matrices_are_those_that_get_a_basis(tiny, family):
    model = tiny(family)
    adapted = anatomy(model.config).adapted()
    assert [m.name for m in adapted] == list(find_targets(model))
    assert [m.attention for m in adapted] == [is_attention(m.name) for m in adapted]


@torch.no_grad()
def test_the_cache_of_a_context_is_counted_to_the_byte(tiny, family):
    model, cache, tokens = tiny(family), DynamicCache(), 24
    model(input_ids=torch.ones(1, tokens, dtype=torch.long), past_key_values=cache)
    held = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert cache_bytes(anatomy(model.config), tokens, "float32") == held


def test_nf4_statistics_are_counted_to_the_byte():
    """Sizes off the blocks' borders: a matrix may end in the middle of one."""
    from bitsandbytes.nn import Linear4bit

    from t2local.models.storage import nf4_bytes

    for m, n in ((64, 64), (100, 37), (320, 200), (1, 3)):
        layer = Linear4bit(n, m, bias=False, compress_statistics=True, quant_type="nf4").to("cpu")
        layer.weight = layer.weight.to("cpu")
        assert nf4_bytes(m, n) == quantized.resident_bytes(layer)


def test_llama_3_8b_in_4_bits_is_what_the_design_says():
    parts = anatomy_of(LLAMA_3_8B)
    whole = estimate(parts, Plan("nf4", "int8", "all"))
    print(f"{whole.weights_bytes / GB:.2f} + {whole.bases_bytes / GB:.2f} GB")
    assert whole.weights_bytes / GB == pytest.approx(5.7, rel=WITHIN)
    assert whole.bases_bytes / GB == pytest.approx(2.8, rel=WITHIN)
    assert whole.resident_bytes / GB < 9.0
    assert whole.verdict(12 * GB) == "fits"
    assert whole.training_total_bytes < 12 * GB


def test_llama_3_70b_in_4_bits_needs_more_than_two_24_gb_cards_and_fits_four():
    whole = estimate(anatomy_of("meta-llama/Meta-Llama-3-70B-Instruct"), Plan("nf4", "int8"))
    assert whole.verdict(48 * GB) == "does not fit"
    assert whole.verdict(96 * GB) == "fits"


def test_a_longer_context_takes_more_and_never_more_than_the_model_reads():
    parts = anatomy_of(LLAMA_3_8B)
    short, long = (estimate(parts, Plan(), n) for n in (1024, 4096))
    assert long.cache_bytes == 4 * short.cache_bytes
    assert estimate(parts, Plan(), 10**6).context == parts.context_length == 8192


def test_checkpointing_takes_less_than_keeping_every_block():
    parts, plan = anatomy_of(LLAMA_3_8B), Plan("nf4")
    sizes = (parts, plan, TRAINING_ROWS, TRAINING_TOKENS)
    assert training_bytes(*sizes, checkpointing=True) < training_bytes(*sizes, checkpointing=False)


def test_memory_is_full_tight_or_enough():
    found = estimate(anatomy_of(LLAMA_3_8B), Plan("nf4"))
    assert found.verdict(found.total_bytes - 1) == "does not fit"
    assert found.verdict(found.total_bytes) == "tight"
    assert found.verdict(2 * found.total_bytes) == "fits"


@pytest.mark.model
@pytest.mark.parametrize(("kind", "basis"), [("none", "fp32"), ("nf4", "int8")])
def test_the_embedded_model_takes_what_its_catalogue_entry_says(embedded_folder, kind, basis):
    loaded = drain(load_model(str(embedded_folder), kind))
    found = estimate(anatomy_of("embedded"), Plan(kind, basis, "mlp", "float32", "cpu"))
    assert near(found.weights_bytes, loaded.resident_bytes)
    del loaded
    gc.collect()


@pytest.mark.model
def test_the_embedded_models_bases_take_what_is_said(embedded):
    svf = attach(embedded.model, "layers.0.", "int8")
    try:
        parts = anatomy_of("embedded")
        layer = [m for m in parts.adapted() if ".layers.0." in m.name]
        assert svf.basis_bytes == sum(m.rank * (m.rank + 8) for m in layer)
        assert svf.basis_bytes * parts.layers == bases_bytes(parts, "int8", "all")
    finally:
        svf.detach()


@pytest.mark.model
def test_the_embedded_models_own_configuration_has_the_catalogues_sizes(embedded_folder):
    assert anatomy(config_of(str(embedded_folder))) == anatomy_of("embedded")


def test_an_untied_and_a_tied_head_are_counted(tiny):
    config = tiny("llama").config
    config.tie_word_embeddings = True
    with torch.device("meta"):
        tied = AutoModelForCausalLM.from_config(config).num_parameters()
    assert anatomy(config).parameters == tied
