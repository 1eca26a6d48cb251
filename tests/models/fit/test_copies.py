"""What copies beside a small model are said to take is what a process is measured to take."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from t2local.models.fit.anatomy import anatomy_of, eight_bit_products
from t2local.models.fit.estimate import Plan, copies_bytes, estimate, packed_bytes, rebuilt_bytes

WITHIN = 0.05
ON_CPU = Plan("none", "fp32", "all", "float32", "cpu")
MEASURE = """
import gc, json
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from t2local.adapt.adapter import Adapter
from t2local.models.anatomy import anatomy
from t2local.models.copies import INT8_COPIES, REBUILT_COPIES, packed_bytes, rebuilt_bytes
from t2local.models.freed import blocks_returned_when_freed
from t2local.models.load import describe
from t2local.models.memory import return_freed_memory
from t2local.models.packed import Packer
from t2local.svf import Mixture, attach
from tests.conftest import byte_tokenizer

def private_bytes():
    gc.collect()
    return_freed_memory()
    line = next(l for l in open("/proc/self/status") if l.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

config = LlamaConfig(
    vocab_size=4000, hidden_size=320, intermediate_size=1500, num_hidden_layers=4,
    num_attention_heads=5, num_key_value_heads=1, max_position_embeddings=2048,
)
loaded = describe(AutoModelForCausalLM.from_config(config), byte_tokenizer(), "big")
svf = attach(loaded.model, "all", "int8")
expert = {name: torch.full((rank,), 1.1) for name, rank in svf.ranks.items()}
adapter = Adapter(svf, {"one": expert}, REBUILT_COPIES, packer=Packer(loaded))
mixtures = [Mixture({"one": a / 10}) for a in range(1, INT8_COPIES + 3)]
parts, found = anatomy(config), []

def measured(make, estimated):
    before, shown = private_bytes(), adapter.copies_bytes
    for mixture in mixtures:
        make(mixture)
    found.append([adapter.copies_bytes - shown, estimated, private_bytes() - before])

def pack(mixture):
    while adapter.pack_on(mixture):
        pass

with blocks_returned_when_freed():
    pack(Mixture())  # threads, libraries' tables
    adapter.settle(Mixture({"one": 2.0}))
    adapter._packed.clear()
    adapter._rebuilt.clear()
    adapter._packer = Packer(loaded)
    measured(pack, packed_bytes(parts))
    measured(adapter.settle, rebuilt_bytes(parts, "all", 4))
print(json.dumps(found))
"""
needs_int8 = pytest.mark.skipif(not eight_bit_products(), reason="no 8-bit products here")


@needs_int8
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and glibc's heap")
def test_copies_take_what_is_said_before_and_afterwards():
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for shown, estimated, measured in json.loads(done.stdout):
        assert abs(shown - measured) <= WITHIN * measured, (shown, estimated, measured)
        assert abs(estimated - measured) <= WITHIN * measured, (shown, estimated, measured)


def test_only_small_float_models_have_copies_and_only_on_a_cpu_packed_ones(monkeypatch):
    monkeypatch.setattr("t2local.models.fit.estimate.eight_bit_products", lambda: True)
    parts = anatomy_of("embedded")
    packed, rebuilt = packed_bytes(parts), rebuilt_bytes(parts, "all", 4)
    assert copies_bytes(parts, ON_CPU) == rebuilt + packed
    assert copies_bytes(parts, replace(ON_CPU, targets="mlp")) < rebuilt + packed
    on_gpu = replace(ON_CPU, device="cuda", dtype="bfloat16")
    assert copies_bytes(parts, on_gpu) == rebuilt // 2
    for kind in ("nf4", "int8"):
        assert copies_bytes(parts, replace(ON_CPU, quantization=kind)) == 0
    assert copies_bytes(anatomy_of("HuggingFaceTB/SmolLM2-1.7B-Instruct"), ON_CPU) == 0
    assert packed_bytes(anatomy_of("Qwen/Qwen3-0.6B")) == 0
    assert packed_bytes(anatomy_of("Qwen/Qwen2.5-0.5B-Instruct")) > packed
    monkeypatch.setattr("t2local.models.fit.estimate.eight_bit_products", lambda: False)
    assert copies_bytes(parts, ON_CPU) == rebuilt


def test_copies_are_part_of_what_stays():
    found = estimate(anatomy_of("embedded"), ON_CPU)
    assert found.copies_bytes > 0
    assert found.resident_bytes == found.weights_bytes + found.bases_bytes + found.copies_bytes
