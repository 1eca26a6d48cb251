"""Loading never takes more memory than the loaded model and one of its layers."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.conftest import byte_tokenizer
from tests.models.gguf_files import write_gguf

LAYERS = 16
SLACK_BYTES = 8_000_000  # threads, tables of the libraries, pages that are half used
MEASURE = """
import json, sys, threading
from t2local.models.load import load_model
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
