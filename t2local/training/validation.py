"""What the current numbers are worth: greedy answers to rows, and a dry run before the first step.

With several processes each answers its share of the rows and all learn all results.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from t2local.adapt.answering import answer_examples
from t2local.errors import T2LocalError
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.tasks.rewards.named import rewards_of
from t2local.tasks.rows import Example
from t2local.training.processes import Processes
from t2local.training.reports import DryRun, Validation

DRY_RUN_PROMPTS = 8


@dataclass(frozen=True)
class Scored:
    """Greedy answers and their rewards, in the order of the rows."""

    answers: Sequence[str]
    rewards: Sequence[float]

    @property
    def right(self) -> list[float]:
        """1.0 where the reward is full, else 0.0."""
        return [float(reward >= 1) for reward in self.rewards]

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.rewards)

    @property
    def mean(self) -> float:
        return sum(self.rewards) / len(self.rewards)

    def as_validation(self, step: int, best: Validation | None) -> Validation:
        """Best by accuracy, then by reward."""
        better = best is None or (self.accuracy, self.mean) > (best.accuracy, best.reward)
        return Validation(step, self.accuracy, self.mean, len(self.rewards), better)


def score_greedy(
    loaded: LoadedModel,
    around: Around,
    rows: Sequence[Example],
    reward: str,
    max_new_tokens: int,
    processes: Processes | None = None,
) -> Scored:
    """Greedy answers under what `around` puts in force.

    Rows that cannot be scored, and those on which the model failed, count −1.
    """
    processes = processes or Processes()

    def score(part: Sequence[Example]) -> list[tuple[str, float]]:
        answers = answer_examples(loaded, part, max_new_tokens, around=around)
        rewards = rewards_of(reward, part, [answer.text for answer in answers])
        return [
            (answer.text, -1.0 if r is None or answer.failed else r)
            for answer, r in zip(answers, rewards, strict=True)
        ]

    answers, rewards = zip(*processes.each(score, rows), strict=True)
    return Scored(answers, rewards)


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
