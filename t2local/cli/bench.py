"""`bench`: this machine's figures beside the bars they should reach. It reports, never asserts.

What needs a peak of memory or a start of its own runs in a child process first, before this one
has loaded anything (on Linux a child inherits its parent's peak).
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

import torch
from transformers import PreTrainedModel

from t2local import paths
from t2local.bench import exactness, llama_cpp, speed
from t2local.bench.decoding import BASE as PACKED
from t2local.bench.decoding import int8_decoding
from t2local.bench.search import POPULATION, search_generation
from t2local.bench.shape import add_shape_arguments, run_shape
from t2local.bench.speed import ANSWER_TOKENS, Measured, first_pass, preview, start_seconds
from t2local.bench.table import Row, print_table, random_z
from t2local.bench.training_step import StepCost, step_cost, waits_while_training
from t2local.bench.trl import peer_problem, peer_step_cost
from t2local.cli.common import add_model_arguments, log, log_progress
from t2local.engine.engine import Engine
from t2local.engine.requests import EngineStatus
from t2local.experts import ExpertStore
from t2local.experts.expert import SKILL
from t2local.models.chat_format import render_chat
from t2local.models.decode.int8 import why_not
from t2local.models.load import embedded
from t2local.models.load.loader import LoadedModel, load_model
from t2local.models.load.quantized import nf4_problem
from t2local.progress import drain
from t2local.provenance import origin
from t2local.svf import SVFModel, attaching
from t2local.training.config import TrainConfig

GIB = 2**30
TEXT = (
    "The quick brown fox jumps over the lazy dog near the quiet river bank while the sun is "
    "setting behind the old mill and the children of the village are walking home from school."
)
EXACT_RANK = 1024  # above it a float64 SVD takes a minute: some matrices stand for all


@dataclass(frozen=True)
class Effort:
    """How much is repeated: `FULL` for figures, `QUICK` to see that everything runs."""

    matrices: int  # in the table of rounded bases
    exact_matrices: int
    rounds: int
    decode_tokens: int
    answer_tokens: int
    sequences: int
    sequence_tokens: int
    steps: int  # measured after one to warm up
    nf4_targets: str
    population: int  # of a mixture search


FULL = Effort(20, 1000, 7, 48, ANSWER_TOKENS, 16, 128, 3, "all", POPULATION)
QUICK = Effort(2, 4, 2, 4, 8, 2, 64, 1, r"\.0\.mlp", 2)


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("bench", help="measure this machine against the bars")
    parser.add_argument("--quick", action="store_true", help="few repetitions: rough figures")
    add_shape_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Measure, and report DESIGN's `bench --json` object or a table."""
    if arguments.shape:
        return run_shape(arguments, report)
    effort = QUICK if arguments.quick else FULL
    source = arguments.model or paths.default_model()
    opening = (source, arguments.quantize, arguments.basis)
    parts = [_training_step(opening, effort), _second_start(opening), *_svf(opening, effort)]
    status, measured = _engine(opening, effort)
    parts += measured
    rows = [row for part in parts for row in part.rows]
    ratios = {name: value for part in parts for name, value in part.ratios.items()}
    if arguments.json:
        report(
            {
                **origin(_device(status)),
                "model": status.model_name,
                "rows": [asdict(row) for row in rows],
                "ratios": ratios,
            }
        )
        return None
    print(f"{status.model_name}, {status.quantization}, {status.dtype} on {_device(status)}\n")
    return print_table(rows, ratios)


def _training_step(opening: tuple[str, str, str], effort: Effort) -> Measured:
    name, rows = "training step", []
    size = (effort.sequences, effort.sequence_tokens)
    usual = TrainConfig.rows_per_forward
    slices = {"": (usual, effort.steps), ", in one forward": (effort.sequences, 1)}
    costs = []
    for suffix, (rows_per_forward, steps) in slices.items():
        log(f"measuring a training step of {size[0]} × {size[1]}{suffix}")
        cost = _in_child(step_cost, *opening, *size, rows_per_forward, steps)
        costs.append(cost)
        rows.append(Row(name, f"peak memory{suffix}", cost.peak_memory_bytes / GIB, "GiB"))
        rows.append(Row(name, f"speed{suffix}", cost.tokens / cost.wall_s, "tokens/s"))
        rows += [
            Row(name, f"share of {stage}{suffix}", seconds / cost.total_s, "of the time")
            for stage, seconds in cost.seconds.items()
        ]
    rows.append(Row(name, "whole turn of the loop", costs[0].wall_s, "s"))
    rows.append(Row(name, "sent by each of several processes", costs[0].sent_bytes, "bytes"))
    own = Measured(rows, {"train_overhead": costs[0].overhead})
    peer = _peer_step(opening, effort, costs[0])
    return Measured([*own.rows, *peer.rows], {**own.ratios, **peer.ratios})


