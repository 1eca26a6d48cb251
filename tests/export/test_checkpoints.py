"""Merged checkpoints: transformers loads them, they say what the adapted model says."""

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from t2local.errors import DiskFull, T2LocalError
from t2local.export.checkpoints import export_lora, export_merged, new_folder, rank_for
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from tests.experts.support import small_expert
from tests.svf.support import composed, logits, relative

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


# --- As a LoRA adapter.

FAMILIES = ("llama", "gpt2", "phi3")


def delta_w(folder):
    """Matrix name -> `B A` of an adapter on disk."""
    tensors = load_file(folder / "adapter_model.safetensors")
    names = {key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in tensors}
    return {
        name: tensors[f"base_model.model.{name}.lora_B.weight"]
        @ tensors[f"base_model.model.{name}.lora_A.weight"]
        for name in names
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_rank_peft_gives_the_logits_of_the_expert(adapted, tiny, tmp_path, family):
    loaded, svf, expert, wanted = adapted(family)
    export = export_lora(loaded, svf, expert, tmp_path / "lora", rank=None)
    served = PeftModel.from_pretrained(tiny(family), tmp_path / "lora").eval()
    assert export.error_of_delta_w < 1e-6
    assert relative(logits(served), wanted) <= export.logits.relative + 1e-4
    assert relative(wanted, logits(tiny(family))) > 1e-2, "the expert changes something"


def test_the_reported_errors_are_those_of_the_file_and_fall_as_rank_rises(adapted, tiny, tmp_path):
    loaded, svf, expert, wanted = adapted()
    base = logits(tiny("llama"))
    exact = {
        name: composed(layer.weight, expert.z[name]) - layer.weight.double()
        for name, layer in svf.base_layers.items()
    }
    errors = []
    for rank in (1, 4, 16, 48, 64):
        folder = tmp_path / f"rank-{rank}"
        export = export_lora(loaded, svf, expert, folder, rank=rank)
        found = delta_w(folder)
        lost = sum(float((found[n] - exact[n]).square().sum()) for n in exact)
        total = sum(float(matrix.square().sum()) for matrix in exact.values())
        assert export.error_of_delta_w == pytest.approx((lost / total) ** 0.5, abs=1e-4)
        served = logits(PeftModel.from_pretrained(tiny("llama"), folder).eval())
        of_change = float((served - wanted).norm() / (wanted - base).norm())
        errors.append((export.error_of_delta_w, export.logits.of_change, of_change))
    delta_errors, logit_errors, served_errors = zip(*errors, strict=True)
    assert list(delta_errors) == sorted(delta_errors, reverse=True)
    assert logit_errors[0] > logit_errors[-1]
    assert served_errors[0] > 0.3 > 1e-3 > served_errors[-1]


def test_the_kept_rank_is_the_best_one_of_that_size(adapted, tmp_path):
    loaded, svf, expert, _ = adapted()
    export_lora(loaded, svf, expert, tmp_path / "lora", rank=5)
    for name, found in delta_w(tmp_path / "lora").items():
        weight = svf.base_layers[name].weight
        exact = composed(weight, expert.z[name]) - weight.double()
        best = torch.linalg.svdvals(exact)[5:].norm()
        assert float((found - exact).norm()) == pytest.approx(float(best), rel=1e-3)


def test_energy_chooses_the_smallest_rank_that_is_enough(adapted, tmp_path):
    loaded, svf, expert, _ = adapted()
    export = export_lora(loaded, svf, expert, tmp_path / "a", energy=0.8)
    assert export.energy_kept >= 0.8
    less = export_lora(loaded, svf, expert, tmp_path / "b", rank=export.rank - 1)
    assert less.energy_kept < 0.8
    changes = {"a": torch.tensor([1.0, 6.0]), "b": torch.tensor([1.0, 0.0, 2.0])}
    assert [rank_for(changes, e) for e in (0.1, 0.8, 0.81, 1.0)] == [1, 1, 2, 2]


def test_only_what_the_expert_changes_is_written(adapted, tmp_path):
    loaded, svf, expert, _ = adapted()
    name = svf.matrix_names[3]
    other = torch.ones_like(expert.z[svf.matrix_names[0]])
    small = replace(expert, z={name: expert.z[name], svf.matrix_names[0]: other})
    export_lora(loaded, svf, small, tmp_path / "lora")
    assert set(delta_w(tmp_path / "lora")) == {name}
    with pytest.raises(T2LocalError, match="changes nothing"):
        export_lora(loaded, svf, replace(expert, z={name: other}), tmp_path / "none")


def test_impossible_sizes_and_existing_folders_are_refused(adapted, tmp_path):
    loaded, svf, expert, _ = adapted()
    for size, word in (({"rank": 0}, "1 or more"), ({"energy": 1.5}, "at most 1")):
        with pytest.raises(T2LocalError, match=word):
            export_lora(loaded, svf, expert, tmp_path / "lora", **size)
    with pytest.raises(T2LocalError, match="there already"):
        export_lora(loaded, svf, expert, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_int8_basis_exports_what_it_computes(tiny_loaded, tiny, tmp_path):
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model, basis_dtype="int8")
    expert = small_expert(svf)
    with svf.using(expert.z):
        wanted = logits(loaded.model)
    export_lora(loaded, svf, expert, tmp_path / "lora", rank=None)
    served = PeftModel.from_pretrained(tiny("llama"), tmp_path / "lora").eval()
    assert relative(logits(served), wanted) <= 1e-4


def test_a_4_bit_base_takes_the_adapter_of_its_own_weights(tiny_folder, tmp_path):
    folder = str(tiny_folder("llama"))
    loaded = drain(load_model(folder, "nf4"))
    svf = attach(loaded.model)
    expert = small_expert(svf)
    with svf.using(expert.z):
        wanted = logits(loaded.model)
    export_lora(loaded, svf, expert, tmp_path / "lora", rank=None)
    again = drain(load_model(folder, "nf4")).model
    served = PeftModel.from_pretrained(again, tmp_path / "lora").eval()
    assert relative(logits(served), wanted) <= 1e-4


# --- The folder that is written.


def test_a_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "out"
    with new_folder(target, 10) as temporary:
        (temporary / "a").write_text("a")
        assert not target.exists()
    assert [file.name for file in target.iterdir()] == ["a"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_nothing_stays_of_a_block_that_fails(tmp_path):
    def write_half():
        with new_folder(tmp_path / "out", 10) as temporary:
            (temporary / "a").write_text("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_and_untouched(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(T2LocalError, match="there already"), new_folder(tmp_path, 10):
        pytest.fail("the block ran")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_target_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "out"

    def write_beside_another():
        with new_folder(target, 10):
            target.mkdir()
            (target / "mine").write_text("mine")

    with pytest.raises(T2LocalError, match="there already"):
        write_beside_another()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(DiskFull, match="free some space"), new_folder(tmp_path / "out", 2**60):
        pytest.fail("the block ran")
    assert list(tmp_path.iterdir()) == []
