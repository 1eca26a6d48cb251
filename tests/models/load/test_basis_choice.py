"""An automatic basis is the model's own dtype where there is room, smaller ones where not."""

import pytest

from t2local.models.load import loader
from t2local.models.load.loader import basis_for


@pytest.mark.parametrize(("free", "stored"), [(10**9, "fp32"), (250_000, "bf16"), (1, "int8")])
def test_the_memory_decides_on_the_cpu(tiny_loaded, monkeypatch, free, stored):
    monkeypatch.setattr(loader, "free_bytes", lambda device: free)
    assert basis_for(tiny_loaded()) == stored
    assert basis_for(tiny_loaded(), "bf16") == "bf16", "what is asked for is done"


@pytest.mark.parametrize("targets", ["mlp", r".*up_proj"])
def test_any_targets_will_do(tiny_loaded, targets):
    assert basis_for(tiny_loaded(), targets=targets) == "fp32"


def test_a_vision_model_has_a_choice_too(llava):
    assert basis_for(llava) == "fp32"
