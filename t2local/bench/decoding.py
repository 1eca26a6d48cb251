"""Decoding on the CPU: transformers' `generate`, our exact loop, and compiled steps.

Speeds are taken in turn within each round, greedy, without the prompt (a `generate` of one token is
taken off). What 8 bits cost is said beside the speed: the logits' distance from float32's after the
same words, and from the change that an expert makes. Pure measurements.

llama.cpp runs through its Python package in a process of its own, `python -m t2local.bench.decoding
FILE TOKENS THREADS`. The package is no requirement of ours.
"""

import contextlib
import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from t2local.adapt.applier import CompiledVariant, RoundedSteps
from t2local.bench.table import Measured, Row, interleaved, ratio
from t2local.errors import T2LocalError
from t2local.models.decode.compiled_steps import RowCache
from t2local.models.decode.generate import Decoder, Kept, Sampling
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, Z
from t2local.svf.basis import decompose
from t2local.svf.layer import SVFLinear, weight_as_used

NAME = "decode on the CPU"
GENERATE, ONE = "transformers generate", "its first token"
EXACT, BASE, ADAPTED = "ours, float32", "8 bits", "8 bits, adapted"


def rounded_decoding(
    loaded: LoadedModel,
    untouched: PreTrainedModel,
    svf: SVFModel,
    z: Z,
    prompt: Sequence[int],
    tokens: int,
    rounds: int,
) -> Measured:
    """Tokens/s from 8-bit weights without guesses, and their error. `z` `[r]`.

    For models without a `rounding_problem`.
    `untouched`: a twin of the model without SVF, for `generate` and the exact loop.
    """
    steps = RoundedSteps(loaded, svf)
    (making,) = interleaved({BASE: lambda: _make(steps)}, 1, 0)[BASE]
    variants = {BASE: steps.under({}), ADAPTED: steps.under(z)}
    ways = {name: _Alone(way.steps, way.deltas) for name, way in variants.items()}
    plain = replace(loaded, model=untouched)
    seconds = _seconds(plain, ways, prompt, tokens, rounds)
    rows = [Row(NAME, n, tokens / statistics.median(t), "tokens/s") for n, t in seconds.items()]
    rows.append(Row(NAME, "making the copy", making, "s"))
    ratios = {
        "decode_exact_over_generate": ratio(seconds[GENERATE], seconds[EXACT]),
        "decode_8_bits_over_generate": ratio(seconds[GENERATE], seconds[BASE]),
        "decode_8_bits_adapted_over_8_bits": ratio(seconds[BASE], seconds[ADAPTED]),
    }
    errors = _errors(loaded, svf, z, ways, _written(plain, prompt, tokens), len(prompt))
    return Measured([*rows, *errors], ratios)


def _make(steps: RoundedSteps) -> None:
    while steps.make_on():
        pass


def _seconds(
    plain: LoadedModel,
    quick: Mapping[str, CompiledVariant],
    prompt: Sequence[int],
    tokens: int,
    rounds: int,
) -> dict[str, list[float]]:
    """Seconds that each way takes for `tokens` tokens, a value a round."""
    ids = torch.tensor([list(prompt)])
    ways = {EXACT: None, **quick}
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
    quick: Mapping[str, CompiledVariant],
    words: Sequence[int],
    n_prompt: int,
) -> list[Row]:
    """How far rounded logits are from float32's, and what of the expert's change is left."""
    matrices = svf.rebuild(z)

    def logits(name: str, steps: CompiledVariant | None) -> Tensor:  # [T, V], centred
        with svf.using_rebuilt(matrices if name == ADAPTED else {}):
            decoder = Decoder(loaded, words[:n_prompt], Sampling(max_new_tokens=len(words)))
            found = [decoder.logits()]
            for token in words[n_prompt:]:
                decoder.push(torch.tensor([token]))
                found.append(decoder.logits(steps))
        found = torch.cat(found[1:])
        return found - found.mean(dim=-1, keepdim=True)

    exact = {name: logits(name, None) for name in quick}
    fast = {name: logits(name, steps) for name, steps in quick.items()}
    change = exact[ADAPTED] - exact[BASE]
    lost = (fast[ADAPTED] - fast[BASE]) - change

    def row(variant: str, part: Tensor, whole: Tensor) -> Row:
        return Row(NAME, variant, float(part.norm() / whole.norm()), "relative")

    same = [(fast[n].argmax(-1) == exact[n].argmax(-1)).double().mean() for n in quick]
    return [
        row("logits' error, base", fast[BASE] - exact[BASE], exact[BASE]),
        row("logits' error, adapted", fast[ADAPTED] - exact[ADAPTED], exact[ADAPTED]),
        row("the expert's change of the logits", change, exact[BASE]),
        row("error of that change", lost, change),
        Row(NAME, "same likeliest token", float(sum(same) / len(same)), "of the tokens"),
    ]


