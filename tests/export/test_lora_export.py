"""LoRA exports: PEFT loads them, and they are as near as they say."""

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from t2local.errors import T2LocalError
from t2local.export.lora_export import export_lora, rank_for
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from tests.experts.support import small_expert
from tests.svf.support import composed, logits, relative

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
