"""A run's metrics as curves, and what they mean in words.

Pure functions of the events that `Run.metrics` gives. Knows nothing of plots.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WINDOW = 8  # steps that are averaged before anything is said of them
FALL = 0.1  # reward, of a scale from −1 to +1
KL_LIMIT = 1.0  # nats an action: the policy is hardly the base model any more
ENTROPY_SHARE = 0.1  # of what it was at the start
UNMOVED = 0.9  # share of groups with equal rewards


@dataclass(frozen=True)
class Check:
    """A validation: right answers `accuracy` of `n`."""

    step: int
    accuracy: float
    n: int
    best: bool


@dataclass(frozen=True)
class Curves:
    """One entry a step in each list; `checks` and `answers` come every few steps.

    `change`: how far from the base model (SVF: rms of z − 1), `change_by_layer`: at the last step.
    `answers`: (step, rows of (prompt, base, current)). `notices`: (step, sentence).
    """

    steps: Sequence[int] = ()
    reward: Sequence[float] = ()
    spread: Sequence[float] = ()
    kl: Sequence[float] = ()
    entropy: Sequence[float] = ()
    equal_groups: Sequence[float] = ()
    change: Sequence[float] = ()
    tokens_per_s: Sequence[float] = ()
    checks: Sequence[Check] = ()
    change_by_layer: Sequence[float] = ()
    answers: Sequence[tuple[int, Sequence[tuple[str, str, str]]]] = ()
    notices: Sequence[tuple[int, str]] = ()
    memory_bytes: int = 0  # of the step that took most, beside the model; 0 where unknown


def curves(metrics: Iterable[Mapping[str, Any]]) -> Curves:
    """The curves of a run so far."""
    events = list(metrics)
    steps = [e for e in events if e.get("event") == "StepReport" and "change" in e]
    batches = [e["batch"] for e in steps]
    checks = [
        Check(e["step"], e["accuracy"], e["n"], e["best"])
        for e in events
        if e.get("event") == "Validation"
    ]
    return Curves(
        steps=[e["step"] for e in steps],
        reward=[b["reward_mean"] for b in batches],
        spread=[b["reward_sd"] for b in batches],
        kl=[b["kl_policy_from_base"] for b in batches],
        entropy=[b["entropy"] for b in batches],
        equal_groups=[b["equal_groups"] for b in batches],
        change=[e["change"] for e in steps],
        tokens_per_s=[b["tokens"] / max(sum(b["seconds"].values()), 1e-9) for b in batches],
        checks=checks,
        change_by_layer=steps[-1]["change_by_layer"] if steps else (),
        answers=[
            (e["step"], [tuple(row) for row in e["rows"]])
            for e in events
            if e.get("event") == "Answers"
        ],
        notices=[(e["step"], e["text"]) for e in events if e.get("event") == "Notice"],
        memory_bytes=max((e.get("memory_bytes", 0) for e in steps), default=0),
    )


def warnings(run: Curves) -> list[str]:
    """What looks wrong, a sentence each with what to try; empty where all is well."""
    if len(run.steps) < 2 * WINDOW:
        return []
    first = {name: _mean(getattr(run, name)[:WINDOW]) for name in ("reward", "entropy")}
    names = ("reward", "entropy", "kl", "equal_groups")
    last = {name: _mean(getattr(run, name)[-WINDOW:]) for name in names}
    found = []
    if last["reward"] < first["reward"] - FALL:
        found.append(
            f"The reward fell from {first['reward']:+.2f} to {last['reward']:+.2f}: "
            "stop and try a smaller learning rate; the best checkpoint is kept."
        )
    if last["kl"] > KL_LIMIT:
        found.append(
            f"It moves far from the base model (KL {last['kl']:.1f}) and may forget other things: "
            "try a KL coefficient of 0.1 or a smaller learning rate."
        )
    if first["entropy"] > 0 and last["entropy"] < ENTROPY_SHARE * first["entropy"]:
        found.append(
            "It now nearly always says the same (entropy collapsed): more steps will change "
            "little; try a higher temperature or a KL coefficient of 0.1."
        )
    if last["equal_groups"] > UNMOVED:
        found.append(
            "Nearly all answers to a prompt earn the same, so there is little left to learn from: "
            "try harder (or easier) examples, or a reward with partial credit."
        )
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
