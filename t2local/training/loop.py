"""The training loop: rollout, reward, loss, step, report, read from top to bottom.

SVF by policy gradient (paper, section 3.1): AdamW on `z` alone, gradient norm clipped, the best
checkpoint by validation kept (Table 6). Departures: the trainable number is `z` itself, started at
1, not the reference repository's logit; the nuclear norm is not rescaled, so z = 1 is the base
model exactly; no weight decay, which would pull z to 0 and not to the base model.
"""

import random
import resource
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from t2local.adapt.actions import greedy_answers
from t2local.adapt.adapter import holding
from t2local.errors import T2LocalError
from t2local.models.checkpointing import gradient_checkpointing
from t2local.models.load import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import SVFModel, Z
from t2local.tasks.examples import Example
from t2local.training.config import POLICY_GRADIENT, TrainConfig
from t2local.training.footprint import wants_checkpointing
from t2local.training.policies import policy_for, rewards_of
from t2local.training.reports import (
    BatchStatistics,
    Checkpoint,
    DryRun,
    StepReport,
    TrainOutcome,
    TrainState,
    Validation,
)

DRY_RUN_PROMPTS = 8

Event = DryRun | StepReport | Validation | Checkpoint


def train(
    loaded: LoadedModel,
    svf: SVFModel,
    examples: Sequence[Example],
    validation: Sequence[Example],
    reward: str,
    config: TrainConfig,
    cancel: CancelToken | None = None,
    state: TrainState | None = None,
) -> Generator[Event, None, TrainOutcome]:
    """Train one `z`; yields a `DryRun`, then `StepReport`s, `Validation`s and `Checkpoint`s.

    Seeded: the same inputs give the same events on one machine, also when a run is cut off and
    goes on from the `state` of a `Checkpoint` (the dry run is not repeated then). A cancelled run
    keeps its best checkpoint. Raises `T2LocalError` when there is nothing to learn from.
    """
    policy = policy_for(loaded, svf, examples, reward, config)
    names, lengths = svf.matrix_names, list(svf.ranks.values())
    device = next(iter(svf.singular_values.values())).device
    if state is None:
        if config.objective == POLICY_GRADIENT:
            yield dry_run(policy, examples, config.seed)
        state = TrainState.start(sum(lengths), device)
        result = validate(loaded, svf, {}, validation, reward, config, 0, None)
        state = _validated(state, result)  # the base model is the first candidate
        yield result
    flat = state.flat.to(device, copy=True).requires_grad_()
    optimiser = torch.optim.AdamW([flat], lr=config.learning_rate, weight_decay=0.0)
    _restore(optimiser, flat, state)
    stopped = "all steps done"
    checkpointing = wants_checkpointing(loaded, examples, config)

    batches = islice(_batches(examples, config), state.step, None)
    for step in range(state.step + 1, config.steps + 1):
        optimiser.zero_grad()
        z = _views(flat, names, lengths)
        with gradient_checkpointing(loaded.model, checkpointing):
            batch = policy.accumulate(next(batches), z, step)
        norm = torch.nn.utils.clip_grad_norm_([flat], config.clip)
        optimiser.step()

        rms = float((flat.detach() - 1).square().mean().sqrt())
        yield StepReport(step, config.steps, batch, float(norm), rms)
        state = _after(state, step, flat, optimiser, batch)
        last = step == config.steps or (cancel is not None and cancel.cancelled)
        if step % config.validate_every == 0 or last:
            current = _views(state.flat, names, lengths)
            result = validate(loaded, svf, current, validation, reward, config, step, state.best)
            state = _validated(state, result)
            yield result
        if step % config.checkpoint_every == 0 or last:
            yield Checkpoint(state)
        if cancel is not None and cancel.cancelled:
            stopped = "cancelled"
            break
        if config.patience and _idle_validations(state) >= config.patience:
            stopped = f"no gain in {config.patience} validations"
            break
    return TrainOutcome(
        z={name: row.clone() for name, row in _views(state.best_flat, names, lengths).items()},
        best_step=state.best.step if state.best else 0,
        steps=state.step,
        curve=state.curve,
        validations=state.validations,
        peak_memory_bytes=peak_memory_bytes(),
        seconds=state.seconds,
        tokens=state.tokens,
        stopped=stopped,
    )


def _restore(optimiser: torch.optim.AdamW, flat: torch.Tensor, state: TrainState) -> None:
    if state.step:
        optimiser.state[flat] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": state.exp_avg.to(flat.device, copy=True),
            "exp_avg_sq": state.exp_avg_sq.to(flat.device, copy=True),
        }


def _after(
    state: TrainState,
    step: int,
    flat: torch.Tensor,
    optimiser: torch.optim.AdamW,
    batch: BatchStatistics,
) -> TrainState:
    moments = optimiser.state[flat]
    seconds = Counter(state.seconds)
    seconds.update(batch.seconds)
    return replace(
        state,
        step=step,
        flat=flat.detach().clone(),
        exp_avg=moments["exp_avg"].clone(),
        exp_avg_sq=moments["exp_avg_sq"].clone(),
        curve=(*state.curve, batch.reward_mean),
        seconds=dict(seconds),
        tokens=state.tokens + batch.tokens,
    )


def _validated(state: TrainState, result: Validation) -> TrainState:
    state = replace(state, validations=(*state.validations, result))
    return replace(state, best=result, best_flat=state.flat) if result.best else state


def _idle_validations(state: TrainState) -> int:
    """Validations since the best one."""
    return sum(1 for v in state.validations if state.best and v.step > state.best.step)


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
    svf: SVFModel,
    z: Z,
    rows: Sequence[Example],
    reward: str,
    config: TrainConfig,
    step: int,
    best: Validation | None,
) -> Validation:
    """Greedy accuracy and mean reward under `z`; best by accuracy, then reward."""
    scored = score_greedy(loaded, svf, z, rows, reward, config.max_new_tokens)
    accuracy = sum(r >= 1 for r in scored) / len(scored)
    mean = sum(scored) / len(scored)
    better = best is None or (accuracy, mean) > (best.accuracy, best.reward)
    return Validation(step, accuracy, mean, len(scored), better)


def score_greedy(
    loaded: LoadedModel,
    svf: SVFModel,
    z: Z,
    rows: Sequence[Example],
    reward: str,
    max_new_tokens: int,
) -> list[float]:
    """The reward of the greedy answer to each row (rows that cannot be scored count as −1)."""
    answers = greedy_answers(loaded, rows, max_new_tokens, around=holding(loaded, svf, z))
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
