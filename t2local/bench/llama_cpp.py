"""The distance to llama.cpp: the same model's GGUF file decoded by it, with as many threads.

Run through its Python package in a process of its own, as a program: `python -m
t2local.bench.llama_cpp FILE TOKENS THREADS` prints tokens/s. Greedy; the prompt is not
timed. The package is no requirement of ours, since PyPI has its source only, which a compiler
builds. Pure measurement.
"""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import torch

from t2local.bench.table import Measured, Row
from t2local.errors import T2LocalError
from t2local.models.load import embedded

PACKAGE, INSTALL = "llama_cpp", "pip install llama-cpp-python"
TIMEOUT_S = 300
PROMPT = b"Why is the sky blue?"


def problem(model: str) -> str:
    """Why llama.cpp cannot be measured on `model` here, with the way out; "" when it can."""
    if model != embedded.NAME:
        return "llama.cpp is measured beside the embedded model only"
    if importlib.util.find_spec(PACKAGE) is None:
        return f"llama.cpp is not measured: `{INSTALL}` builds it with a C++ compiler"
    return ""


def llama_cpp(gguf: Path, tokens: int, packed_tokens_per_s: float) -> Measured:
    """llama.cpp's tokens/s on `gguf`, and ours as a share of it. Raises `T2LocalError`."""
    asked = [str(gguf), str(tokens), str(torch.get_num_threads())]
    command = [sys.executable, "-m", "t2local.bench.llama_cpp", *asked]
    plain = {"encoding": "utf-8", "errors": "replace"}
    ended = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, **plain)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise T2LocalError(f"llama.cpp could not decode '{gguf.name}' ({said[:200]}).")
    speed = float(ended.stdout.splitlines()[-1])
    ratios = {"decode_packed_over_llama_cpp": packed_tokens_per_s / speed}
    return Measured([Row("decode on the CPU", "llama.cpp", speed, "tokens/s")], ratios)


def _tokens_per_s(gguf: str, tokens: int, threads: int) -> float:
    from llama_cpp import Llama

    model = Llama(
        gguf, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False, seed=0
    )
    model.eval(model.tokenize(PROMPT))
    model.eval([model.sample(temp=0.0)])
    started = time.perf_counter()
    for _ in range(tokens):
        model.eval([model.sample(temp=0.0)])
    return tokens / (time.perf_counter() - started)


if __name__ == "__main__":
    print(_tokens_per_s(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
