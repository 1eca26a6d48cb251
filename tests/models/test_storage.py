"""The lists of how weights and bases may be held agree with the libraries that hold them."""

import subprocess
import sys

import pytest
import torch
from transformers import PreTrainedConfig

from t2local.models.load.load_errors import stored_quantization
from t2local.models.load.quantized import quantization_config
from t2local.models.storage import AUTO, BASES, QUANTIZATIONS, leanest
from t2local.svf.basis import DTYPES, decompose, rounded


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_checkpoint_says_in_which_of_them_it_is_stored(kind):
    settings = quantization_config(kind, torch.float32)
    config = PreTrainedConfig()
    if settings is None:
        assert stored_quantization(config, "a model", AUTO) is None
        return
    config.quantization_config = settings.to_dict()
    assert stored_quantization(config, "a model", AUTO) == kind
    config.quantization_config = settings
    assert stored_quantization(config, "a model", kind) == kind


def test_a_rounded_number_takes_about_its_bits():
    for kind in QUANTIZATIONS.values():
        assert bool(kind.bits or kind.of_gguf) == bool(kind.matrix_bytes)
        if kind.matrix_bytes:
            bits = kind.bits or 8  # at most, of a file's own
            assert 8 * kind.matrix_bytes(1000, 1000) / 1000**2 == pytest.approx(bits, rel=0.1)


def test_memory_is_saved_by_the_fewest_bits():
    assert leanest().bits == min(kind.bits for kind in QUANTIZATIONS.values() if kind.bits)


def test_a_basis_takes_what_the_list_says():
    assert list(BASES) == list(DTYPES)
    exact = decompose(torch.randn(64, 96))
    for name, held in BASES.items():
        basis = rounded(exact, DTYPES[name])
        tensors = (basis.vectors, basis.sigma, basis.scale)
        bytes_taken = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        assert bytes_taken == held.matrix_bytes(64)


def test_the_lists_cost_a_start_nothing():
    """`--help` shows them before PyTorch is imported."""
    code = "import sys, t2local.ui.launch as page; page.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
