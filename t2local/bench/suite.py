"""What `bench` measures, part after part: the figures of this machine on one model.

A generator of what it is doing: lines, and how far a model is loaded. What needs a peak of memory
or a start of its own runs in a child process first, before this one has loaded anything (on Linux a
child inherits its parent's peak).
"""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from transformers import PreTrainedModel

from t2local import paths
from t2local.adapt.applier import adapting
from t2local.bench import decoding, exactness, speed
from t2local.bench.decoding import rounded_decoding
from t2local.bench.speed import (
    ANSWER_TOKENS,
    POPULATION,
    first_pass,
    preview,
    search_generation,
    start_seconds,
)
from t2local.bench.table import Measured, Row, joined, random_z
from t2local.bench.training_step import (
    StepCost,
    peer_problem,
    peer_step_cost,
    step_cost,
    waits_while_training,
)
from t2local.engine.engine import Engine
from t2local.engine.requests import EngineStatus
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore
from t2local.experts.expert import SKILL
from t2local.models.chat_format import render_chat
from t2local.models.decode.compiled_steps import rounding_problem
from t2local.models.groups.linear import compiling_problem
from t2local.models.load import parts
from t2local.models.load.loader import LoadedModel, load_model, local_path
from t2local.models.load.quantized import nf4_problem
from t2local.models.storage import GGUF, INT8, NF4
from t2local.progress import Progress, Result
from t2local.svf import SVFModel, attaching
from t2local.training.config import EXACT, TrainConfig

GIB = 2**30
TEXT = (
    "The quick brown fox jumps over the lazy dog near the quiet river bank while the sun is "
    "setting behind the old mill and the children of the village are walking home from school."
)
TOLD = "Tell me why the sky is blue."
EXACT_RANK = 1024  # above it a float64 SVD takes a minute: some matrices stand for all

Opening = tuple[str, str, str]  # what a model is opened by: source, quantisation, basis
Measuring = Generator[str | Progress, None, Result]


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
    table_rows: int  # of a file that is read


FULL = Effort(20, 1000, 7, 48, ANSWER_TOKENS, 16, 128, 3, "all", POPULATION, 50_000)
QUICK = Effort(2, 4, 2, 4, 8, 2, 64, 1, r"\.0\.mlp", 2, 2_000)


def measuring(opening: Opening, effort: Effort) -> Measuring[tuple[EngineStatus, Measured]]:
    """All parts; returns the status of the model they were measured on, and what they gave.

    Raises `T2LocalError` where the model cannot be loaded.
    """
    step = yield from _training_step(opening, effort)
    start = yield from _second_start(opening)
    branch = yield from _svf(opening, effort)
    compiled = yield from _compiled(opening, effort)
    status, waits = yield from _engine(opening, effort)
    programs = yield from _programs(effort)
    tables = yield from _tables(effort)
    return status, joined([step, start, *branch, compiled, *waits, programs, tables])


def _training_step(opening: Opening, effort: Effort) -> Measuring[Measured]:
    name, rows = "training step", []
    size = (effort.sequences, effort.sequence_tokens)
    usual = TrainConfig.rows_per_forward
    slices = {"": (usual, effort.steps), ", in one forward": (effort.sequences, 1)}
    costs = []
    for suffix, (rows_per_forward, steps) in slices.items():
        yield f"measuring a training step of {size[0]} × {size[1]}{suffix}"
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
    ratios = {"train_overhead": costs[0].overhead}
    if costs[0].quantization == GGUF:
        yield "measuring a training step of exact answers and gradients"
        exact = _in_child(step_cost, *opening, *size, usual, effort.steps, EXACT)
        rows.append(Row(name, "speed, exact", exact.tokens / exact.wall_s, "tokens/s"))
        ratios["train_step_over_exact"] = costs[0].wall_s / exact.wall_s
    own = Measured(rows, ratios)
    peer = yield from _peer_step(opening, effort, costs[0])
    return joined([own, peer])


def _peer_step(opening: Opening, effort: Effort, own: StepCost) -> Measuring[Measured]:
    """The same step by TRL with PEFT LoRA: of floats, a GGUF's numbers too."""
    if problem := peer_problem(own.quantization):
        yield f"a training step by TRL with PEFT LoRA: {problem}"
        return Measured([], {})
    yield "measuring the same step by TRL with PEFT LoRA"
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


