"""The figures of a 4-bit model on a GPU: decoding, prefill, changes of z, memory, decomposition.

A decoding step reads all weights once, so bytes bound it. What an adaptation costs stands beside
what its bytes would cost, and bytes a second beside those that this very card copies.

Measured on a model of a real one's shape with random weights and random int8 bases, since speed and
memory do not depend on the numbers; only the decomposition really decomposes, one matrix of each
shape. Everything also runs on a CPU, where the figures mean little. `truncated` keeps the few
directions that carry most of an adaptation: its best approximation of rank k.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from t2local.bench.speed import CHANGES
from t2local.bench.table import Measured, Row, interleaved, random_z, ratio, timed
from t2local.errors import T2LocalError
from t2local.models.decode.cuda_graphs import GraphSteps, StepDecoder, Variant, why_not
from t2local.models.decode.generate import Decoder
from t2local.models.decode.sampling import Sampling
from t2local.models.load.loader import LoadedModel
from t2local.models.load.quantized import resident_bytes
from t2local.svf import SVFModel, Z
from t2local.svf.basis import Basis, decompose, find_targets, is_attention, side_of, unpacked
from t2local.svf.layer import InForce, SVFLinear, join_siblings

GB = 1e9
RATIO = "ratio"
SHARE = "adapted / base decode, batch 1, share of the ceiling"
Measuring = Generator[str | Measured, None, None]


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


def decoding(loaded: LoadedModel, svf: SVFModel, effort: Effort) -> Measuring:
    """One row: base, all matrices, MLP only, top-k and 4-bit bases, a step of each in turn."""
    z, ids = random_z(svf), _ids(loaded, 1, effort.prompt_tokens)
    mlp = {name: row for name, row in z.items() if not is_attention(name)}
    around = _variants(svf, {"all matrices": z, "MLP": mlp})
    for name, part in (("all matrices", z), ("MLP", mlp)):
        few = truncate(svf, part, effort.k)
        around[f"{name}, top-{effort.k}"] = lambda few=few: using_truncated(svf, few)
    layers = _in_4_bits(svf, z)
    around["all matrices, 4-bit bases"] = lambda: svf.using_instead(layers)
    seconds = yield from _steps(loaded, around, ids, effort.rounds)
    rows = [
        Row("decode, batch 1", name, 1 / statistics.median(taken), "tokens/s")
        for name, taken in seconds.items()
    ]
    adapted = {n: ratio(seconds["base"], taken) for n, taken in seconds.items() if n != "base"}
    rows += [Row("adapted / base decode, batch 1", n, value, RATIO) for n, value in adapted.items()]
    read = {"base": read_bytes(loaded)}
    bases = {
        "MLP": {name: svf.layers[name] for name in mlp},
        "all matrices": svf.layers,
        "all matrices, 4-bit bases": layers,
    }
    for name, part in bases.items():
        read[name] = read["base"] + sum(layer.basis.vectors.nbytes for layer in part.values())
        share = adapted[name] / (read["base"] / read[name])
        rows.append(Row(SHARE, name, share, RATIO))
    yield Measured(rows, {})
    around.clear()
    layers.clear()  # a copy wants their room
    rates = {name: n_bytes / statistics.median(seconds[name]) for name, n_bytes in read.items()}
    for name in bases:
        alone = statistics.median(
            adapted_s - base_s
            for adapted_s, base_s in zip(seconds[name], seconds["base"], strict=True)
        )
        rates[f"bases alone, {name}"] = (read[name] - read["base"]) / max(alone, 1e-9)
    bandwidth = copy_bandwidth(loaded.model.device)
    rows = [Row("memory bandwidth", "a copy, read and written", bandwidth / GB, "GB/s")]
    for name, rate in rates.items():
        rows.append(Row("bytes of weights and bases, decode", name, rate / GB, "GB/s"))
        rows.append(Row("share of memory bandwidth", name, rate / bandwidth, RATIO))
    yield Measured(rows, {})


def _in_4_bits(svf: SVFModel, z: Z) -> dict[str, SVFLinear]:
    """Layers with vectors of random steps in 4 bits, made of random int8 ones, under `z`."""
    bases, deltas = {}, {}
    for name, layer in svf.layers.items():
        basis = layer.basis
        codes = basis.vectors[:, : (basis.rank + 1) // 2].view(torch.uint8) | 0x11  # none below −7
        scale = basis.scale * 16  # rows of length 1 again: odd steps only
        bases[name] = Basis(codes.contiguous(), basis.sigma, basis.side, scale)
        deltas[name] = (z[name] - 1) * scale.square()
    return _layers(svf, bases, InForce(deltas))


def read_bytes(loaded: LoadedModel) -> int:
    """What a step of the base model reads: all weights, of the table of embeddings one row alone
    unless the head is that table too."""
    table = loaded.model.get_input_embeddings().weight
    tied = loaded.model.get_output_embeddings().weight is table
    return resident_bytes(loaded.model) - (0 if tied else table.numel() * table.element_size())


def copy_bandwidth(device: torch.device, n_bytes: int = 2**28, times: int = 8) -> float:
    """Bytes a second, read and written, of copies too large for any cache; the best of some."""
    source = torch.ones(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copies() -> None:
        for _ in range(times):
            target.copy_(source)

    return 2 * n_bytes * times / min(timed(copies) for _ in range(5))


def beside_generate(
    loaded: LoadedModel, untouched: PreTrainedModel, svf: SVFModel, effort: Effort
) -> Measuring:
    """Whole greedy answers of the base model: transformers' own `generate` and ours, in turn.

    Both read the same prompt and choose the same number of tokens; answers of one token, in turn
    as well, are taken off. `untouched`: the model without SVF.
    """
    ids, n_tokens = _ids(loaded, 1, effort.prompt_tokens), max(3, effort.rounds)
    greedy = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=n_tokens, seed=0)
    steps, why = GraphSteps(loaded), why_not(loaded)
    quick = None if why else Variant(steps, "base", nullcontext)

    def transformers(n: int) -> None:
        lengths = {"max_new_tokens": n, "min_new_tokens": n}
        untouched.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **lengths)

    def ours(n: int) -> None:
        decoder = Decoder(loaded, ids[0].tolist(), greedy)
        with svf.using({}):
            for _ in range(n):
                decoder.push(decoder.sample(decoder.logits(quick)))

    ways = {"transformers": transformers, "ours": ours}
    actions = {
        f"{name} {n}": lambda write=write, n=n: write(n)
        for name, write in ways.items()
        for n in (1, n_tokens)
    }
    seconds = interleaved(actions, max(2, effort.rounds // 8))
    taken = {
        name: [
            max(1e-9, long - short)
            for long, short in zip(seconds[f"{name} {n_tokens}"], seconds[f"{name} 1"], strict=True)
        ]
        for name in ways
    }
    rows = [
        Row("greedy answers, base", name, (n_tokens - 1) / statistics.median(t), "tokens/s")
        for name, t in taken.items()
    ]
    why = why or steps.problem
    yield f"our answers ran as {f'plain steps: {why}' if why else 'replayed CUDA graphs'}"
    faster = ratio(taken["transformers"], taken["ours"])
    yield Measured([*rows, Row("base decode", "ours / eager generate", faster, RATIO)], {})


def batched(loaded: LoadedModel, svf: SVFModel, effort: Effort) -> Measuring:
    """Many rows: the base model, one shared z, and a z for each row."""
    zs = {"one z": random_z(svf), "a z for each row": random_z(svf, effort.batch)}
    around = _variants(svf, {"one z": zs["one z"]})
    buffer = svf.buffer(effort.batch)
    svf.fill(buffer, zs["a z for each row"])
    around["a z for each row"] = lambda: svf.using_buffer(buffer)
    ids = _ids(loaded, effort.batch, effort.prompt_tokens)
    seconds = yield from _steps(loaded, around, ids, effort.rounds)
    name = f"batch {effort.batch}"
    rows = [
        Row(f"decode, {name}", variant, effort.batch / statistics.median(taken), "tokens/s")
        for variant, taken in seconds.items()
    ]
    shared, own = seconds["one z"], seconds["a z for each row"]
    rows.append(Row(f"adapted / base, {name}", "all matrices", ratio(seconds["base"], own), RATIO))
    rows.append(Row(f"different z a row / one z, {name}", "all", ratio(shared, own), RATIO))
    yield Measured(rows, {})


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
) -> Generator[str, None, dict[str, list[float]]]:
    """Seconds of a decoding step of each variant, in turn, on one cache `[B, T]` is read into.

    Says whether the steps were replayed: what could not be captured is slower by several times.
    """
    room = ids.shape[1] + (rounds + 2) * len(around) + 1
    decoder = StepDecoder(loaded.model, len(ids), room)
    decoder.read(ids)
    actions = {
        name: lambda name=name, hold=hold: decoder.step(ids[:, -1], name, hold)
        for name, hold in around.items()
    }
    seconds = interleaved(actions, rounds, warm_up=2)
    why = decoder.problem or ("" if decoder.captured else f"the model is on {loaded.device}")
    way = f"one kernel at a time: {why}" if why else "replayed CUDA graphs"
    yield f"steps of {len(ids)} rows ran as {way}"
    return seconds


def _ids(loaded: LoadedModel, rows: int, tokens: int) -> torch.Tensor:
    """Random token ids `[rows, tokens]`, of those that every vocabulary here has."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, 250, (rows, tokens), generator=generator).to(loaded.model.device)


