"""The training loop: rollout, reward, loss, step, report, read from top to bottom.

SVF by policy gradient (paper, section 3.1): AdamW on `z` alone, gradient norm clipped, the best
checkpoint by validation kept (Table 6). Departures: the trainable number is `z` itself, started at
1, not the reference repository's logit; the nuclear norm is not rescaled, so z = 1 is the base
model exactly; no weight decay, which would pull z to 0 and not to the base model.
"""

import random
import resource
import sys
from collections.abc import Generator, Sequence

import torch

from t2local.adapt.actions import greedy_answers
from t2local.errors import T2LocalError
from t2local.models.checkpointing import gradient_checkpointing
from t2local.models.load import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import SVFModel, Z
from t2local.tasks.examples import Example
from t2local.training.config import TrainConfig
from t2local.training.policies import policy_for, rewards_of
from t2local.training.reports import DryRun, StepReport, TrainOutcome, Validation

DRY_RUN_PROMPTS = 8

Event = DryRun | StepReport | Validation


def train(
    loaded: LoadedModel,
    svf: SVFModel,
    examples: Sequence[Example],
    validation: Sequence[Example],
    reward: str,
    config: TrainConfig,
    cancel: CancelToken | None = None,
) -> Generator[Event, None, TrainOutcome]:
    """Train one `z`; yields a `DryRun`, then `StepReport`s and `Validation`s.

    Seeded: the same inputs give the same events on one machine. A cancelled run keeps its best
    checkpoint. Raises `T2LocalError` when there is nothing to learn from.
    """
    policy = policy_for(loaded, svf, examples, reward, config)
    yield dry_run(policy, examples, config.seed)

    names = svf.matrix_names
    lengths = [svf.ranks[name] for name in names]
    device = next(iter(svf.singular_values.values())).device
    flat = torch.ones(sum(lengths), device=device, requires_grad=True)
    optimiser = torch.optim.AdamW([flat], lr=config.learning_rate, weight_decay=0.0)

    best_z, best, curve, validations = flat.detach().clone(), None, [], []
    seconds: dict[str, float] = {}
    tokens, stopped, step = 0, "all steps done", 0
    batches = _batches(examples, config)
    for step in range(1, config.steps + 1):
        optimiser.zero_grad()
        z = _views(flat, names, lengths)
        with gradient_checkpointing(loaded.model, config.gradient_checkpointing):
            batch = policy.accumulate(next(batches), z, step)
        norm = torch.nn.utils.clip_grad_norm_([flat], config.clip)
        optimiser.step()

        rms = float((flat.detach() - 1).square().mean().sqrt())
        yield StepReport(step, config.steps, batch, float(norm), rms)
        curve.append(batch.reward_mean)
        tokens += batch.tokens
        for stage, value in batch.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
        if step % config.validate_every == 0 or step == config.steps:
            with svf.using(_views(flat.detach(), names, lengths)):
                result = validate(loaded, validation, reward, config, step, best)
            validations.append(result)
            if result.best:
                best, best_z = result, flat.detach().clone()
            yield result
            if config.patience and step - best.step >= config.patience * config.validate_every:
                stopped = f"no gain in {config.patience} validations"
                break
        if cancel is not None and cancel.cancelled:
            stopped = "cancelled"
            break
    return TrainOutcome(
        z={name: row.clone() for name, row in _views(best_z, names, lengths).items()},
        best_step=best.step if best else 0,
        steps=step,
        curve=curve,
        validations=validations,
        peak_memory_bytes=peak_memory_bytes(),
        seconds=seconds,
        tokens=tokens,
        stopped=stopped,
    )


def dry_run(policy, examples: Sequence[Example], seed: int) -> DryRun:
    """Rewards of the base model on a few prompts. Raises `T2LocalError` if all are equal."""
    chosen = random.Random(seed).sample(list(examples), min(DRY_RUN_PROMPTS, len(examples)))
    groups = policy.samples(chosen)
    flat = [(e.prompt, t, r) for e, g in zip(chosen, groups, strict=True) for t, r in g]
    rewards = {r for _, _, r in flat}
    equal = sum(len({r for _, r in g}) == 1 for g in groups) / len(groups)
    if len(rewards) == 1:
        example = flat[0][1].strip().replace("\n", " ")[:80]
        raise T2LocalError(
            f"Nothing to learn from: all {len(flat)} trial answers of the base model earned "
            f"{rewards.pop():+g} (one was '{example}'); choose a reward with partial credit, "
            "easier examples, or more samples a prompt."
        )
    return DryRun(flat, equal)


def validate(
    loaded: LoadedModel,
    rows: Sequence[Example],
    reward: str,
    config: TrainConfig,
    step: int,
    best: Validation | None,
) -> Validation:
    """Greedy accuracy and mean reward under the `z` in force; best by accuracy, then reward."""
    scored = score_greedy(loaded, rows, reward, config.max_new_tokens)
    accuracy = sum(r >= 1 for r in scored) / len(scored)
    mean = sum(scored) / len(scored)
    better = best is None or (accuracy, mean) > (best.accuracy, best.reward)
    return Validation(step, accuracy, mean, len(scored), better)


def score_greedy(
    loaded: LoadedModel, rows: Sequence[Example], reward: str, max_new_tokens: int
) -> list[float]:
    """The reward of the greedy answer to each row (rows that cannot be scored count as −1)."""
    answers = greedy_answers(loaded, rows, max_new_tokens)
    return [-1.0 if r is None else r for r in rewards_of(reward, rows, answers)]


def _views(flat: torch.Tensor, names: Sequence[str], lengths: Sequence[int]) -> Z:
    return dict(zip(names, flat.split(list(lengths)), strict=True))


def _batches(examples: Sequence[Example], config: TrainConfig):
    """Shuffled passes over the examples, without end; a batch never crosses into a short rest."""
    rng = random.Random(config.seed)
    size = min(config.prompts_per_step, len(examples))
    while True:
        order = rng.sample(range(len(examples)), len(examples))
        for start in range(0, len(order) - size + 1, size):
            yield [examples[i] for i in order[start : start + size]]


def peak_memory_bytes() -> int:
    """The most memory held so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
