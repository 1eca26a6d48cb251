"""The training loop: rollout, rewards, advantages, loss, step, report, from top to bottom.

AdamW on one flat vector (paper, section 3.1: `z` by SVF and policy gradient), gradient norm
clipped, the best checkpoint by validation kept (Table 6). Departures: the trainable number is `z`
itself, started at 1, not the reference repository's logit; the nuclear norm is not rescaled, so
z = 1 is the base model exactly; no weight decay, which would pull z to 0 and not to the base model.
"""

import random
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from t2local.models.decode.out_of_memory import out_of_memory
from t2local.models.fit.memory import peak_memory_bytes
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import SVFModel
from t2local.tasks.rows import Example
from t2local.training.config import (
    POLICY_GRADIENT,
    Method,
    TrainConfig,
    change_by_layer,
    method_for,
    overall_change,
    sampler_for,
)
from t2local.training.dry_run import dry_run
from t2local.training.policies import policy_for, sampling_seed
from t2local.training.processes import Processes
from t2local.training.reports import (
    Answers,
    BatchStatistics,
    Checkpoint,
    DryRun,
    Notice,
    StepReport,
    TrainOutcome,
    TrainState,
    Validation,
)
from t2local.training.step_memory import (
    Clock,
    StepWork,
    gradient_checkpointing,
    held_bytes,
    wants_checkpointing,
    with_fewer_rows,
)
from t2local.training.validation import Scored, score_greedy

ANSWERS_SHOWN = 3  # validation prompts whose answers are shown beside the base model's

Event = DryRun | StepReport | Validation | Answers | Notice | Checkpoint


def train(
    loaded: LoadedModel,
    svf: SVFModel,
    examples: Sequence[Example],
    validation: Sequence[Example],
    reward: str,
    config: TrainConfig,
    cancel: CancelToken | None = None,
    state: TrainState | None = None,
    method: Method | None = None,
    processes: Processes | None = None,
) -> Generator[Event, None, TrainOutcome]:
    """Train by one method; yields a `DryRun`, then the other events as they come.

    Seeded: the same inputs give the same events on one machine, also when a run is cut off and
    goes on from the `state` of a `Checkpoint` (the dry run is not repeated then). A cancelled run
    keeps its best checkpoint. Raises `T2LocalError` when there is nothing to learn from, or not
    enough memory for a single row.
    """
    method, processes = method or method_for(loaded, svf, config), processes or Processes()
    device = next(iter(svf.singular_values.values())).device
    checkpointing = wants_checkpointing(loaded, examples, config)

    def score(flat: torch.Tensor) -> Scored:
        hold = method.holding(flat)
        return score_greedy(loaded, hold, validation, reward, config.max_new_tokens, processes)

    if state is None:
        if config.objective == POLICY_GRADIENT:
            policy = policy_for(loaded, svf, examples, reward, config)
            yield dry_run(policy, examples, config.seed)
        state = TrainState.start(method.start().to(device), config.rows_per_forward)
        scored = score(state.flat)  # the base model is the first candidate
        state = replace(state, base_answers=tuple(scored.answers[:ANSWERS_SHOWN]))
        state, *events = _validated(state, scored, validation)
        yield from events
    flat = state.flat.to(device, copy=True).requires_grad_()
    optimiser = torch.optim.AdamW([flat], lr=config.learning_rate, weight_decay=0.0)
    _restore(optimiser, flat, state)

    def gradient(
        batch: Sequence[Example], step: int, rows_per_forward: int
    ) -> tuple[BatchStatistics, int]:
        """`−∂J` of the batch in `flat.grad`: each process does its share of the prompts.

        Gives the statistics of all, and the bytes that this process took for its share. A function
        of its own so that a step for which memory runs out leaves no tensor behind.
        """
        flat.grad, before = torch.zeros_like(flat), held_bytes(loaded.device)
        clock, statistics = Clock(lambda: held_bytes(loaded.device)), None
        share = processes.share(batch)
        if share:
            with clock("forward"):
                hold = method.holding(flat)
            prompts = [batch[i] for i in share]
            sampler = sampler_for(loaded, config, hold)
            work = StepWork(step, hold, clock, share, len(batch), sampler)
            policy = policy_for(
                loaded, svf, examples, reward, replace(config, rows_per_forward=rows_per_forward)
            )
            # Text is sampled: REINFORCE. Choices are all listed, and their loss is minus the exact
            # expected reward. Imitated answers are given, with reward 1.
            rollout = policy.rollout(prompts, sampling_seed(config, step), work)
            rewards = policy.rewards(rollout, work)  # [B][A], of each prompt's actions
            penalties = policy.penalties(rollout, work)  # λ KL, [B, A], or in the loss
            advantages = policy.advantages(rewards, penalties)  # [B][A]
            terms = []
            with gradient_checkpointing(loaded.model, checkpointing):  # which has no KV cache
                for loss, part in policy.losses(rollout, advantages, work):  # a slice each
                    work.backward(loss)
                    terms.append(part)
            statistics = policy.statistics(rollout, rewards, terms, work)
        return processes.combine(flat.grad, statistics), max(0, clock.most_bytes - before)

    stopped = "all steps done"
    batches = islice(_batches(examples, config), state.step, None)
    while state.step < config.steps:
        step, batch = state.step + 1, next(batches)
        while True:
            try:
                gathered, taken_bytes = gradient(batch, step, state.rows_per_forward)
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            state, notice = with_fewer_rows(state, step)
            yield notice
        norm = torch.nn.utils.clip_grad_norm_([flat], config.clip)
        optimiser.step()

        change = method.change(flat.detach())
        yield StepReport(
            step, config.steps, gathered, float(norm),
            overall_change(change), change_by_layer(change), taken_bytes,
        )  # fmt: skip
        state = _after(state, step, flat, optimiser, gathered)
        last = step == config.steps or (cancel is not None and cancel.cancelled)
        if step % config.validate_every == 0 or last:
            state, *events = _validated(state, score(state.flat), validation)
            yield from events
        yield Checkpoint(state, due=step % config.checkpoint_every == 0 or last)
        if cancel is not None and cancel.cancelled:
            stopped = "cancelled"
            break
        if config.patience and _idle_validations(state) >= config.patience:
            stopped = f"no gain in {config.patience} validations"
            break
    return TrainOutcome(
        flat=state.best_flat.clone(),
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


def _validated(
    state: TrainState, scored: Scored, rows: Sequence[Example]
) -> tuple[TrainState, Validation, Answers]:
    result = scored.as_validation(state.step, state.best)
    state = replace(state, validations=(*state.validations, result))
    if result.best:
        state = replace(state, best=result, best_flat=state.flat)
    shown = zip((e.prompt for e in rows), state.base_answers, scored.answers, strict=False)
    return state, result, Answers(state.step, tuple(shown))


def _idle_validations(state: TrainState) -> int:
    """Validations since the best one."""
    return sum(1 for v in state.validations if state.best and v.step > state.best.step)


def _batches(examples: Sequence[Example], config: TrainConfig):
    """Shuffled passes over the examples, without end; a batch never crosses into a short rest."""
    rng = random.Random(config.seed)
    size = min(config.prompts_per_step, len(examples))
    while True:
        order = rng.sample(range(len(examples)), len(examples))
        for start in range(0, len(order) - size + 1, size):
            yield [examples[i] for i in order[start : start + size]]
