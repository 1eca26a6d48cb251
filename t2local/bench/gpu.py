"""The figures of a 4-bit model on a GPU: decoding, prefill, changes of z, memory, decomposition.

Measured on a model of a real one's shape with random weights and random int8 bases, since speed and
memory do not depend on the numbers; only the decomposition really decomposes, one matrix of each
shape. Everything also runs on a CPU, where the figures mean little. Pure measurements.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from t2local.bench.speed import CHANGES
from t2local.bench.table import Measured, Row, interleaved, random_z, ratio, timed
from t2local.bench.truncated import truncate, using_truncated
from t2local.models.decode.cuda_graphs import StepDecoder
from t2local.models.load.loader import LoadedModel
from t2local.models.load.quantized import resident_bytes
from t2local.svf import SVFModel
from t2local.svf.basis import Basis, decompose, side_of
from t2local.svf.targets import find_targets, is_attention

GB = 1e9
RATIO = "ratio"


@dataclass(frozen=True)
class Effort:
    """How long and how often; `FULL` for figures, `QUICK` to see that everything runs."""

    prompt_tokens: int  # read before the measured steps
    prefill_tokens: int
    batch: int  # rows of the batched decode
    k: int  # directions of the truncated adaptation
    rounds: int


FULL = Effort(prompt_tokens=128, prefill_tokens=2048, batch=32, k=256, rounds=40)
QUICK = Effort(prompt_tokens=8, prefill_tokens=64, batch=8, k=8, rounds=2)


def with_random_bases(loaded: LoadedModel) -> SVFModel:
    """The model with int8 bases of random directions: as fast and as large as real ones."""
    layers = find_targets(loaded.model)
    bases = {}
    for name, layer in layers.items():
        rank, device = min(layer.out_features, layer.in_features), layer.weight.device
        vectors = torch.randint(-127, 128, (rank, rank), dtype=torch.int8, device=device)
        scale = torch.full((rank,), rank**-0.5 / 73, device=device)  # rows of length 1
        sigma = torch.linspace(2, 0.1, rank, device=device)
        side = side_of(layer.out_features, layer.in_features)
        bases[name] = Basis(vectors, sigma, side, scale)
    return SVFModel(loaded.model, layers, bases, {})


def decoding(loaded: LoadedModel, svf: SVFModel, eager_s: float, effort: Effort) -> Measured:
    """One row: base, all matrices, MLP only and top-k, a step of each in turn."""
    z, ids = random_z(svf), _ids(loaded, 1, effort.prompt_tokens)
    mlp = {name: row for name, row in z.items() if not is_attention(name)}
    around = _variants(svf, {"all matrices": z, "MLP": mlp})
    for name, part in (("all matrices", z), ("MLP", mlp)):
        few = truncate(svf, part, effort.k)
        around[f"{name}, top-{effort.k}"] = lambda few=few: using_truncated(svf, few)
    seconds = _steps(loaded, around, ids, effort.rounds)
    rows = [
        Row("decode, batch 1", name, 1 / statistics.median(taken), "tokens/s")
        for name, taken in seconds.items()
    ]
    rows += [
        Row("adapted / base decode, batch 1", name, ratio(seconds["base"], taken), RATIO)
        for name, taken in seconds.items()
        if name != "base"
    ]
    faster = eager_s / statistics.median(seconds["base"])
    return Measured([*rows, Row("base decode", "ours / eager generate", faster, RATIO)], {})


def eager_generate_s(loaded: LoadedModel, effort: Effort) -> float:
    """Seconds a token of transformers' own greedy `generate`; before SVF is attached."""
    ids, few = _ids(loaded, 1, effort.prompt_tokens), max(2, effort.rounds)

    def write(n_tokens: int) -> None:
        lengths = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens}
        loaded.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **lengths)

    write(2)  # warms up
    return max(1e-9, timed(lambda: write(few + 1)) - timed(lambda: write(1))) / few