def _peer_step(opening: tuple[str, str, str], effort: Effort, own: StepCost) -> Measured:
    """The same step by TRL with PEFT LoRA: of float models, where TRL is installed."""
    if problem := peer_problem(own.quantization):
        log(f"a training step by TRL with PEFT LoRA: {problem}")
        return Measured([], {})
    log("measuring the same step by TRL with PEFT LoRA")
    size = (effort.sequences, effort.sequence_tokens, TrainConfig.rows_per_forward, effort.steps)
    peer = _in_child(peer_step_cost, opening[0], *size)
    name = "TRL LoRA step"
    rows = [
        Row(name, "peak memory", peer.peak_memory_bytes / GIB, "GiB"),
        Row(name, "speed", own.tokens / peer.wall_s, "tokens/s"),
        Row(name, "whole turn of the loop", peer.wall_s, "s"),
    ]
    ratios = {
        "train_step_over_trl": own.wall_s / peer.wall_s,
        "train_memory_over_trl": own.peak_memory_bytes / peer.peak_memory_bytes,
    }
    return Measured(rows, ratios)


def _second_start(opening: tuple[str, str, str]) -> Measured:
    """The model and its bases are on the disk by now: the step before has put them there."""
    log("measuring a second start")
    started = time.perf_counter()
    inside = _in_child(start_seconds, *opening)
    rows = [
        Row("second start", "process to ready model", time.perf_counter() - started, "s"),
        Row("second start", "load and cached attach", inside, "s"),
    ]
    return Measured(rows, {})


def _svf(opening: tuple[str, str, str], effort: Effort) -> list[Measured]:
    """Exactness and speed of the branch; the model is gone again afterwards."""
    source, quantize, basis = opening
    loaded = drain(load_model(source, quantize), log_progress)
    rebuild = loaded.quantization == "none"
    ids = _batch(loaded, 2, 32)
    untouched, base = speed.twin(loaded.model), exactness.logits_of(loaded.model, ids)
    log("measuring the decomposition")
    decomposed, svf = speed.decomposition(loaded.model, basis)
    log("measuring exactness")
    kind = loaded.quantization if loaded.quantization != "none" else "float"
    rows = [
        Row("z = 1", kind, exactness.identity_difference(svf, base, ids), "logit diff"),
        *_nf4_identity(source, basis, effort, rebuild),
        *_exactness(svf, effort),
        Row(
            "batch of different z",
            "against one at a time",
            exactness.batch_difference(svf, ids),
            "logit diff",
        ),
    ]
    log("measuring speed")
    prompt = render_chat(loaded.tokenizer, [{"role": "user", "content": TEXT}])
    parts = [
        decomposed,
        speed.change_of_z(svf, effort.rounds, rebuild),
        speed.rows_of_z(svf, _batch(loaded, 8, 32), effort.rounds),
        speed.decoding(loaded, untouched, svf, prompt, effort.decode_tokens, rebuild),
        _packed(loaded, untouched, svf, prompt, effort),
        _search(loaded, svf, effort),
        _chat_wait(loaded, svf, effort),
    ]
    return [Measured(rows, {}), *parts]