# --- Compiled steps, from a GGUF's own bits.

COMPILED = "decode from the file's bits"
STAYS, SLIDERS, LLAMA_CPP = "an expert that stays", "while sliders move", "llama.cpp"
OTHER_RMS = 0.01  # by which z moves with every token


def compiled_decoding(
    loaded: LoadedModel,
    svf: SVFModel,
    z: Z,
    prompt: Sequence[int],
    tokens: int,
    rounds: int,
    gguf: Path | None,
) -> Measured:
    """Tokens/s of the base model, with an expert, under a z that moves with every token.

    `gguf`: the file for llama.cpp, in turn with ours; None leaves it out.
    """
    moved = [{n: row + OTHER_RMS * torch.randn_like(row) for n, row in z.items()} for _ in range(8)]
    ways: dict[str, list[Z]] = {"base": [{}], STAYS: [z], SLIDERS: moved}
    caches = {name: _read(loaded, svf, zs[0], prompt) for name, zs in ways.items()}

    def decode(name: str) -> None:
        steps, zs, token = loaded.steps, ways[name], torch.tensor([prompt[-1]])
        still = svf.deltas(zs[0])
        for place in range(tokens):
            deltas = svf.deltas(zs[place % len(zs)]) if len(zs) > 1 else still
            token = steps.step([caches[name]], token, deltas).argmax(-1)

    actions: dict[str, Callable[[], None]] = {n: lambda n=n: decode(n) for n in ways}
    with contextlib.ExitStack() as open_:
        if gguf is not None:
            peer = open_.enter_context(LlamaCpp(gguf, tokens))
            actions[LLAMA_CPP] = peer.decode
        seconds = interleaved(actions, rounds)
        if gguf is not None:
            seconds[LLAMA_CPP] = peer.seconds[-rounds:]  # by its own clock, without the prompt
    rows = [Row(COMPILED, n, tokens / statistics.median(t), "tokens/s") for n, t in seconds.items()]
    ratios = {
        "compiled_expert_over_base": ratio(seconds["base"], seconds[STAYS]),
        "compiled_sliders_over_base": ratio(seconds["base"], seconds[SLIDERS]),
    }
    if gguf is not None:
        ratios["compiled_base_over_llama_cpp"] = ratio(seconds[LLAMA_CPP], seconds["base"])
    return Measured(rows, ratios)


def guessed_decoding(
    loaded: LoadedModel, prompts: Mapping[str, Sequence[int]], tokens: int, rounds: int
) -> Measured:
    """Greedy answers to each prompt with guesses from what was said (`Lookup`), beside without.

    Raises `AssertionError` where the answers differ.
    """
    rows, ratios = [], {}
    ways = {"with": CompiledVariant(loaded.steps, {}), "without": _Alone(loaded.steps, {})}
    for name, prompt in prompts.items():
        read, said = DynamicCache(), {}
        with torch.no_grad():
            loaded.model(torch.tensor([prompt[:-1]]), past_key_values=read)

        def answer(way: str, prompt=prompt, read=read, said=said) -> None:
            kept = Kept([list(prompt[:-1])], RowCache.of(read).ordinary())
            sampling = Sampling(0.0, repetition_penalty=1.0, max_new_tokens=tokens)
            decoder = Decoder(loaded, prompt, sampling, cache=kept)
            while not decoder.done:
                decoder.push(decoder.sample(decoder.logits(ways[way])))
            (said[way],) = decoder.said

        seconds = interleaved({way: lambda way=way: answer(way) for way in ways}, rounds)
        assert said["with"] == said["without"], name
        speed = len(said["with"]) / statistics.median(seconds["with"])
        rows.append(Row(COMPILED, f"an answer that {name}", speed, "tokens/s"))
        ratios[f"lookup_{name.replace(' ', '_')}"] = ratio(seconds["without"], seconds["with"])
    return Measured(rows, ratios)


class _Alone(CompiledVariant):
    """Steps of one token each."""

    several = None