def _second_start(opening: Opening) -> Measuring[Measured]:
    """The model and its bases are on the disk by now: the step before has put them there."""
    yield "measuring a second start"
    started = time.perf_counter()
    inside = _in_child(start_seconds, *opening)
    rows = [
        Row("second start", "process to ready model", time.perf_counter() - started, "s"),
        Row("second start", "load and cached attach", inside, "s"),
    ]
    return Measured(rows, {})


def _svf(opening: Opening, effort: Effort) -> Measuring[list[Measured]]:
    """Exactness and speed of the branch; the model is gone again afterwards."""
    source, quantize, basis = opening
    loaded = yield from load_model(source, quantize)
    rebuild = loaded.quantization == "none"
    ids = _batch(loaded, 2, 32)
    untouched, base = speed.twin(loaded.model), exactness.logits_of(loaded.model, ids)
    yield "measuring the decomposition"
    decomposed, svf = speed.decomposition(loaded.model, basis)
    yield "measuring exactness"
    kind = loaded.quantization if loaded.quantization != "none" else "float"
    rows = [Row("z = 1", kind, exactness.identity_difference(svf, base, ids), "logit diff")]
    rows += yield from _nf4_identity(source, basis, effort, rebuild)
    rows += yield from _exactness(svf, effort)
    batch = exactness.batch_difference(svf, ids)
    rows.append(Row("batch of different z", "against one at a time", batch, "logit diff"))
    yield "measuring speed"
    prompt = render_chat(loaded.tokenizer, [{"role": "user", "content": TEXT}])
    parts = [
        Measured(rows, {}),
        decomposed,
        speed.change_of_z(svf, effort.rounds, rebuild),
        speed.rows_of_z(svf, _batch(loaded, 8, 32), effort.rounds),
        speed.decoding(loaded, untouched, svf, prompt, effort.decode_tokens, rebuild),
    ]
    parts.append((yield from _in_8_bits(loaded, untouched, svf, prompt, effort)))
    parts.append((yield from _search(loaded, svf, effort)))
    parts.append((yield from _chat_wait(loaded, svf, effort)))
    return parts


def _in_8_bits(
    loaded: LoadedModel,
    untouched: PreTrainedModel,
    svf: SVFModel,
    prompt: list[int],
    effort: Effort,
) -> Measuring[Measured]:
    """Answers from 8-bit copies of float weights, beside `generate`."""
    if problem := rounding_problem(loaded) or compiling_problem():
        yield f"decoding from 8-bit weights: {problem}"
        return Measured([], {})
    yield "measuring decoding from 8-bit weights"
    skills = (f.expert for f in ExpertStore(loaded.slug).files() if f.expert)
    z = next((e.z for e in skills if e.kind == SKILL), None) or random_z(svf, seed=0)
    tokens, rounds = effort.decode_tokens, effort.rounds
    return rounded_decoding(loaded, untouched, svf, z, prompt, tokens, rounds)


def _compiled(opening: Opening, effort: Effort) -> Measuring[Measured]:
    """A GGUF's model by compiled steps, beside llama.cpp on the same file where it is installed."""
    source, quantize, _ = opening
    yield "measuring decoding from the file's own bits"
    loaded = yield from load_model(source, quantize)
    if loaded.quantization != GGUF:
        return Measured([], {})
    loaded, svf = yield from adapting(loaded, "all", INT8)
    z = random_z(svf, seed=0)
    prompt = render_chat(loaded.tokenizer, [{"role": "user", "content": TEXT}])
    if problem := decoding.llama_cpp_problem():
        yield problem
    entry = parts.one_file(source)
    gguf = parts.place_of(entry.file) if entry else local_path(source)
    found = decoding.compiled_decoding(
        loaded, svf, z, prompt, effort.decode_tokens, effort.rounds, None if problem else gguf
    )
    asked = {"repeats its prompt": f"Say this again, word by word: {TEXT}", "does not": TOLD}
    prompts = {
        name: render_chat(loaded.tokenizer, [{"role": "user", "content": text}])
        for name, text in asked.items()
    }
    guessed = decoding.guessed_decoding(loaded, prompts, effort.decode_tokens, effort.rounds)
    words = loaded.tokenizer.encode(TEXT)[: effort.decode_tokens]
    exact = yield from load_model(source, "none")
    errors = decoding.compiled_errors(loaded, svf, z, words, exact.model)
    return joined([found, guessed, errors])