def _packed(
    loaded: LoadedModel,
    untouched: PreTrainedModel,
    svf: SVFModel,
    prompt: list[int],
    effort: Effort,
) -> Measured:
    """Answers from 8-bit weights, beside `generate` and, where it is installed, llama.cpp."""
    if problem := why_not(loaded):
        log(f"decoding from packed weights: {problem}")
        return Measured([], {})
    log("measuring decoding from packed weights")
    skills = (f.expert for f in ExpertStore(loaded.slug).files() if f.expert)
    z = next((e.z for e in skills if e.kind == SKILL), None) or random_z(svf, seed=0)
    tokens, rounds = effort.decode_tokens, effort.rounds
    own = int8_decoding(loaded, untouched, svf, z, prompt, tokens, rounds)
    if problem := llama_cpp.problem(loaded.name):
        log(problem)
        return own
    log("measuring llama.cpp")
    with embedded.embedded_gguf() as gguf:
        here = next(row.value for row in own.rows if row.variant == PACKED)
        peer = llama_cpp.llama_cpp(gguf, tokens, here)
    return Measured([*own.rows, *peer.rows], {**own.ratios, **peer.ratios})


def _search(loaded: LoadedModel, svf: SVFModel, effort: Effort) -> Measured:
    log("measuring a generation of a mixture search")
    return search_generation(loaded, svf, effort.rounds // 2, effort.population)


def _chat_wait(loaded: LoadedModel, svf: SVFModel, effort: Effort) -> Measured:
    log("measuring how long a chat waits while a run trains")
    waits = waits_while_training(loaded, svf, rounds=3 * effort.rounds)
    name, longest = "chat while a run trains", max(waits.waits_s)
    rows = [
        Row(name, "longest wait", longest, "s"),
        Row(name, "a micro-batch", waits.micro_batch_s, "s"),
    ]
    return Measured(rows, {"chat_wait_over_micro_batch": longest / waits.micro_batch_s})


def _exactness(svf: SVFModel, effort: Effort) -> list[Row]:
    small = max(svf.ranks.values()) <= EXACT_RANK
    names = _sampled(svf.matrix_names, effort.exact_matrices if small else effort.matrices // 4)
    rows = [Row("branch", "against float64", exactness.branch_error(svf, names), "relative")]
    if problem := nf4_problem():
        log(f"no NF4 here ({problem}): the table of rounded bases is left out")
        return rows
    chosen = _sampled(svf.matrix_names, effort.matrices)
    return [*rows, *exactness.rounding_rows(exactness.nf4_matrices(svf, chosen))]


def _nf4_identity(source: str, basis: str, effort: Effort, is_float: bool) -> list[Row]:
    """z = 1 on the same model in 4 bits, where this machine can run it."""
    if not is_float or nf4_problem():
        return []
    loaded = drain(load_model(source, "nf4"), log_progress)
    ids = _batch(loaded, 2, 8)
    base = exactness.logits_of(loaded.model, ids)
    folder = paths.basis_dir() / loaded.slug
    svf = drain(attaching(loaded.model, effort.nf4_targets, basis, folder), log_progress)
    return [Row("z = 1", "nf4", exactness.identity_difference(svf, base, ids), "logit diff")]


def _engine(opening: tuple[str, str, str], effort: Effort) -> tuple[EngineStatus, list[Measured]]:
    log("measuring what a person waits for")
    engine = Engine(*opening, precision="exact").load(log_progress)
    if not any(info.usable and info.kind == "skill" for info in engine.experts()):
        log("no experts for this model: next-token bars and pass 1 are left out")
        return engine.status, []
    rounds = max(1, effort.rounds // 2)
    waits = [preview(engine, effort.rounds), first_pass(engine, rounds, effort.answer_tokens)]
    return engine.status, waits


def _in_child(function: Callable, *arguments):
    """What `function` gives in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _batch(loaded: LoadedModel, rows: int, tokens: int) -> torch.Tensor:
    """Token ids `[rows, tokens]` of ordinary text, each row begun at another place."""
    ids = loaded.tokenizer.encode(TEXT * 4, add_special_tokens=False)
    cut = [ids[start : start + tokens] for start in range(rows)]
    return torch.tensor(cut, device=loaded.model.device)


def _sampled(names: tuple[str, ...], most: int) -> tuple[str, ...]:
    """At most `most` names, evenly spread; an odd step meets every kind of matrix."""
    step = max(1, -(-len(names) // max(1, most)))
    return names[:: step | 1 if step > 1 else 1]


def _device(status: EngineStatus) -> str:
    if status.device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"
