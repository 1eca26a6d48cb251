"""Experts and their mixture on a small vision-language model, measured on easy-VQA.

The model is LLaVA's architecture around the given language model, with a random, untrained vision
tower (`models.small_llava`), so what can be learnt is what the language model's side can: which
answers a kind of question has, and whatever random features tell it. `shuffled` gives every
held-out question another question's picture: where it scores as well, pictures carried nothing.
One expert learns from questions about shapes, the other from all others; their mixture answers
both. Nothing is chosen by the held-out rows: the last step's z counts, each with α = 1.
"""

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from t2local import paths
from t2local.adapt.mixer import holding
from t2local.errors import T2LocalError
from t2local.models.load.loader import LoadedModel, load_model
from t2local.models.small_llava import Tower, save_small_llava
from t2local.progress import drain
from t2local.provenance import origin
from t2local.statistics import paired_difference, wilson
from t2local.svf import Mixture, SVFModel, Z, attach, compose
from t2local.tasks.benchmarks import data_folder
from t2local.tasks.files import read_examples
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.loop import train
from t2local.training.methods import SVFMethod
from t2local.training.reports import Checkpoint, StepReport
from t2local.training.validation import Scored, score_greedy

SHAPES = ("circle", "rectangle", "triangle")
EXPERTS = ("shapes", "others")
MIXTURE = "shapes + others"


@dataclass(frozen=True)
class PicturePlan:
    """`limit`: held-out rows, drawn by `seed`. `steps`: of each of the two trainings."""

    steps: int = 6
    prompts_per_step: int = 8
    learning_rate: float = 5e-3
    limit: int = 200
    seed: int = 0
    tower: Tower = field(default_factory=Tower)


def prove_pictures(
    text: LoadedModel, plan: PicturePlan, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Build the model around `text`, train two experts, measure them and their mixture.

    `tell` is called with what is known so far after each part. Raises `T2LocalError` without
    easy-VQA in the folder of `T2LOCAL_DATA`.
    """
    learning, held_out = _rows("train", plan), _rows("test", plan)[: plan.limit]
    found: dict[str, Any] = {
        "model": f"LLaVA around {text.name}, {text.dtype}, random vision tower",
        **origin(str(text.device)),
        "plan": asdict(plan),
        "rows": {"train": len(learning), "held_out": len(held_out)},
        "training": {},
        "measured": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        loaded = drain(load_model(str(save_small_llava(text, Path(folder), plan.tower)), "none"))
    svf = attach(loaded.model, cache_folder=paths.basis_dir() / text.slug)
    base = _score(loaded, svf, {}, held_out)
    _note(found, "base", held_out, base, base)
    tell(found)
    experts: dict[str, Z] = {}
    for name in EXPERTS:
        started = time.perf_counter()
        experts[name], curve = _learnt(loaded, svf, _of_kind(learning, name), plan)
        seconds = round(time.perf_counter() - started, 1)
        found["training"][name] = {"reward_curve": curve, "seconds": seconds}
        tell(found)
    z = compose(experts, Mixture(dict.fromkeys(EXPERTS, 1.0)))
    _note(found, MIXTURE, held_out, base, _score(loaded, svf, z, held_out))
    tell(found)
    shuffled = _with_others_pictures(held_out, plan.seed)
    _note(found, f"{MIXTURE}, shuffled", held_out, base, _score(loaded, svf, z, shuffled))
    tell(found)
    for name in EXPERTS:
        _note(found, name, held_out, base, _score(loaded, svf, experts[name], held_out))
        tell(found)
    return found


def _rows(split: str, plan: PicturePlan) -> list[Example]:
    """easy-VQA's rows in a random order, each with all answers that occur as its choices."""
    path = data_folder() / f"easy_vqa.{split}.jsonl"
    if not path.is_file():
        raise T2LocalError(
            f"'{path.name}' is not in {path.parent}; name its folder in T2LOCAL_DATA."
        )
    rows = list(read_examples(path).examples)
    kinds = sorted({row.answer for row in rows})
    random.Random(plan.seed).shuffle(rows)
    return [
        replace(e, columns={**e.columns, "choices": kinds, "label": kinds.index(e.answer)})
        for e in rows
    ]


def _of_kind(rows: Sequence[Example], expert: str) -> list[Example]:
    return [row for row in rows if (row.answer in SHAPES) == (expert == EXPERTS[0])]


def _with_others_pictures(rows: Sequence[Example], seed: int) -> list[Example]:
    pictures = [row.columns["image"] for row in rows]
    random.Random(seed + 1).shuffle(pictures)
    pairs = zip(rows, pictures, strict=True)
    return [replace(row, columns={**row.columns, "image": picture}) for row, picture in pairs]


def _learnt(
    loaded: LoadedModel, svf: SVFModel, rows: Sequence[Example], plan: PicturePlan
) -> tuple[Z, list[float]]:
    """The `z` after the last step, and the mean reward of each step's batch."""
    config = TrainConfig(
        steps=plan.steps,
        prompts_per_step=plan.prompts_per_step,
        learning_rate=plan.learning_rate,
        validate_every=plan.steps,
        checkpoint_every=plan.steps,
        rows_per_forward=plan.prompts_per_step,
        seed=plan.seed,
    )
    method, flat, curve = SVFMethod(loaded, svf), torch.empty(0), []
    # One row validates, since the loop wants some; its verdict is not used.
    for event in train(loaded, svf, rows[1:], rows[:1], "choice", config, method=method):
        match event:
            case StepReport():
                curve.append(round(event.batch.reward_mean, 4))
            case Checkpoint():
                flat = event.state.flat
    return {name: row.clone() for name, row in method.z(flat.detach()).items()}, curve


def _score(loaded: LoadedModel, svf: SVFModel, z: Z, rows: Sequence[Example]) -> Scored:
    return score_greedy(loaded, holding(loaded, svf, z), rows, "choice", max_new_tokens=1)


def _note(
    found: dict[str, Any], name: str, rows: Sequence[Example], base: Scored, scored: Scored
) -> None:
    """Write down accuracy and reward over all rows and by kind, beside the base model's."""
    parts = {"all": list(range(len(rows)))}
    for expert in EXPERTS:
        parts[expert] = [i for i, row in enumerate(rows) if row in _of_kind([row], expert)]
    found["measured"][name] = {
        part: _compared([base.right[i] for i in places], [scored.right[i] for i in places])
        for part, places in parts.items()
        if places
    } | {"mean_reward": round(scored.mean, 4)}


def _compared(base: Sequence[float], right: Sequence[float]) -> dict[str, Any]:
    difference, low, high = paired_difference(base, right)
    n = len(right)
    return {
        "n": n,
        "accuracy": round(sum(right) / n, 4),
        "ci95": [round(v, 4) for v in wilson(int(sum(right)), n)],
        "minus_base": round(difference, 4),
        "ci95_difference": [round(low, 4), round(high, 4)],
    }
