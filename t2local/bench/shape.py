"""`bench --shape`: the figures of an 8B model in 4 bits, on random weights of its shape.

Without a CUDA GPU a big shape is not run: each row then reads "not measured", with the command that
fills it. Memory can be capped to that of a smaller card.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from t2local.bench import gpu
from t2local.bench.search import search_generation
from t2local.bench.speed import Measured
from t2local.bench.table import Bar
from t2local.bench.training_step import cost_of_steps, workload
from t2local.cli.common import log
from t2local.errors import T2LocalError
from t2local.evaluation.bench_rows import Row
from t2local.models.load.loader import LoadedModel
from t2local.models.random_shape import SHAPES, random_shape
from t2local.provenance import origin
from t2local.svf import SVFModel

GIB, GB = 2**30, 1e9
ON_CPU = ("tiny",)  # shapes that are small enough to run anywhere
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Goal:
    """A row of the table: what it must reach, and what it is meant to reach."""

    name: str
    variant: str
    least: Bar
    aim: Bar
    unit: str


GOALS = tuple(
    Goal(name, variant, Bar(sign, least), Bar(sign, aim), unit)
    for name, variant, sign, least, aim, unit in (
        ("adapted / base decode, batch 1", "MLP", "≥", 0.70, 0.90, gpu.RATIO),
        ("adapted / base decode, batch 1", "all matrices", "≥", 0.55, 0.75, gpu.RATIO),
        ("adapted / base decode, batch 1", "MLP, top-256", "≥", 0.85, 0.93, gpu.RATIO),
        ("adapted / base decode, batch 1", "all matrices, top-256", "≥", 0.85, 0.93, gpu.RATIO),
        ("base decode", "ours / eager generate", "≥", 1.4, 1.8, gpu.RATIO),
        ("adapted / base, batch 32", "all matrices", "≥", 0.75, 0.85, gpu.RATIO),
        ("different z a row / one z, batch 32", "all", "≥", 0.95, 0.99, gpu.RATIO),
        ("change of z", "whole model", "≤", 1.0, 0.2, "ms"),
        ("prefill 2048 tokens, adapted / base", "all matrices", "≥", 0.55, 0.65, gpu.RATIO),
        (
            "decomposition",
            "224 matrices, from 4 decomposed, one of each shape",
            "≤",
            10,
            2,
            "minutes",
        ),
        ("resident", "NF4 and int8 bases, all matrices", "≤", 9.0, 8.5, "GB"),
        ("SVF RL step", "8 sequences of 512 tokens, peak", "≤", 12, 11, "GB"),
        ("search, 32 tokens", "batched / one by one", "≥", 4, 6, gpu.RATIO),
    )
)


def add_shape_arguments(parser: argparse.ArgumentParser) -> None:
    """`--shape` and `--vram`."""
    parser.add_argument(
        "--shape", choices=sorted(SHAPES), help="random weights of this shape, in 4 bits, on a GPU"
    )
    parser.add_argument(
        "--vram", type=float, metavar="GIB", help="with --shape: use no more of the GPU's memory"
    )


def run_shape(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Measure `--shape`, or say what would; reports the same object as `bench`."""
    shape, cuda = arguments.shape, torch.cuda.is_available()
    found: list[Row] = []
    if cuda or shape in ON_CPU:
        _cap(arguments.vram)
        device = torch.device("cuda" if cuda else "cpu")
        for part in _parts(shape, device, arguments.quick or shape in ON_CPU):
            found += part.rows
    else:
        vram = arguments.vram or 12
        command = f"python -m t2local bench --shape {shape} --vram {vram:g}"
        log(f"There is no CUDA GPU here: run `{command}` on a machine that has one.")
    rows = found + _missing(shape, found)
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    if arguments.json:
        listed = [asdict(row) for row in rows]
        report({**origin(name), "model": f"random-{shape}", "rows": listed, "ratios": {}})
        return
    print(f"random-{shape}, nf4, on {name}\n")
    for row in rows:
        print(_line(row, () if shape in ON_CPU else GOALS))


