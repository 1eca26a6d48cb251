"""An expert that was trained to choose answers with one of its labels, as it was measured.

The labels' likelihoods after the chat are scored as in training (`Σ log p / √tokens`), so on a row
of its task it gives the answer that its card's accuracy counts. In a mixture the leading expert
decides, where it outweighs what is left to the base model. Departure from the paper, whose experts
all write.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from t2local.adapt.answering import choice_ids, sound
from t2local.models.decode.scoring import choice_scores
from t2local.models.load.loader import LoadedModel
from t2local.svf import Mixture

MOST_TOKENS = 2048  # of a chat with its labels: one forward, in which every token sees a mask
FEWEST_LABELS, MOST_LABELS = 2, 40
TEMPERATURES = [round(0.05 * 1.1**step, 4) for step in range(64)]  # 0.05 to 20


@dataclass(frozen=True)
class Choice:
    """What an expert chose: `shares`, label -> probability, the likeliest first."""

    expert: str
    shares: Mapping[str, float]

    @property
    def label(self) -> str:
        return next(iter(self.shares))


@dataclass(frozen=True)
class Labels:
    """What an expert chooses among, and the temperature of its policy over them."""

    names: tuple[str, ...]
    temperature: float = 1.0


def common_labels(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The choices that every row of a task offers; () where rows differ, or for too many.

    >>> common_labels([["yes", "no"], ["no", "yes"]])
    ('yes', 'no')
    >>> common_labels([["yes", "no"], ["Paris", "Rome"]])
    ()
    """
    first = tuple(rows[0]) if rows else ()
    same = all(set(row) == set(first) for row in rows)
    fits = FEWEST_LABELS <= len(first) <= MOST_LABELS and len(set(first)) == len(first)
    return first if same and fits else ()


def fitted_temperature(scores: Sequence[torch.Tensor], right: Sequence[int]) -> float:
    """At which softmax(scores / T) says of rows how often they are right: T of the least −log p.

    `scores`: `[K]` a row, as choices are ranked; `right`: the place of each row's label. One row of
    which nothing is known stands beside them, so that few rows, all right, do not make it certain.
    Temperature scaling (Guo and others, arXiv 1706.04599).
    """
    table, places = torch.stack(list(scores)).double(), torch.tensor(right)

    def surprise(temperature: float) -> float:
        log_p = (table / temperature).log_softmax(-1)
        return float(-log_p[range(len(places)), places].sum() - log_p.mean())

    return min(TEMPERATURES, key=surprise)


def leading(mixture: Mixture) -> str:
    """The expert that weighs most, "" where the base model weighs more than it."""
    if mixture.is_base or not mixture.alpha or mixture.by_matrix:
        return ""
    name = max(mixture.alpha, key=mixture.alpha.__getitem__)
    rest = 1.0 - sum(mixture.alpha.values())
    return name if mixture.alpha[name] > 0 and mixture.alpha[name] >= rest else ""


def choose(
    loaded: LoadedModel,
    expert: str,
    labels: Labels,
    prompt: Sequence[int],
    held: AbstractContextManager,
) -> Choice | None:
    """The choice after `prompt` under what `held` puts in force.

    None where the prompt is too long for that, or the model gave NaN: then the expert writes.
    """
    return choose_each(loaded, expert, labels, [prompt], held)[0]


@torch.no_grad()
def choose_each(
    loaded: LoadedModel,
    expert: str,
    labels: Labels,
    prompts: Sequence[Sequence[int]],
    held: AbstractContextManager,
) -> list[Choice | None]:
    """`choose` for several prompts, in one forward."""
    tokens = choice_ids(loaded, labels.names)
    room = _room(loaded) - sum(map(len, tokens)) if all(tokens) else -1
    fit = [place for place, prompt in enumerate(prompts) if len(prompt) <= room]
    found: list[Choice | None] = [None] * len(prompts)
    if fit:
        with held:
            asked = [prompts[place] for place in fit]
            scored = choice_scores(loaded.model, asked, [tokens] * len(fit))
        for place, scores in zip(fit, scored, strict=True):
            found[place] = _ranked(expert, labels, scores)
    return found


def _ranked(expert: str, labels: Labels, scores: torch.Tensor) -> Choice | None:
    if not bool(sound(scores)):
        return None
    shares = (scores / labels.temperature).softmax(dim=0).tolist()
    ranked = sorted(zip(labels.names, shares, strict=True), key=lambda pair: -pair[1])
    return Choice(expert, dict(ranked))


def _room(loaded: LoadedModel) -> int:
    """Tokens of one forward under a mask: all within the attention's window, where there is one."""
    window = getattr(loaded.model.config.get_text_config(), "sliding_window", None)
    return min(MOST_TOKENS, loaded.context_length, window or MOST_TOKENS)
