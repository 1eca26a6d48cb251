"""A two-layer model with a small expert, and what the model says under it."""

import pytest
import torch

from t2local.svf import attach
from tests.experts.support import small_expert
from tests.svf.support import logits


@pytest.fixture
def adapted(tiny_loaded):
    """`adapted(family)`: loaded model, its SVF, an expert, and the logits under the expert."""

    def build(family: str = "llama"):
        loaded = tiny_loaded(family)
        svf = attach(loaded.model)
        expert = small_expert(svf)
        with svf.using(expert.z), torch.no_grad():
            return loaded, svf, expert, logits(loaded.model)

    return build
