"""What `bench` measures, part after part: the figures of this machine on one model.

A generator of what it is doing: lines, how far a model is loaded, and what each part gave as soon
as it is there. What needs a peak of memory or a start of its own runs in a child process first,
before this one has loaded anything (on Linux a child inherits its parent's peak).
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
from t2local.bench import decoding, dispatching, exactness, habits, speed, votes
from t2local.bench.decoding import rounded_decoding
from t2local.bench.speed import (
    ANSWER_TOKENS,
    POPULATION,
    SHOTS,
    first_pass,
    opened,
    preview,
    search_generation,
    start_seconds,
)
from t2local.bench.table import Measured, Part, Row, in_turn, random_z
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
from t2local.models.load.loader import LoadedModel, basis_for, load_model, local_path
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
Measuring = Generator[str | Progress | EngineStatus | Measured, None, Result]


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
    shots: int  # that each of its candidates answers
    table_rows: int  # of a file that is read
    kinds: int  # of task, each a new expert's
    questions: int  # of each kind that dispatchers are asked
    habits: int  # each trained for five minutes


FULL = Effort(
    20, 1000, 7, 48, ANSWER_TOKENS, 16, 128, 3, "all", POPULATION, SHOTS, 50_000, 8, 60, 4
)
QUICK = Effort(2, 4, 2, 4, 8, 2, 64, 1, r"\.0\.mlp", 2, 2, 2_000, 1, 4, 0)


def measuring(opening: Opening, effort: Effort, only: str = "") -> Measuring[None]:
    """First the status of the opened model, then all parts, each `Measured` as it comes.

    `only`: those with this in their names. Raises `T2LocalError` where there are none, or the model
    cannot be loaded.
    """
    parts: dict[str, Part] = {
        "a training step": lambda: _training_step(opening, effort),
        "a second start": lambda: _second_start(opening),
        "the branch": lambda: _svf(opening, effort),
        "decoding from the file's own bits": lambda: _compiled(opening, effort),
        "what a person waits for": lambda: _engine(opening, effort),
        "habits learnt from edits": lambda: _habits(opening, effort),
        "voters that are simulated": votes.simulated,
        "the start of a program": lambda: speed.program_start(4 * effort.rounds),
        "the reading of tables": lambda: speed.reading(effort.rounds, effort.table_rows),
    }
    chosen = {name: part for name, part in parts.items() if only in name}
    if not chosen:
        raise T2LocalError(f"No part is called '{only}'; there are: {', '.join(parts)}.")
    yield "opening the model"
    yield _in_child(opened, *opening)
    yield from in_turn(chosen)


def _training_step(opening: Opening, effort: Effort) -> Measuring[None]:
    size = (effort.sequences, effort.sequence_tokens)
    usual = TrainConfig.rows_per_forward
    yield f"measuring a training step of {size[0]} × {size[1]}"
    own: StepCost = _in_child(step_cost, *opening, *size, usual, effort.steps)
    yield _of_step(own, "")
    yield "measuring it in one forward"
    yield _of_step(_in_child(step_cost, *opening, *size, size[0], 1), ", in one forward")
    parts: dict[str, Part] = {}
    if own.quantization == GGUF:
        parts["a training step of exact answers and gradients"] = lambda: _exact_step(
            opening, effort, own
        )
    parts["the same step by TRL with PEFT LoRA"] = lambda: _peer_step(opening, effort, own)
    yield from in_turn(parts)


def _of_step(cost: StepCost, suffix: str) -> Measured:
    """`suffix`: after each variant's name; the step as it usually runs has none."""
    name = "training step"
    rows = [
        Row(name, f"peak memory{suffix}", cost.peak_memory_bytes / GIB, "GiB"),
        Row(name, f"speed{suffix}", cost.tokens / cost.wall_s, "tokens/s"),
    ]
    rows += [
        Row(name, f"share of {stage}{suffix}", seconds / cost.total_s, "of the time")
        for stage, seconds in cost.seconds.items()
    ]
    if suffix:
        return Measured(rows, {})
    rows.append(Row(name, "whole turn of the loop", cost.wall_s, "s"))
    rows.append(Row(name, "sent by each of several processes", cost.sent_bytes, "bytes"))
    return Measured(rows, {"train_overhead": cost.overhead})


