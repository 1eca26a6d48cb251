"""Decoding on the CPU: transformers' `generate`, our exact loop, and the packed weights.

Speeds are taken in turn within each round, greedy, without the prompt (a `generate` of one token is
taken off). What 8 bits cost is said beside the speed: the logits' distance from float32's after the
same words, and from the change that an expert makes. Pure measurements.

llama.cpp runs through its Python package in a process of its own: `python -m
t2local.bench.decoding FILE TOKENS THREADS` prints its tokens/s, greedy and without the prompt.
The package is no requirement of ours, since PyPI has its source only, which a compiler builds.
"""

import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2local.adapt.applier import Applier
from t2local.bench.table import Measured, Row, interleaved, ratio
from t2local.errors import T2LocalError
from t2local.models.decode.generate import Decoder, Sampling
from t2local.models.decode.int8 import Int8Model, Int8Steps, Packer
from t2local.models.load import embedded
from t2local.models.load.loader import LoadedModel
from t2local.svf import Mixture, SVFModel, Z

NAME, EXPERT = "decode on the CPU", "expert"
GENERATE, ONE = "transformers generate", "its first token"
EXACT, BASE, ADAPTED = "ours, float32", "packed", "packed, adapted"


def int8_decoding(
    loaded: LoadedModel,
    untouched: PreTrainedModel,
    svf: SVFModel,
    z: Z,
    prompt: Sequence[int],
    tokens: int,
    rounds: int,
) -> Measured:
    """Tokens/s, packing time and error. `z` `[r]` a matrix; the model can be packed (`why_not`).

    `untouched`: a twin of the model without SVF, for `generate` and the exact loop.
    """
    applier = Applier(svf, {EXPERT: z}, packer=Packer(loaded))
    mixtures = {BASE: Mixture(), ADAPTED: Mixture({EXPERT: 1.0})}
    packing = {name: interleaved({name: lambda m=m: _pack(applier, m)}, 1, 0)[name][0]
               for name, m in mixtures.items()}  # fmt: skip
    packed = {name: applier.packed(mixture) for name, mixture in mixtures.items()}
    plain = replace(loaded, model=untouched)
    seconds = _seconds(plain, packed, prompt, tokens, rounds)
    rows = [Row(NAME, n, tokens / statistics.median(t), "tokens/s") for n, t in seconds.items()]
    rows += [Row(NAME, f"packing, {name}", taken, "s") for name, taken in packing.items()]
    ratios = {
        "decode_exact_over_generate": ratio(seconds[GENERATE], seconds[EXACT]),
        "decode_packed_over_generate": ratio(seconds[GENERATE], seconds[BASE]),
        "decode_packed_adapted_over_packed": ratio(seconds[BASE], seconds[ADAPTED]),
    }
    errors = _errors(loaded, svf, z, packed, _written(plain, prompt, tokens), len(prompt))
    return Measured([*rows, *errors], ratios)


def _pack(applier: Applier, mixture: Mixture) -> None:
    while applier.pack_on(mixture):
        pass


def _seconds(
    plain: LoadedModel,
    packed: Mapping[str, Int8Model],
    prompt: Sequence[int],
    tokens: int,
    rounds: int,
) -> dict[str, list[float]]:
    """Seconds that each way takes for `tokens` tokens, a value a round."""
    ids = torch.tensor([list(prompt)])
    ways = {EXACT: None, **{name: Int8Steps(model) for name, model in packed.items()}}
    greedy = Sampling(0.0, repetition_penalty=1.0, max_new_tokens=(rounds + 2) * tokens)
    decoders = {name: Decoder(plain, prompt, greedy) for name in ways}
    for decoder in decoders.values():
        decoder.push(decoder.sample(decoder.logits()))

    @torch.no_grad()
    def generate(n_tokens: int) -> None:
        limits = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens}
        plain.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **limits)

    def decode(name: str) -> None:
        decoder = decoders[name]
        for _ in range(tokens):
            decoder.push(decoder.sample(decoder.logits(ways[name])))

    actions: dict[str, Callable[[], None]] = {
        GENERATE: lambda: generate(tokens + 1),
        ONE: lambda: generate(1),
        **{name: lambda name=name: decode(name) for name in ways},
    }
    seconds = interleaved(actions, rounds)
    first = seconds.pop(ONE)
    seconds[GENERATE] = [all_ - one for all_, one in zip(seconds[GENERATE], first, strict=True)]
    return seconds


def _written(plain: LoadedModel, prompt: Sequence[int], tokens: int) -> list[int]:
    """The prompt and what the exact base model says after it."""
    greedy = Sampling(0.0, repetition_penalty=1.0, max_new_tokens=tokens)
    decoder = Decoder(plain, prompt, greedy)
    while not decoder.done:
        decoder.push(decoder.sample(decoder.logits()))
    return [*prompt, *decoder.said[0]]


@torch.no_grad()
def _errors(
    loaded: LoadedModel,
    svf: SVFModel,
    z: Z,
    packed: Mapping[str, Int8Model],
    words: Sequence[int],
    n_prompt: int,
) -> list[Row]:
    """How far packed logits are from float32's, and what of the expert's change is left."""
    matrices = svf.rebuild(z)

    def logits(name: str, model: Int8Model | None) -> Tensor:  # [T, V], centred
        with svf.using_rebuilt(matrices if name == ADAPTED else {}):
            decoder = Decoder(loaded, words[:n_prompt], Sampling(max_new_tokens=len(words)))
            found = [decoder.logits()]
            for token in words[n_prompt:]:
                decoder.push(torch.tensor([token]))
                found.append(decoder.logits(Int8Steps(model) if model else None))
        found = torch.cat(found[1:])
        return found - found.mean(dim=-1, keepdim=True)

    exact = {name: logits(name, None) for name in packed}
    fast = {name: logits(name, model) for name, model in packed.items()}
    change = exact[ADAPTED] - exact[BASE]
    lost = (fast[ADAPTED] - fast[BASE]) - change

    def row(variant: str, part: Tensor, whole: Tensor) -> Row:
        return Row(NAME, variant, float(part.norm() / whole.norm()), "relative")

    same = [(fast[n].argmax(-1) == exact[n].argmax(-1)).double().mean() for n in packed]
    return [
        row("logits' error, base", fast[BASE] - exact[BASE], exact[BASE]),
        row("logits' error, adapted", fast[ADAPTED] - exact[ADAPTED], exact[ADAPTED]),
        row("the expert's change of the logits", change, exact[BASE]),
        row("error of that change", lost, change),
        Row(NAME, "same likeliest token", float(sum(same) / len(same)), "of the tokens"),
    ]


# --- The distance to llama.cpp: the same model's GGUF file decoded by it, with as many threads.

PACKAGE, INSTALL = "llama_cpp", "pip install llama-cpp-python"
TIMEOUT_S = 300
PROMPT = b"Why is the sky blue?"


def llama_cpp_problem(model: str) -> str:
    """Why llama.cpp cannot be measured on `model` here, with the way out; "" when it can."""
    if model != embedded.NAME:
        return "llama.cpp is measured beside the embedded model only"
    if importlib.util.find_spec(PACKAGE) is None:
        return f"llama.cpp is not measured: `{INSTALL}` builds it with a C++ compiler"
    return ""


def llama_cpp(gguf: Path, tokens: int, packed_tokens_per_s: float) -> Measured:
    """llama.cpp's tokens/s on `gguf`, and ours as a share of it. Raises `T2LocalError`."""
    asked = [str(gguf), str(tokens), str(torch.get_num_threads())]
    command = [sys.executable, "-m", "t2local.bench.decoding", *asked]
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
