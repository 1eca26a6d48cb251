"""An adapter from a folder is the one that was trained."""

import json

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.svf import attach
from t2local.training.lora import LoRAMethod, read_adapter

IDS = torch.tensor([[1, 5, 9, 30]])


@pytest.fixture
def trained(tiny_loaded, tmp_path):
    """A model, and a folder with an adapter whose numbers are random."""
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model)
    method = LoRAMethod(loaded, svf, rank=4, alpha=8, seed=0)
    flat = torch.randn(method.start().shape, generator=torch.Generator().manual_seed(0)) / 10
    method.save(flat, tmp_path)
    with torch.no_grad(), method.holding(flat)():
        logits = loaded.model(IDS).logits
    return loaded, svf, tmp_path, logits


@torch.no_grad()
def test_what_was_saved_is_in_force_again_and_the_model_stays_untouched(trained):
    loaded, svf, folder, logits = trained
    before = loaded.model(IDS).logits
    adapter = read_adapter(loaded, svf, folder)
    with adapter.holding()():
        assert torch.equal(loaded.model(IDS).logits, logits)
    assert torch.equal(loaded.model(IDS).logits, before)
    assert adapter.numbers == adapter.method.start().numel()


def test_what_is_no_plain_adapter_of_this_model_is_refused(trained, tmp_path):
    loaded, svf, folder, _ = trained
    with pytest.raises(T2LocalError, match="holds no LoRA adapter"):
        read_adapter(loaded, svf, tmp_path / "gone")
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "use_dora": True}))
    with pytest.raises(T2LocalError, match="use_dora"):
        read_adapter(loaded, svf, folder)
    config.write_text(json.dumps({**values, "r": 2}))
    with pytest.raises(T2LocalError, match="trained on this model"):
        read_adapter(loaded, svf, folder)
