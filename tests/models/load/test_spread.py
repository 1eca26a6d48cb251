"""A model on one device where it fits; else spread, and still the same model, adapted too."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from transformers import LlamaConfig

from t2local.models.decode.generate import generate_batch
from t2local.models.decode.sampling import Sampling
from t2local.models.fit.estimate import GB
from t2local.models.load import devices
from t2local.models.load.devices import Placement, place
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from t2local.svf.layer import weight_as_used
from tests.conftest import build_tiny
from tests.svf.support import IDS, logits, random_z

LLAMA_3_70B = LlamaConfig(
    vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80,
    num_attention_heads=64, num_key_value_heads=8, max_position_embeddings=8192,
)  # fmt: skip
LLAMA_3_8B = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
    num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
)  # fmt: skip
BF16 = torch.bfloat16


@pytest.fixture
def loaded(tiny_folder, monkeypatch):
    """`loaded(family, device_map)`: a tiny model loaded from disk with its layers put there."""

    def load(family: str, device_map: dict[str, str]):
        placement = Placement(device_map, {"cpu": 0})
        monkeypatch.setattr(devices, "place", lambda *_: placement)
        return drain(load_model(str(tiny_folder(family)), "none"))

    return load


BEYOND_MEMORY = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gemma2"])
def test_half_on_disk_it_is_the_same_model_base_and_adapted(loaded, family):
    spread_out, whole = loaded(family, BEYOND_MEMORY), build_tiny(family)
    assert spread_out.spread
    assert "on disk" in spread_out.notes[-1]
    assert spread_out.resident_bytes >= sum(4 * p.numel() for p in whole.parameters())
    base = logits(whole)
    assert torch.equal(logits(spread_out.model), base)
    svf, reference = attach(spread_out.model), attach(whole)
    assert svf.fingerprint() == reference.fingerprint()
    assert next(svf.base_layers["model.layers.1.mlp.down_proj"].parameters()).is_meta
    with svf.using(svf.identity()):
        assert torch.equal(logits(svf.model), base)
    z = random_z(svf)
    with svf.using(z), reference.using(z):
        assert torch.equal(logits(svf.model), logits(reference.model))
    assert torch.equal(logits(svf.detach()), base)


def test_half_on_disk_it_answers_and_learns(loaded):
    spread_out = loaded("qwen2", BEYOND_MEMORY)
    whole = replace(spread_out, model=build_tiny("qwen2").requires_grad_(False))
    prompts, sampling = [[5, 80, 81], [7, 9]], Sampling(temperature=0.0, max_new_tokens=5)
    assert generate_batch(spread_out, prompts, sampling) == generate_batch(whole, prompts, sampling)
    gradients = []
    for model in (spread_out.model, whole.model):
        svf = attach(model)
        z = {name: row.requires_grad_() for name, row in random_z(svf).items()}
        with svf.using(z):
            model(IDS).logits.square().mean().backward()
        gradients.append(torch.cat([row.grad for row in z.values()]))
    assert torch.allclose(*gradients, rtol=1e-5)


def test_automatically_what_memory_does_not_hold_goes_to_disk(tiny_folder, monkeypatch):
    whole = build_tiny("llama")
    weights = sum(4 * p.numel() for p in whole.parameters())
    shares = {"cpu": int(0.7 * weights), "disk": devices.DISK_BYTES}
    monkeypatch.setattr(devices, "free_memory", lambda: {"cpu": 2**20})
    monkeypatch.setattr(devices, "_shares", lambda *_: shares)
    loaded = drain(load_model(str(tiny_folder()), "none"))
    assert {"cpu", "disk"} == set(loaded.model.hf_device_map.values())
    assert loaded.model.device.type == "cpu"  # the embedding: where a prompt's tokens go
    assert torch.equal(logits(loaded.model), logits(whole))


@pytest.mark.parametrize(
    ("config", "kind", "memory", "spreads"),
    [
        (LLAMA_3_8B, "nf4", {0: 12 * GB, "cpu": 16 * GB}, False),
        (LLAMA_3_8B, "none", {0: 12 * GB, "cpu": 16 * GB}, True),
        (LLAMA_3_70B, "nf4", {0: 80 * GB, "cpu": 64 * GB}, False),
        (LLAMA_3_70B, "nf4", {0: 24 * GB, 1: 24 * GB, "cpu": 64 * GB}, True),
        (LLAMA_3_70B, "none", {"cpu": 64 * GB}, True),
        (LLAMA_3_70B, "nf4", {"cpu": 24 * GB}, False),  # bitsandbytes reads nothing from disk
    ],
)
def test_one_device_where_it_fits(monkeypatch, config, kind, memory, spreads):
    monkeypatch.setattr(devices, "choose_device", partial(str, "first"))
    placement = place(config, kind, BF16, memory)
    assert placement.spread == spreads
    if not spreads:
        assert placement.device_map == {"": "first"}


def test_a_70b_model_on_two_cards_leaves_each_room_for_its_bases():
    most = place(LLAMA_3_70B, "nf4", BF16, {0: 24 * GB, 1: 24 * GB, "cpu": 64 * GB}).max_memory
    assert most[0] == most[1]
    assert 0.4 < most[0] / (24 * GB) < 0.6  # weights 41 GB, int8 bases 27 GB, room to decompose
    assert most["cpu"] < 64 * GB / 3  # layers there stay in 16 bits


def test_a_quantised_layer_under_a_hook_tells_its_own_matrix(tiny_folder):
    """accelerate replaces a layer's `forward` on every GPU of several; biases must stay out."""
    model = drain(load_model(str(tiny_folder("qwen2")), "nf4")).model
    layer = model.model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.bias)
    plain = weight_as_used(layer)
    add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu"))
    assert torch.equal(weight_as_used(layer), plain)


@pytest.mark.gpu
@pytest.mark.parametrize("other", ["cpu", "cuda:1"])
@pytest.mark.parametrize("basis", ["fp32", "int8"])
def test_on_two_devices_it_is_the_same_model(loaded, other, basis):
    if torch.cuda.device_count() < (2 if other == "cuda:1" else 1):
        pytest.skip("needs a GPU, and a second one for two")
    first = dict.fromkeys(BEYOND_MEMORY, "cuda:0")
    whole = loaded("qwen2", {"": "cuda:0"})
    spread_out = loaded("qwen2", {**first, "model.layers.1": other})
    base = logits(whole.model, IDS.cuda())
    assert torch.equal(logits(spread_out.model, IDS.cuda()), base)
    svf, reference = (attach(m.model, basis_dtype=basis) for m in (spread_out, whole))
    with svf.using(svf.identity()):
        assert torch.equal(logits(svf.model, IDS.cuda()), base)
    z = random_z(svf)
    with svf.using(z), reference.using(z):
        found, expected = (logits(one.model, IDS.cuda()) for one in (svf, reference))
    assert torch.allclose(found, expected, atol=1e-2)
