"""Gradients of z through rebuilt matrices, against those of the branch."""

import pytest
import torch

from t2local.svf import attach
from tests.svf.support import IDS, random_z, relative


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_gradients_through_rebuilt_matrices_equal_those_of_the_branch(tiny, family):
    """Also at z = 1, and with biases (Qwen2, GPT-2) on either side."""
    svf = attach(tiny(family))
    for start in (svf.identity(), random_z(svf, seed=3)):
        gradients = []
        for rebuilt in (False, True):
            z = {n: row.clone().requires_grad_() for n, row in start.items()}
            held = svf.using_rebuilt(svf.rebuild(z), z) if rebuilt else svf.using(z)
            with held:
                loss = svf.model(IDS).logits.float().log_softmax(-1)[..., 7].sum()
                loss.backward()
            gradients.append(torch.cat([row.grad for row in z.values()]))
        assert relative(*gradients) < 1e-4
