"""From a curriculum to an expert with its card: measure, train, measure again, write down.

The held-out rows are answered greedily by the base model and by the trained `z`, on the same
prompts, so the card's interval is one of the paired difference.
"""

import platform
import time
from collections.abc import Generator
from dataclasses import asdict

from t2local.adapt.dispatch import LABELS, classification_prompt
from t2local.experts.expert import CLASSIFIER, SKILL, Expert, HeldOut
from t2local.models.load import LoadedModel
from t2local.progress import CancelToken, Progress
from t2local.svf import SVFModel
from t2local.tasks.curricula import Curriculum, curriculum, with_prompts
from t2local.tasks.intervals import paired_difference
from t2local.training.config import TrainConfig
from t2local.training.loop import Event, score_greedy, train
from t2local.training.reports import TrainOutcome, TrainState
from t2local.training.runs import Plan

SIGMA_CHECKED = 6  # matrices whose largest singular values travel with an expert


def train_expert(
    loaded: LoadedModel,
    svf: SVFModel,
    source: Curriculum,
    name: str,
    reward: str,
    config: TrainConfig,
    description: str = "",
    labels: tuple[str, ...] = (),
    command: str = "",
    cancel: CancelToken | None = None,
    state: TrainState | None = None,
) -> Generator[Event | Progress, None, tuple[Expert, TrainOutcome]]:
    """Train and measure one expert; the events are those of `train` and `Progress`.

    `labels`: those of a classifier expert, empty for a skill. `state`: of a run that goes on.
    Raises `T2LocalError` when there is nothing to learn from.
    """
    started = time.perf_counter()
    # The dry run comes first inside `train`; measuring waits until it has said yes.
    outcome = yield from train(
        loaded, svf, source.train, source.validation, reward, config, cancel, state
    )
    trained_s = time.perf_counter() - started
    scores = {}
    for stage, z in (("base", {}), ("trained", outcome.z)):
        yield Progress(f"Measuring on held-out rows: {stage}", len(scores), 2, "models")
        scores[stage] = score_greedy(loaded, svf, z, source.held_out, reward, config.max_new_tokens)
    right = {stage: [float(r >= 1) for r in rows] for stage, rows in scores.items()}
    n = len(source.held_out)
    _, low, high = paired_difference(right["base"], right["trained"])
    held_out = HeldOut(
        n, sum(right["base"]) / n, sum(right["trained"]) / n, (low, high), source.source
    )
    reward_change = paired_difference(scores["base"], scores["trained"])
    card = {
        "data": source.source,
        "data_sha256": source.sha256,
        "rows": {"train": len(source.train), "validation": len(source.validation)},
        "config": asdict(config),
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "seed": config.seed,
        "train_s": round(trained_s, 1),
        "machine": f"{platform.machine()}, {loaded.device}, {loaded.dtype}",
        "quantization": loaded.quantization,
        "command": command,
        "curve": [round(value, 4) for value in outcome.curve],
        "held_out": held_out.as_dict(),
        "held_out_reward": {
            "base": sum(scores["base"]) / n,
            "trained": sum(scores["trained"]) / n,
            "ci95_difference": list(reward_change[1:]),
        },
    }
    return make_expert(loaded, svf, outcome, name, reward, description, labels, card), outcome


def lessons(plan: Plan) -> tuple[Curriculum, tuple[str, ...]]:
    """A run's examples, and the labels if it trains a classifier. Raises `T2LocalError`."""
    source = curriculum(plan.source, plan.config.seed)
    if not plan.classifier:
        return source, ()
    return with_prompts(source, classification_prompt), LABELS


def make_expert(
    loaded: LoadedModel,
    svf: SVFModel,
    outcome: TrainOutcome,
    name: str,
    reward: str,
    description: str,
    labels: tuple[str, ...],
    card: dict,
) -> Expert:
    """The expert of a finished run, with what identifies the weights it belongs to."""
    step = max(1, len(svf.matrix_names) // SIGMA_CHECKED)
    checked = svf.matrix_names[::step][:SIGMA_CHECKED]
    sigma = svf.singular_values
    return Expert(
        name=name,
        base_model=loaded.name,
        basis_fingerprint=svf.fingerprint(outcome.z),
        z={matrix: row.cpu() for matrix, row in outcome.z.items()},
        description=description,
        reward=reward,
        training=card,
        kind=CLASSIFIER if labels else SKILL,
        labels=labels,
        sigma_check={m: tuple(sigma[m][:3].tolist()) for m in checked},
    )