# --- The few directions that carry most of an adaptation: its best approximation of rank k.
#
# `ΔW = U diag(σ (z − 1)) Vᵀ` has the energy `‖ΔW‖² = Σ_i (σ_i (z_i − 1))²`, so the k directions
# of largest `σ_i |z_i − 1|` give the best ΔW of rank k (Eckart–Young), and reading k vectors
# instead of all makes decoding faster. The paper always uses the full rank, and so do our
# answers: this is measured here only. `Truncated` says which share of the energy is kept.


@dataclass(frozen=True)
class Truncated:
    """What `using_truncated` puts in force.

    `layers`: matrix name -> a layer in its place whose basis is the kept vectors `[k, r]`; a matrix
    of at most k directions uses its whole basis, and one that does not change has none.
    `energies`: name -> kept share of `‖ΔW‖²`, 0 to 1. `energy`: the share in all, 1 where no
    matrix changes.
    """

    layers: Mapping[str, SVFLinear]
    energies: Mapping[str, float]
    energy: float


def truncate(svf: SVFModel, z: Z, k: int) -> Truncated:
    """Keep the k directions of largest `σ_i |z_i − 1|` of each matrix; shapes as for `svf.using`.

    Rows of different z share one choice: that of the largest energy over all rows. Vectors
    in 8 or 4 bits are kept as bfloat16, others as they are. Raises `T2LocalError` when k is no
    positive number.
    """
    if k < 1:
        raise T2LocalError(f"top-k is {k}; keep at least 1 direction a matrix (256 is usual).")
    bases = {name: svf.layers[name].basis for name in svf.checked(z)}
    deltas = {name: _delta(bases[name], row) for name, row in z.items()}
    spectra = {name: _energies(bases[name], delta) for name, delta in deltas.items()}
    chosen = {
        name: energy.topk(k).indices.sort().values  # [k], in the basis' own order
        for name, energy in spectra.items()
        if k < len(energy)
    }
    shares = _shares(spectra, chosen)
    small, in_force = {}, {}
    for name in (name for name, (_, whole) in shares.items() if whole):
        basis, delta = bases[name], deltas[name]
        if name in chosen:
            basis, delta = _few(basis, chosen[name]), delta[..., chosen[name]]
        small[name] = basis
        in_force[name] = delta if basis.scale is None else delta * basis.scale.square()
    energies = {name: part / whole if whole else 1.0 for name, (part, whole) in shares.items()}
    part, whole = (sum(column) for column in zip((0.0, 0.0), *shares.values(), strict=True))
    layers = _layers(svf, small, InForce(in_force))
    return Truncated(layers, energies, part / whole if whole else 1.0)


