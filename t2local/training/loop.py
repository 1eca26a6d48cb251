"""The training loop: rollout, rewards, advantages, loss, step, report, from top to bottom.

AdamW on one flat vector (paper, section 3.1: `z` by SVF and policy gradient), gradient norm
clipped, the best checkpoint by validation kept (Table 6). Departures: the trainable number is `z`
itself, started at 1, not the reference repository's logit; the nuclear norm is not rescaled, so
z = 1 is the base model exactly; no weight decay, which would pull z to 0 and not to the base model;
sampled prompts that teach nothing are drawn again, and those that teach come more often (below).
"""

import functools
import random
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields, replace

import torch

from t2local.adapt.answering import are_preferences
from t2local.models.decode.out_of_memory import out_of_memory
from t2local.models.fit.memory import held_bytes, peak_memory_bytes
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import SVFModel
from t2local.tasks.rows import Example
from t2local.training.config import (
    BY_PASS_RATE,
    MOST_WEIGHT,
    POLICY_GRADIENT,
    Method,
    TrainConfig,
    change_by_layer,
    gradient_holding,
    method_for,
    overall_change,
    sampler_for,
)
from t2local.training.dry_run import dry_run
from t2local.training.policies import policy_for
from t2local.training.preferences import Reference
from t2local.training.processes import Processes
from t2local.training.reports import (
    GAP_LIMIT,
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
from t2local.training.rollouts import Rewards, Rollout, sampling_seed
from t2local.training.step_memory import (
    Clock,
    StepWork,
    gradient_checkpointing,
    wants_checkpointing,
    with_fewer_rows,
)
from t2local.training.validation import Scored, said_to, score_greedy

GAP_WORDS = (
    "The quick sampler's answers are {:.2f} nats a token off the model's own on average: they are "
    "weighted for it, up to {:g}, and some of that is lost; choose exact rollouts to be safe."
)
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
    start: torch.Tensor | None = None,
    reference: Reference | None = None,
) -> Generator[Event, None, TrainOutcome]:
    """Train by one method; yields a `DryRun`, then the other events as they come.

    `start`: the numbers to begin with, an earlier expert's; None: the base model's. `reference`:
    what is known of the base model's likelihoods already.

    Seeded: the same inputs give the same events on one machine, also when a run is cut off and
    goes on from the `state` of a `Checkpoint` (the dry run is not repeated then). A cancelled run
    keeps its best checkpoint. Raises `T2LocalError` when there is nothing to learn from, or not
    enough memory for a single row.
    """
    method, processes = method or method_for(loaded, svf, config), processes or Processes()
    reference = reference or Reference(loaded, svf)
    policy_of = functools.partial(policy_for, loaded, svf, examples, reward, reference=reference)
    device = next(iter(svf.singular_values.values())).device
    checkpointing = wants_checkpointing(loaded, examples, config)

    def score(flat: torch.Tensor) -> Scored:
        return score_greedy(
            loaded, method.holding(flat), validation, reward, config.max_new_tokens, processes,
            reference,
        )  # fmt: skip

    def said(flat: torch.Tensor, scored: Scored | None) -> Sequence[str]:
        rows, hold = validation[:ANSWERS_SHOWN], method.holding(flat)
        if scored is not None and not are_preferences(rows):
            return scored.answers[:ANSWERS_SHOWN]
        return said_to(loaded, hold, rows, reward, config.max_new_tokens)

    if state is None:
        first = method.start() if start is None else start
        if config.objective == POLICY_GRADIENT:
            yield dry_run(policy_of(config), examples, config.seed, method.holding(first))
        state = TrainState.start(first.to(device), config.rows_per_forward)
        scored = score(state.flat)
        base = said(method.start().to(device), scored if start is None else None)
        state = replace(state, base_answers=tuple(base))
        state, *events = _validated(state, scored, validation, said(state.flat, scored))
        yield from events  # what training starts from is the first candidate
    flat = state.flat.to(device, copy=True).requires_grad_()
    optimiser = torch.optim.AdamW([flat], lr=config.learning_rate, weight_decay=0.0)
    _restore(optimiser, flat, state)

    def gradient(
        batch: Sequence[int], spare: Sequence[int], step: int, rows_per_forward: int
    ) -> tuple[BatchStatistics, list[tuple[int, float]], int]:
        """`−∂J` of the batch in `flat.grad`: each process does its share of the prompts.

        Gives the statistics of all, each drawn example's pass rate, and the bytes that this process
        took for its share. A function of its own so that a step for which memory runs out leaves no
        tensor behind.
        """
        flat.grad, before = torch.zeros_like(flat), held_bytes(loaded.device)
        clock, statistics = Clock(lambda: held_bytes(loaded.device)), None
        share = processes.share(batch)
        with clock("forward"):
            hold = method.holding(flat)
        work = StepWork(
            step, gradient_holding(loaded, config, hold), clock, share, len(batch),
            sampler_for(loaded, config, hold),
        )  # fmt: skip
        policy = policy_of(replace(config, rows_per_forward=rows_per_forward))

        def draw(own: Sequence[int], work: StepWork, drawing: int = 0) -> Drawn:
            # Text is sampled: REINFORCE. Choices are all listed, and their loss is minus the exact
            # expected reward. Imitated answers are given, with reward 1.
            prompts = [examples[i] for i in own]
            rollout = policy.rollout(prompts, sampling_seed(config, step, drawing), work)
            return Drawn.of(own, rollout, policy.rewards(rollout, work))

        drawn = draw([batch[i] for i in share], work)
        if policy.samples:  # where all answers earn the same there is nothing to learn
            drawn = without_equal_groups(drawn, spare, draw, work, processes)
        work = replace(work, sample=None)  # its folded weights go before activations come
        if share:
            rollout, rewards = drawn.rollout, drawn.rewards  # [B][A], of each prompt's actions
            penalties = policy.penalties(rollout, work)  # λ KL, [B, A], or in the loss
            advantages = policy.advantages(rewards, penalties)  # [B][A]
            terms = []
            with gradient_checkpointing(loaded.model, checkpointing):  # which has no KV cache
                for loss, part in policy.losses(rollout, advantages, work):  # a slice each
                    work.backward(loss)
                    terms.append(part)
            statistics = drawn.counted(policy.statistics(rollout, rewards, terms, work))
        tried = processes.gather(list(drawn.tried)) if policy.samples else []
        taken_bytes = max(0, clock.most_bytes - before)
        return processes.combine(flat.grad, statistics), tried, taken_bytes

    stopped, samples = "all steps done", policy_of(config).samples
    while state.step < config.steps:
        step = state.step + 1
        batch, others = prompt_order(examples, config, state, samples)
        spare = others[: round(config.redraws * len(batch))]
        while True:
            try:
                gathered, tried, taken_bytes = gradient(batch, spare, step, state.rows_per_forward)
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
        state = _with_rates(state, tried, len(examples))
        if gathered.sampler_gap > GAP_LIMIT and not state.gap_told:
            state = replace(state, gap_told=True)
            yield Notice(step, GAP_WORDS.format(gathered.sampler_gap, MOST_WEIGHT))
        last = step == config.steps or (cancel is not None and cancel.cancelled)
        if step % config.validate_every == 0 or last:
            scored = score(state.flat)
            state, *events = _validated(state, scored, validation, said(state.flat, scored))
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


