"""Merged checkpoints: transformers loads them, they say what the adapted model says."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from t2local.errors import T2LocalError
from t2local.export.merged import export_merged
from tests.svf.support import logits, relative

ROUNDING = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gemma2"])
def test_a_merged_model_is_the_adapted_one(adapted, tiny, tmp_path, family):
    loaded, svf, expert, wanted = adapted(family)
    export_merged(loaded, svf, expert, tmp_path / "merged", "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert merged.dtype == torch.float32
    assert relative(logits(merged), wanted) <= ROUNDING["float32"]
    assert relative(wanted, logits(tiny(family))) > 1e-2, "the expert changes something"


@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_logits_agree_within_the_rounding_of_the_dtype(adapted, tmp_path, dtype):
    loaded, svf, expert, wanted = adapted()
    export = export_merged(loaded, svf, expert, tmp_path / "merged", dtype)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert str(merged.dtype) == f"torch.{dtype}"
    assert relative(logits(merged).float(), wanted) <= ROUNDING[dtype]
    assert export.size_bytes > loaded.resident_bytes * (0.9 if dtype == "float32" else 0.45)


def test_template_tokenizer_and_generation_config_travel_along(adapted, tmp_path):
    loaded, svf, expert, _ = adapted()
    loaded.model.generation_config = GenerationConfig(eos_token_id=[2, 3], top_k=17)
    export_merged(loaded, svf, expert, tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == loaded.tokenizer.chat_template
    assert tokenizer.encode("hello") == loaded.tokenizer.encode("hello")
    config = GenerationConfig.from_pretrained(tmp_path / "merged")
    assert (config.eos_token_id, config.top_k) == ([2, 3], 17)


def test_the_live_model_is_left_as_it_was(adapted, tmp_path):
    loaded, svf, expert, wanted = adapted()
    before = loaded.model.config.to_dict()
    export_merged(loaded, svf, expert, tmp_path / "merged", "bfloat16")
    assert loaded.model.config.to_dict() == before
    with svf.using(expert.z):
        assert torch.equal(logits(loaded.model), wanted)


def test_a_quantised_base_is_refused_with_the_way_out(adapted, tmp_path):
    loaded, svf, expert, _ = adapted()
    with pytest.raises(T2LocalError, match="--to lora"):
        export_merged(replace(loaded, quantization="nf4"), svf, expert, tmp_path / "merged")
    with pytest.raises(T2LocalError, match="dtype"):
        export_merged(loaded, svf, expert, tmp_path / "merged", "int3")
    with pytest.raises(T2LocalError, match="there already"):
        export_merged(loaded, svf, expert, tmp_path)
    assert list(tmp_path.iterdir()) == []