@torch.no_grad()
def compiled_errors(
    loaded: LoadedModel, svf: SVFModel, z: Z, words: Sequence[int], exact: PreTrainedModel
) -> Measured:
    """How far the steps' logits after `words` are from the dequantised file's, and the expert's
    change of them from the one by exact bases.

    `exact`: the file's numbers as float32.
    """
    base, adapted = (_stepwise(loaded, svf, under, words) for under in ({}, z))
    meant = _centred(exact(torch.tensor([list(words)])).logits[0, 1:].float())
    change, found = _exact_change(loaded, svf, z, words), adapted - base
    rows = [
        Row(COMPILED, "logits' error", _relative(base - meant, meant), "relative"),
        Row(COMPILED, "the expert's change of the logits", _relative(change, base), "relative"),
        Row(COMPILED, "lost of that change", _relative(found - change, change), "relative"),
    ]
    return Measured(rows, {})


def _exact_change(loaded: LoadedModel, svf: SVFModel, z: Z, words: Sequence[int]) -> Tensor:
    """What `z` changes of the logits `[T, V]` where W' is made in float64, matrix by matrix."""
    ids, found = torch.tensor([list(words)]), []
    stand_ins = {name: _exactly(layer, z[name]) for name, layer in svf.layers.items()}
    for layers in ({}, stand_ins):
        with svf.using_instead(layers):
            found.append(_centred(loaded.model(ids).logits[0, 1:].float()))
    return found[1] - found[0]


def _exactly(layer: SVFLinear, z: Tensor) -> nn.Linear:
    """A layer with `W' = U diag(σ z) Vᵀ` from a float64 decomposition of the weight as used."""
    weight = weight_as_used(layer.base).double()
    rows = decompose(weight).vectors.double()  # [r, r]
    change = (z.double() - 1)[:, None] * rows
    if layer.basis.side == "in":
        moved = weight + (weight @ rows.T) @ change
    else:
        moved = weight + rows.T @ (change @ weight)
    new = nn.Linear(*reversed(weight.shape), bias=layer.bias is not None, device="meta")
    new.weight = nn.Parameter(moved.float(), requires_grad=False)
    new.bias = None if layer.bias is None else nn.Parameter(layer.bias, requires_grad=False)
    return new


def _read(loaded: LoadedModel, svf: SVFModel, z: Z, ids: Sequence[int]) -> RowCache:
    cache = DynamicCache()
    with torch.no_grad(), svf.using(z):
        loaded.model(torch.tensor([list(ids)]), past_key_values=cache, use_cache=True)
    return RowCache.of(cache)


def _stepwise(loaded: LoadedModel, svf: SVFModel, z: Z, words: Sequence[int]) -> Tensor:
    """Centred logits `[T - 1, V]` of one step after the other, the first word read beforehand."""
    cache, deltas = _read(loaded, svf, z, words[:1]), svf.deltas(z)
    found = [loaded.steps.step([cache], torch.tensor([word]), deltas) for word in words[1:]]
    return _centred(torch.cat(found))


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(dim=-1, keepdim=True)


def _relative(part: Tensor, whole: Tensor) -> float:
    return float(part.norm() / whole.norm())


# --- llama.cpp on the same file with as many threads, in a process of its own.

PACKAGE, INSTALL = "xllamacpp", "pip install xllamacpp"
PROMPT = "Why is the sky blue?"


def llama_cpp_problem() -> str:
    """Why llama.cpp cannot be measured here, with the way out; "" when it can."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"llama.cpp is not measured: `{INSTALL}` brings it"
    return ""


class LlamaCpp:
    """A child process with the model loaded, which decodes when it is asked to.

    `seconds`: what each time took by its own clock, without the prompt.
    """

    def __init__(self, gguf: Path, tokens: int) -> None:
        self._gguf, self._tokens, self.seconds = gguf, tokens, list[float]()

    def __enter__(self) -> "LlamaCpp":
        asked = [str(self._gguf), str(self._tokens), str(torch.get_num_threads())]
        command = [sys.executable, "-m", "t2local.bench.decoding", *asked]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._child = subprocess.Popen(
            command, **pipes, stderr=subprocess.DEVNULL, encoding="utf-8", errors="replace"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()

    def decode(self) -> None:
        """Raises `T2LocalError` where it gives no figure."""
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        for line in self._child.stdout:
            if line.startswith(PACKAGE):
                self.seconds.append(self._tokens / float(line.split()[1]))
                return
        raise T2LocalError(f"llama.cpp could not decode '{self._gguf.name}'.")


def _serve(gguf: str, tokens: int, threads: int) -> None:
    """A line of tokens/s on stdout for each on stdin."""
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path, options.n_ctx, options.n_parallel = gguf, 2048, 1
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(options)
    wish = {"prompt": PROMPT, "n_predict": tokens, "temperature": 0, "ignore_eos": True}
    for _ in sys.stdin:
        found = server.handle_completions({**wish, "cache_prompt": False})
        print(PACKAGE, found["timings"]["predicted_per_second"], flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