def _with_rates(state: TrainState, tried: Sequence[tuple[int, float]], examples: int) -> TrainState:
    """`tried`: (place among the examples, pass rate)."""
    if not tried:
        return state
    known = len(state.draws) == examples  # else this is the first step, or the file was changed
    draws = list(state.draws) if known else [0] * examples
    passed = list(state.passed) if known else [0.0] * examples
    for i, rate in tried:
        draws[i] += 1
        passed[i] += rate
    return replace(state, draws=tuple(draws), passed=tuple(passed))


def _validated(
    state: TrainState, scored: Scored, rows: Sequence[Example], said: Sequence[str]
) -> tuple[TrainState, Validation, Answers]:
    result = scored.as_validation(state.step, state.best)
    state = replace(state, validations=(*state.validations, result))
    if result.best:
        state = replace(state, best=result, best_flat=state.flat)
    shown = zip((e.prompt for e in rows), state.base_answers, said, strict=False)
    return state, result, Answers(state.step, tuple(shown))


def _idle_validations(state: TrainState) -> int:
    """Validations since the best one."""
    return sum(1 for v in state.validations if state.best and v.step > state.best.step)


# --- Which prompts a step takes.

MIDDLING = (0.2, 0.8)  # pass rates from which much is learnt
WAIT = 4  # times as long until another prompt comes again
ROUNDS = 2  # of drawing again in a step