def _exact_step(opening: Opening, effort: Effort, own: StepCost) -> Measured:
    size = (effort.sequences, effort.sequence_tokens, TrainConfig.rows_per_forward, effort.steps)
    exact = _in_child(step_cost, *opening, *size, EXACT)
    rows = [Row("training step", "speed, exact", exact.tokens / exact.wall_s, "tokens/s")]
    return Measured(rows, {"train_step_over_exact": own.wall_s / exact.wall_s})


def _peer_step(opening: Opening, effort: Effort, own: StepCost) -> Measured:
    """Of floats, a GGUF's numbers too. Raises `T2LocalError` where there is no peer."""
    if problem := peer_problem(own.quantization):
        raise T2LocalError(problem)
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


def _second_start(opening: Opening) -> Measured:
    """The model and its bases are on the disk by now: it was opened before."""
    started = time.perf_counter()
    inside = _in_child(start_seconds, *opening)
    rows = [
        Row("second start", "process to ready model", time.perf_counter() - started, "s"),
        Row("second start", "load and cached attach", inside, "s"),
    ]
    return Measured(rows, {})


def _svf(opening: Opening, effort: Effort) -> Measuring[None]:
    """Exactness and speed of the branch; the model is gone again afterwards."""
    source, quantize, basis = opening
    loaded = yield from load_model(source, quantize)
    rebuild = loaded.quantization == "none"
    ids = _batch(loaded, 2, 32)
    untouched, base = speed.twin(loaded.model), exactness.logits_of(loaded.model, ids)
    yield "measuring the decomposition"
    decomposed, svf = speed.decomposition(loaded.model, basis)
    yield decomposed
    prompt = render_chat(loaded.tokenizer, [{"role": "user", "content": TEXT}])
    tokens, rounds = effort.decode_tokens, effort.rounds
    yield from in_turn(
        {
            "exactness": lambda: _exactness(loaded, svf, base, ids, effort),
            "z = 1 in 4 bits": lambda: _nf4_identity(source, basis, effort, rebuild),
            "rounded bases": lambda: _rounded_bases(svf, effort),
            "changes of z": lambda: speed.change_of_z(svf, rounds, rebuild),
            "a z a row": lambda: speed.rows_of_z(svf, _batch(loaded, 8, 32), rounds),
            "decoding": lambda: speed.decoding(loaded, untouched, svf, prompt, tokens, rebuild),
            "decoding from 8-bit weights": lambda: _in_8_bits(
                loaded, untouched, svf, prompt, effort
            ),
            "how long a chat waits while a run trains": lambda: _chat_wait(loaded, svf, effort),
            "a generation of a mixture search": lambda: search_generation(
                loaded, svf, rounds // 2, effort.population, effort.shots
            ),
        }
    )


def _in_8_bits(
    loaded: LoadedModel,
    untouched: PreTrainedModel,
    svf: SVFModel,
    prompt: list[int],
    effort: Effort,
) -> Measured:
    """Answers from 8-bit copies of float weights, beside `generate`. Raises `T2LocalError`."""
    if problem := rounding_problem(loaded) or compiling_problem():
        raise T2LocalError(problem)
    skills = (f.expert for f in ExpertStore(loaded.slug).files() if f.expert)
    z = next((e.z for e in skills if e.kind == SKILL), None) or random_z(svf, seed=0)
    tokens, rounds = effort.decode_tokens, effort.rounds
    return rounded_decoding(loaded, untouched, svf, z, prompt, tokens, rounds)