def batched(loaded: LoadedModel, svf: SVFModel, effort: Effort) -> Measured:
    """Many rows: the base model, one shared z, and a z for each row."""
    zs = {"one z": random_z(svf), "a z for each row": random_z(svf, effort.batch)}
    around = _variants(svf, {"one z": zs["one z"]})
    buffer = svf.buffer(effort.batch)
    svf.fill(buffer, zs["a z for each row"])
    around["a z for each row"] = lambda: svf.using_buffer(buffer)
    ids = _ids(loaded, effort.batch, effort.prompt_tokens)
    seconds = _steps(loaded, around, ids, effort.rounds)
    name = f"batch {effort.batch}"
    rows = [
        Row(f"decode, {name}", variant, effort.batch / statistics.median(taken), "tokens/s")
        for variant, taken in seconds.items()
    ]
    shared, own = seconds["one z"], seconds["a z for each row"]
    rows.append(Row(f"adapted / base, {name}", "all matrices", ratio(seconds["base"], own), RATIO))
    rows.append(Row(f"different z a row / one z, {name}", "all", ratio(shared, own), RATIO))
    return Measured(rows, {})


def change_of_z(svf: SVFModel, effort: Effort) -> Measured:
    """Milliseconds to put another z into the tensors that a captured step reads."""
    zs, buffer = [random_z(svf, seed=seed) for seed in range(2)], svf.buffer()

    def change() -> None:
        for turn in range(CHANGES):
            svf.fill(buffer, zs[turn % 2])

    taken = statistics.median(interleaved({"": change}, effort.rounds)[""])
    return Measured([Row("change of z", "whole model", 1e3 * taken / CHANGES, "ms")], {})


def prefill(loaded: LoadedModel, svf: SVFModel, effort: Effort) -> Measured:
    """Reading a prompt under an adaptation of all matrices, against the base model."""
    ids, z = _ids(loaded, 1, effort.prefill_tokens), random_z(svf)

    @torch.no_grad()
    def read(adapted: bool) -> None:
        with svf.using(z if adapted else {}):
            loaded.model(ids, use_cache=False, logits_to_keep=1)

    actions = {"base": lambda: read(False), "adapted": lambda: read(True)}
    seconds = interleaved(actions, max(2, effort.rounds // 5))
    name = f"prefill {effort.prefill_tokens} tokens"
    rows = [
        Row(name, variant, effort.prefill_tokens / statistics.median(taken), "tokens/s")
        for variant, taken in seconds.items()
    ]
    found = ratio(seconds["base"], seconds["adapted"])
    return Measured([*rows, Row(f"{name}, adapted / base", "all matrices", found, RATIO)], {})


def decomposition(svf: SVFModel) -> Measured:
    """One random matrix of each shape is decomposed, the second time counts; the rest by number."""
    shapes = Counter((m.out_features, m.in_features) for m in svf.base_layers.values())
    device, total = next(iter(svf.singular_values.values())).device, 0.0
    for shape, count in shapes.items():
        weight = torch.randn(shape, device=device)
        decompose(weight)
        total += count * timed(lambda weight=weight: decompose(weight))
    number = sum(shapes.values())
    name = f"{number} matrices, from {len(shapes)} decomposed, one of each shape"
    return Measured([Row("decomposition", name, total / 60, "minutes")], {})


def resident(loaded: LoadedModel, svf: SVFModel) -> Measured:
    """Bytes of weights and bases together."""
    total = resident_bytes(loaded.model) + svf.basis_bytes
    rows = [Row("resident", "NF4 and int8 bases, all matrices", total / GB, "GB")]
    return Measured(rows, {})


def _variants(
    svf: SVFModel, zs: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, Callable[[], AbstractContextManager]]:
    """The base model, and each z in a buffer of its own."""
    around: dict[str, Callable[[], AbstractContextManager]] = {"base": lambda: svf.using({})}
    for name, z in zs.items():
        buffer = svf.buffer(names=z)
        svf.fill(buffer, dict(z))
        around[name] = lambda buffer=buffer: svf.using_buffer(buffer)
    return around


def _steps(
    loaded: LoadedModel,
    around: Mapping[str, Callable[[], AbstractContextManager]],
    ids: torch.Tensor,
    rounds: int,
) -> dict[str, list[float]]:
    """Seconds of a decoding step of each variant, in turn, on one cache `[B, T]` is read into."""
    room = ids.shape[1] + (rounds + 2) * len(around) + 1
    decoder = StepDecoder(loaded.model, len(ids), room)
    decoder.read(ids)
    actions = {
        name: lambda name=name, hold=hold: decoder.step(ids[:, -1], name, hold)
        for name, hold in around.items()
    }
    return interleaved(actions, rounds, warm_up=2)


def _ids(loaded: LoadedModel, rows: int, tokens: int) -> torch.Tensor:
    """Random token ids `[rows, tokens]`, of those that every vocabulary here has."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, 250, (rows, tokens), generator=generator).to(loaded.model.device)