def using_truncated(svf: SVFModel, truncated: Truncated) -> AbstractContextManager[None]:
    """Like `svf.using`, with few directions: faster, and nearly the same."""
    return svf.using_instead(truncated.layers)


def _layers(svf: SVFModel, bases: Mapping[str, Basis], in_force: InForce) -> dict[str, SVFLinear]:
    untouched = svf.base_layers
    layers = {n: SVFLinear(untouched[n], basis, n, in_force) for n, basis in bases.items()}
    join_siblings(layers, in_force)
    return layers


def _delta(basis: Basis, row: torch.Tensor) -> torch.Tensor:
    """`z − 1`: `[r]`, `[B, 1, r]` or `[B, T, r]`, not scaled."""
    delta = row.detach().float().to(basis.sigma.device) - 1
    return delta[:, None, :] if delta.dim() == 2 else delta


def _energies(basis: Basis, delta: torch.Tensor) -> torch.Tensor:
    """`(σ_i delta_i)²` `[r]` float64, summed over all rows of `delta`."""
    change = basis.sigma * delta.to(basis.sigma.device)  # [..., r]
    return change.double().square().reshape(-1, basis.rank).sum(dim=0)


def _shares(
    spectra: Mapping[str, torch.Tensor], chosen: Mapping[str, torch.Tensor]
) -> dict[str, tuple[float, float]]:
    """Name -> (kept energy, whole energy), brought from the device in one go."""
    if not spectra:
        return {}
    home = next(iter(spectra.values())).device
    pairs = [
        torch.stack([(energy[chosen[name]] if name in chosen else energy).sum(), energy.sum()])
        for name, energy in spectra.items()
    ]
    together = torch.stack([pair.to(home) for pair in pairs]).tolist()
    return {name: (part, whole) for name, (part, whole) in zip(spectra, together, strict=True)}


def _few(basis: Basis, chosen: torch.Tensor) -> Basis:
    """The vectors `chosen` `[k]` of a basis, without a scale."""
    home = basis.vectors.device  # CPU memory for an offloaded layer
    rows = unpacked(basis.vectors[chosen.to(home)], basis.rank).to(chosen.device)  # [k, r]
    if basis.scale is not None:
        rows = (rows.float() * basis.scale[chosen, None]).bfloat16()
    return Basis(rows, basis.sigma[chosen], basis.side)