def _search(loaded: LoadedModel, svf: SVFModel, effort: Effort) -> Measuring[Measured]:
    yield "measuring a generation of a mixture search"
    return search_generation(loaded, svf, effort.rounds // 2, effort.population)


def _chat_wait(loaded: LoadedModel, svf: SVFModel, effort: Effort) -> Measuring[Measured]:
    yield "measuring how long a chat waits while a run trains"
    waits = waits_while_training(loaded, svf, rounds=3 * effort.rounds)
    name, longest = "chat while a run trains", max(waits.waits_s)
    rows = [
        Row(name, "longest wait", longest, "s"),
        Row(name, "a micro-batch", waits.micro_batch_s, "s"),
    ]
    return Measured(rows, {"chat_wait_over_micro_batch": longest / waits.micro_batch_s})


def _exactness(svf: SVFModel, effort: Effort) -> Measuring[list[Row]]:
    small = max(svf.ranks.values()) <= EXACT_RANK
    names = sampled(svf.matrix_names, effort.exact_matrices if small else effort.matrices // 4)
    rows = [Row("branch", "against float64", exactness.branch_error(svf, names), "relative")]
    if problem := nf4_problem():
        yield f"no NF4 here ({problem}): the table of rounded bases is left out"
        return rows
    chosen = sampled(svf.matrix_names, effort.matrices)
    return [*rows, *exactness.rounding_rows(exactness.nf4_matrices(svf, chosen))]


def _nf4_identity(source: str, basis: str, effort: Effort, is_float: bool) -> Measuring[list[Row]]:
    """z = 1 on the same model in 4 bits, where this machine can run it."""
    if not is_float or nf4_problem():
        return []
    loaded = yield from load_model(source, NF4)
    ids = _batch(loaded, 2, 8)
    base = exactness.logits_of(loaded.model, ids)
    folder = paths.basis_dir() / loaded.slug
    svf = yield from attaching(loaded.model, effort.nf4_targets, basis, folder)
    return [Row("z = 1", NF4, exactness.identity_difference(svf, base, ids), "logit diff")]


def _engine(opening: Opening, effort: Effort) -> Measuring[tuple[EngineStatus, list[Measured]]]:
    yield "measuring what a person waits for"
    engine = Engine(*opening, precision="exact")
    yield from engine.models.loading()
    if not any(info.usable and info.kind == "skill" for info in engine.experts()):
        yield "no experts for this model: next-token bars and pass 1 are left out"
        return engine.status, []
    rounds = max(1, effort.rounds // 2)
    waits = [preview(engine, effort.rounds), first_pass(engine, rounds, effort.answer_tokens)]
    return engine.status, waits


def _programs(effort: Effort) -> Measuring[Measured]:
    """How long a program takes to start, where programs are run at all."""
    yield "measuring the start of a program"
    try:
        return speed.program_start(4 * effort.rounds)
    except T2LocalError as error:
        yield f"the start of a program: {error}"
        return Measured([], {})


def _tables(effort: Effort) -> Measuring[Measured]:
    """How long a file of examples takes to read."""
    yield "measuring the reading of tables"
    try:
        return speed.reading(effort.rounds, effort.table_rows)
    except T2LocalError as error:
        yield f"the reading of tables: {error}"
        return Measured([], {})


def _in_child(function: Callable, *arguments):
    """What `function` gives in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _batch(loaded: LoadedModel, rows: int, tokens: int) -> torch.Tensor:
    """Token ids `[rows, tokens]` of ordinary text, each row begun at another place."""
    ids = loaded.tokenizer.encode(TEXT * 4, add_special_tokens=False)
    cut = [ids[start : start + tokens] for start in range(rows)]
    return torch.tensor(cut, device=loaded.model.device)


def sampled(names: tuple[str, ...], most: int) -> tuple[str, ...]:
    """At most `most` names, evenly spread; an odd step meets every kind of matrix."""
    step = max(1, -(-len(names) // max(1, most)))
    return names[:: step | 1 if step > 1 else 1]