def prompt_order(
    examples: Sequence[Example], config: TrainConfig, state: TrainState, samples: bool
) -> tuple[list[int], list[int]]:
    """Places among the examples: the next step's prompts, and those that may replace them.

    By pass rate, where answers are sampled: the prompts of the lowest turn, in an order drawn from
    seed and step. A prompt's turn is how often it was drawn, times 4 where its pass rate so far is
    outside 0.2 to 0.8. So all come once before any comes twice, those that teach come more often
    then, and none waits for ever. In turn: shuffled passes, none of which ends in a short batch.
    """
    n = len(examples)
    size, step = min(config.prompts_per_step, n), state.step
    shuffled = random.Random(f"{config.seed} {step}").sample(range(n), n)
    if samples and config.prompt_order == BY_PASS_RATE:
        order = sorted(shuffled, key=lambda i: _turn(state, i))
        return order[:size], order[size:]
    rng, batches = random.Random(config.seed), n // size
    for _ in range(step // batches + 1):
        order = rng.sample(range(n), n)
    start = step % batches * size
    batch = order[start : start + size]
    return batch, [i for i in shuffled if i not in batch]


def _turn(state: TrainState, i: int) -> int:
    if i >= len(state.draws) or not state.draws[i]:
        return 0
    (low, high), rate = MIDDLING, round(state.passed[i] / state.draws[i], 6)
    return state.draws[i] * (1 if low <= rate <= high else WAIT)


def pass_rate(rewards: Sequence[float | None]) -> float:
    """Share of right answers where rewards are ±1; of partial credit the mean, from 0 to 1."""
    return sum((max(-1.0, min(1.0, r or 0.0)) + 1) / 2 for r in rewards) / len(rewards)


@dataclass(frozen=True)
class Drawn:
    """What a process's share of a step's prompts came to, `rollout` and its `rewards` [B][A].

    `tried`: (place among the examples, pass rate) of all that were drawn; `first`: the rewards of
    those drawn first; `thrown`: tokens of answers that the step does not use.
    """

    rollout: Rollout
    rewards: Rewards
    tried: tuple[tuple[int, float], ...]
    first: Rewards
    thrown: int = 0

    @classmethod
    def of(cls, own: Sequence[int], rollout: Rollout, rewards: Rewards) -> "Drawn":
        """Of the examples at the places `own`."""
        tried = tuple((i, pass_rate(group)) for i, group in zip(own, rewards, strict=True))
        return cls(rollout, rewards, tried, rewards)

    @property
    def equal(self) -> list[int]:
        """Which groups teach nothing, for all their answers earn the same."""
        return [i for i, group in enumerate(self.rewards) if len({r or 0.0 for r in group}) == 1]

    def replaced(self, at: Sequence[int], other: "Drawn") -> "Drawn":
        """The groups at these places given to `other`'s."""
        parts = {f.name: list(getattr(self.rollout, f.name)) for f in fields(Rollout)}
        rewards, thrown = list(self.rewards), self.thrown
        for place, i in zip(at, range(len(at)), strict=True):
            thrown += sum(map(len, self.rollout.token_ids[place]))
            rewards[place] = other.rewards[i]
            for name, part in parts.items():
                if part:
                    part[place] = getattr(other.rollout, name)[i]
        rollout, tried = Rollout(**parts), self.tried + other.tried
        return replace(self, rollout=rollout, rewards=rewards, tried=tried, thrown=thrown)

    def counted(self, statistics: BatchStatistics) -> BatchStatistics:
        """The step's statistics with what was drawn again in them."""
        if len(self.tried) == len(self.first):
            return statistics
        rewards = torch.tensor([[r or 0.0 for r in group] for group in self.first])
        return replace(
            statistics,
            reward_mean=float(rewards.mean()),
            reward_sd=float(rewards.std(correction=0)),
            tokens=statistics.tokens + self.thrown,
            drawn_again=len(self.tried) - len(self.first),
        )


def without_equal_groups(
    drawn: Drawn,
    spare: Sequence[int],
    draw: Callable[[Sequence[int], StepWork, int], Drawn],
    work: StepWork,
    processes: Processes,
) -> Drawn:
    """Groups that teach nothing replaced by other prompts, as far as `spare` reaches, in 2 rounds.

    `draw(own, work, round)`: of the examples at the places `own`. A prompt's place in the batch of
    all processes decides which other prompt it is given and with which random numbers, so the
    result does not depend on how many processes there are.
    """
    for number in range(1, ROUNDS + 1):
        places = sorted(processes.gather([work.places[i] for i in drawn.equal]))
        given = dict(zip(places, spare, strict=False))
        spare = spare[len(given) :]
        at = [i for i, place in enumerate(work.places) if place in given]
        if at:
            own = [work.places[i] for i in at]
            drawn = drawn.replaced(
                at, draw([given[p] for p in own], replace(work, places=own), number)
            )
        if not spare:
            break
    return drawn