def _cap(vram_gib: float | None) -> None:
    if vram_gib is None or not torch.cuda.is_available():
        return
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    if not 0 < vram_gib <= total:
        raise T2LocalError(
            f"--vram is {vram_gib:g} GiB and this GPU has {total:.1f}; give no more than that."
        )
    torch.cuda.set_per_process_memory_fraction(vram_gib / total)


def _parts(shape: str, device: torch.device, quick: bool) -> Iterator[Measured]:
    """Everything in turn; a part for which the memory does not do is left out, and said."""
    effort = gpu.QUICK if quick else gpu.FULL
    log(f"building a random {shape} in 4 bits")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = random_shape(shape, device, dtype)
    log("measuring transformers' own generate")
    eager_s = gpu.eager_generate_s(loaded, effort)
    svf = gpu.with_random_bases(loaded)
    log(f"the branch runs as {svf.branch_path}")
    parts = {
        "resident memory": lambda: gpu.resident(loaded, svf),
        "decoding": lambda: gpu.decoding(loaded, svf, eager_s, effort),
        "a batch": lambda: gpu.batched(loaded, svf, effort),
        "changes of z": lambda: gpu.change_of_z(svf, effort),
        "prefill": lambda: gpu.prefill(loaded, svf, effort),
        "a training step": lambda: _training_step(loaded, svf, quick),
        "a mixture search": lambda: _search(loaded, svf, quick),
        "decomposition": lambda: gpu.decomposition(svf),
    }
    for name, measure in parts.items():
        log(f"measuring {name}")
        try:
            yield measure()
        except torch.OutOfMemoryError:
            log(f"{name}: out of memory")
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _training_step(loaded: LoadedModel, svf: SVFModel, quick: bool) -> Measured:
    """Two sequences a forward; the peak is that of the GPU, weights and bases included."""
    sequences, tokens = (2, 64) if quick else (8, 512)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    cost = cost_of_steps(loaded, svf, workload(loaded, sequences, tokens, 2), 1)
    name = f"{sequences} sequences of {tokens} tokens"
    rows = [
        Row("SVF RL step", f"{name}, peak", cost.peak_memory_bytes / GB, "GB"),
        Row("SVF RL step", f"{name}, speed", cost.tokens / cost.wall_s, "tokens/s"),
    ]
    return Measured(rows, {})


def _search(loaded: LoadedModel, svf: SVFModel, quick: bool) -> Measured:
    """Candidates scored in batches, and one by one."""
    found = search_generation(loaded, svf, 1 if quick else 3, 2 if quick else 32)
    faster = found.ratios["search_32_tokens_batched_over_one_by_one"]
    row = Row("search, 32 tokens", "batched / one by one", faster, gpu.RATIO)
    return Measured([*found.rows, row], {})


def _missing(shape: str, found: list[Row]) -> list[Row]:
    """The table's rows that nothing was measured for; a small shape has a table of its own."""
    if shape in ON_CPU:
        return []
    known = {(row.name, row.variant) for row in found}
    missing = [goal for goal in GOALS if (goal.name, goal.variant) not in known]
    return [Row(goal.name, goal.variant, None, goal.unit) for goal in missing]


def _line(row: Row, table: Sequence[Goal]) -> str:
    goals = [goal for goal in table if (goal.name, goal.variant) == (row.name, row.variant)]
    value = NOT_MEASURED if row.value is None else f"{row.value:.4g}"
    line = f"{f'{row.name}: {row.variant}':68} {value:>12} {row.unit:8}"
    for goal in goals:
        line += f" {goal.least!s:7} aim {goal.aim!s:7}"
        if row.value is not None:
            line += " pass" if goal.least.reached(row.value) else " BELOW"
    return line.rstrip()
