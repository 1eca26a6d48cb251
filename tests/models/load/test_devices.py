"""What a model gets on a machine that is not as one would hope, and the sentence about it."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from transformers import AutoModelForCausalLM, LlamaConfig

from t2local.models.decode.generate import generate_batch
from t2local.models.decode.sampling import Sampling
from t2local.models.fit.estimate import GB
from t2local.models.load import devices
from t2local.models.load.devices import Placement, place
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from t2local.svf.layer import weight_as_used
from tests.conftest import build_tiny, byte_tokenizer
from tests.models.gguf_files import write_gguf
from tests.svf.support import IDS, logits, random_z


@pytest.fixture
def gpus(monkeypatch):
    """`gpus((7, 5), ...)`: a machine with GPUs of these compute capabilities."""

    def have(*capabilities):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=0: capabilities[i])

    return have


@pytest.mark.parametrize(
    ("capabilities", "model_type", "expected"),
    [
        ([(8, 9)], "llama", torch.bfloat16),
        ([(9, 0), (7, 5)], "llama", torch.float16),
        ([(7, 5)], "gemma2", torch.float32),
        ([(6, 1)], "llama", torch.float32),
        ([], "llama", torch.float32),
    ],
)
def test_the_float_type_is_one_that_every_gpu_computes_in(gpus, capabilities, model_type, expected):
    gpus(*capabilities)
    assert devices.choose_dtype(10**9, model_type) == expected


def test_a_gpu_without_bfloat16_is_told(gpus):
    gpus((7, 5))
    (note,) = devices.notes("nf4", torch.float16)
    assert "compute capability 7.5" in note
    assert "float16" in note
    gpus((8, 0))
    assert devices.notes("nf4", torch.bfloat16) == ()


def test_the_freest_gpu_is_taken(gpus, monkeypatch):
    gpus((8, 0), (8, 0))
    monkeypatch.setattr(devices, "free_on", [5, 7].__getitem__)
    assert devices.choose_device() == "cuda:1"


def test_4_bits_without_a_gpu_run_and_are_told(tiny_folder, caplog):
    loaded = drain(load_model(str(tiny_folder()), "nf4"))
    (note,) = loaded.notes
    assert "4-bit weights run on the CPU" in note
    assert "no CUDA GPU was found" in note
    assert "--quantize none" in note
    assert note in caplog.text
    assert drain(load_model(str(tiny_folder()), "none")).notes == ()


def test_an_old_driver_is_told(monkeypatch):
    def too_old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    (note,) = devices.notes("none", torch.float32)
    assert "driver is too old for PyTorch's CUDA 12.8" in note
    assert "update the driver" in note


def test_a_gpu_that_this_pytorch_cannot_use_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", tmp_path / "version")
    assert devices.gpu_problem() == ""
    (tmp_path / "version").write_text("NVRM version")
    assert "built without CUDA" in devices.gpu_problem()
    (tmp_path / "version").unlink()
    monkeypatch.setattr(devices, "NVIDIA_DRIVER_WINDOWS", tmp_path / "nvcuda.dll")
    assert devices.gpu_problem() == ""
    (tmp_path / "nvcuda.dll").write_bytes(b"MZ")  # PyPI's PyTorch for Windows has no CUDA
    assert "install the CUDA build" in devices.gpu_problem()


# --- A model on one device where it fits; else spread, and still the same model, adapted too.

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


# --- Loading never takes more memory than the loaded model and one of its layers.

LAYERS = 16
SLACK_BYTES = 8_000_000  # threads, tables of the libraries, pages that are half used
MEASURE = """
import json, sys, threading
from t2local.models.load.loader import load_model
from t2local.progress import drain

def private_bytes():  # without the checkpoint's own pages, which the system drops when it needs to
    line = next(l for l in open("/proc/self/status") if l.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

def watch():
    while not over.wait(0.003):
        seen.append(private_bytes())

small, big, kind = sys.argv[1:]
drain(load_model(small, kind))  # imports what loading imports
before, seen, over = private_bytes(), [], threading.Event()
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
loaded = drain(load_model(big, kind))
after = private_bytes()
over.set()
watcher.join()
print(json.dumps([after - before, max(seen) - before, loaded.resident_bytes]))
"""


@pytest.mark.parametrize("kind", ["nf4", "int8", "nf4 from a GGUF"])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and glibc's heap")
def test_the_peak_is_the_final_size_and_one_layer(tmp_path, tiny_folder, kind):
    config = LlamaConfig(
        vocab_size=320, hidden_size=384, intermediate_size=1152, num_hidden_layers=LAYERS,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    model = empty.to_empty(device="cpu").to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.normal_()
    layer_bytes = 4 * sum(p.numel() for p in model.model.layers[0].parameters())  # as float32
    kind, _, from_gguf = kind.partition(" ")
    big, small = tmp_path / "big", tiny_folder()
    if from_gguf:
        big = write_gguf(model, byte_tokenizer(), tmp_path / "big.gguf", eight_bits=True)
        tiny = AutoModelForCausalLM.from_pretrained(small)
        small = write_gguf(tiny, byte_tokenizer(), tmp_path / "small.gguf", eight_bits=True)
    else:
        model.save_pretrained(big, max_shard_size="8MB")
        byte_tokenizer().save_pretrained(big)
        assert len(list(big.glob("*.safetensors"))) > 5
    command = [sys.executable, "-c", MEASURE, str(small), str(big), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    final, peak, resident = json.loads(done.stdout)
    assert final < resident + SLACK_BYTES
    assert peak < resident + layer_bytes + SLACK_BYTES
    assert 3 * resident < 4 * model.num_parameters(), "it was not float32 in between"