def _compiled(opening: Opening, effort: Effort) -> Measuring[None]:
    """A GGUF's model by compiled steps, beside llama.cpp on the same file where it is installed."""
    source, quantize, _ = opening
    loaded = yield from load_model(source, quantize)
    if loaded.quantization != GGUF:
        return
    loaded, svf = yield from adapting(loaded, "all", INT8)
    z = random_z(svf, seed=0)
    prompt = render_chat(loaded.tokenizer, [{"role": "user", "content": TEXT}])
    if problem := decoding.llama_cpp_problem():
        yield problem
    entry = parts.one_file(source)
    gguf = parts.place_of(entry.file) if entry else local_path(source)
    file = None if problem else gguf
    tokens, rounds = effort.decode_tokens, effort.rounds
    yield decoding.compiled_decoding(loaded, svf, z, prompt, tokens, rounds, file)
    asked = {"repeats its prompt": f"Say this again, word by word: {TEXT}", "does not": TOLD}
    prompts = {
        name: render_chat(loaded.tokenizer, [{"role": "user", "content": text}])
        for name, text in asked.items()
    }
    yield decoding.guessed_decoding(loaded, prompts, tokens, rounds)
    words = loaded.tokenizer.encode(TEXT)[:tokens]
    exact = yield from load_model(source, "none")
    yield decoding.compiled_errors(loaded, svf, z, words, exact.model)


def _chat_wait(loaded: LoadedModel, svf: SVFModel, effort: Effort) -> Measured:
    waits = waits_while_training(loaded, svf, rounds=3 * effort.rounds)
    name, longest = "chat while a run trains", max(waits.waits_s)
    rows = [
        Row(name, "longest wait", longest, "s"),
        Row(name, "a micro-batch", waits.micro_batch_s, "s"),
    ]
    return Measured(rows, {"chat_wait_over_micro_batch": longest / waits.micro_batch_s})


def _exactness(
    loaded: LoadedModel, svf: SVFModel, base: torch.Tensor, ids: torch.Tensor, effort: Effort
) -> Measured:
    """`base`: logits of the untouched model on `ids` `[rows, tokens]`."""
    kind = loaded.quantization if loaded.quantization != "none" else "float"
    small = max(svf.ranks.values()) <= EXACT_RANK
    names = sampled(svf.matrix_names, effort.exact_matrices if small else effort.matrices // 4)
    rows = [
        Row("z = 1", kind, exactness.identity_difference(svf, base, ids), "logit diff"),
        Row("branch", "against float64", exactness.branch_error(svf, names), "relative"),
    ]
    batch = exactness.batch_difference(svf, ids)
    rows.append(Row("batch of different z", "against one at a time", batch, "logit diff"))
    return Measured(rows, {})


def _rounded_bases(svf: SVFModel, effort: Effort) -> Measured:
    if problem := nf4_problem():
        raise T2LocalError(f"no NF4 here ({problem})")
    chosen = sampled(svf.matrix_names, effort.matrices)
    return Measured(exactness.rounding_rows(exactness.nf4_matrices(svf, chosen)), {})


def _nf4_identity(source: str, basis: str, effort: Effort, is_float: bool) -> Measuring[None]:
    """z = 1 on the same model in 4 bits, where this machine can run it."""
    if not is_float or nf4_problem():
        return
    loaded = yield from load_model(source, NF4)
    ids = _batch(loaded, 2, 8)
    base = exactness.logits_of(loaded.model, ids)
    folder = paths.basis_dir() / loaded.slug
    svf = yield from attaching(loaded.model, effort.nf4_targets, basis, folder)
    row = Row("z = 1", NF4, exactness.identity_difference(svf, base, ids), "logit diff")
    yield Measured([row], {})


def _engine(opening: Opening, effort: Effort) -> Measuring[None]:
    engine = Engine(*opening, precision="exact")
    yield from engine.models.loading()
    if not any(info.usable and info.kind == "skill" for info in engine.experts()):
        yield "no experts for this model: next-token bars and pass 1 are left out"
        return
    yield preview(engine, effort.rounds)
    yield first_pass(engine, max(1, effort.rounds // 2), effort.answer_tokens)
    workshop = engine.models.ready().workshop
    if workshop.available.prints is not None:
        yield "measuring who is given what by similarity"
        yield dispatching.first_tokens(workshop, effort.rounds)
        yield dispatching.new_experts(workshop, effort.kinds)
        if workshop.available.classifier:
            yield dispatching.against_the_classifier(workshop, effort.questions)


def _habits(opening: Opening, effort: Effort) -> Measuring[None]:
    source, quantize, basis = opening
    loaded = yield from load_model(source, quantize)
    loaded, svf = yield from adapting(loaded, "all", basis_for(loaded, basis, "all"))
    for habit in habits.HABITS[: effort.habits]:
        yield from habits.learnt(loaded, svf, habit)


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
