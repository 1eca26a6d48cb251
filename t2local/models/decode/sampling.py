"""From next-token logits to a token: penalty, temperature, top-k, top-p, then one random number.

Pure functions of tensors; the filters are those of transformers, in its order. A token is drawn by
inverting the cumulative distribution at a given uniform number, so that two rows with the same
number and the same distribution take the same token (common random numbers: base beside adapted).
Also here: guesses of the next tokens, which cost time where they are wrong and change nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2local.errors import T2LocalError

LIMITS = {  # lowest and highest value of each setting
    "temperature": (0.0, 10.0),
    "top_p": (0.001, 1.0),
    "top_k": (0, 1_000_000),
    "repetition_penalty": (0.1, 10.0),
    "max_new_tokens": (1, 1_000_000),
    "seed": (0, 2**53),
}
WHOLE = ("top_k", "max_new_tokens", "seed")
PART = 1024  # at most so many tokens are a part of the vocabulary
FAST_TOP = 1024  # candidates looked at first for top-p; all are sorted only if they fall short


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 filter nothing.

    The defaults are for a chat. `repetition_penalty` (CTRL, arXiv 1909.05858, section 4.1; prompt
    and answer count, 1 changes nothing) is 1.1: in six greedy answers of the embedded model up to
    35 % of the four-token groups were repeats at 1.0, at most 12 % at 1.1; at 1.2 no answer ended
    within 200 tokens any more. `seed` None: another answer each time. `exact`: no 8-bit copy of the
    weights serves, where there is one.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.1
    max_new_tokens: int = 512
    seed: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if name == "seed" and value is None:
                continue
            number = isinstance(value, int | float) and low <= value <= high
            if not number or (name in WHOLE and value != int(value)):
                kind = "a whole number" if name in WHOLE else "a number"
                raise T2LocalError(f"{name} is {value!r}; it must be {kind} from {low} to {high}.")

    def generator(self) -> torch.Generator:
        """A generator on the CPU (the same numbers on every device), seeded or fresh."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(int(self.seed))
        return generator


def choose(logits: Tensor, ids: Tensor, sampling: Sampling, uniform: Tensor) -> Tensor:
    """The next token of each row: [B].

    `logits`: [B, V]; `ids`: [B, T], all tokens so far, for the penalty; `uniform`: [B] in [0, 1).
    """
    scores = scores_of(logits, ids, sampling)
    if sampling.temperature == 0:
        return scores.argmax(-1)
    return draw(scores.softmax(-1), uniform)


def choose_and_tell(
    logits: Tensor, ids: Tensor, sampling: Sampling, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """`choose`, and log μ `[B]`: how likely it was to take these tokens; 0 at temperature 0."""
    scores = scores_of(logits, ids, sampling)
    if sampling.temperature == 0:
        return scores.argmax(-1), torch.zeros(len(scores), device=scores.device)
    probabilities = scores.softmax(-1)
    tokens = draw(probabilities, uniform)
    return tokens, probabilities.gather(1, tokens[:, None])[:, 0].log()


def scores_of(logits: Tensor, ids: Tensor, sampling: Sampling) -> Tensor:
    """What a token is drawn by, `[B, V]` float32: its softmax is the distribution of the draw.

    Penalty, temperature, top-k, top-p; at temperature 0 the penalised logits.
    """
    scores = penalise(logits.float(), ids, sampling.repetition_penalty)  # [B, V]
    if sampling.temperature == 0:
        return scores
    if sampling.temperature != 1:
        scores = scores / sampling.temperature
    return keep_top_p(keep_top_k(scores, int(sampling.top_k)), sampling.top_p)


def penalise(scores: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative scores [B, V] of the tokens in `ids` [B, T]."""
    if penalty == 1.0:
        return scores
    # An id beyond the vocabulary is a part of a picture; a row has more than these.
    ids = torch.where(ids < scores.shape[-1], ids, ids[:, -1:])
    seen = scores.gather(1, ids)  # [B, T]
    return scores.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """The `k` highest scores [B, V] of each row, -inf elsewhere; 0 keeps all."""
    if k == 0 or k >= scores.shape[-1]:
        return scores
    lowest = scores.topk(k).values[:, -1:]  # [B, 1]
    return scores.masked_fill(scores < lowest, -torch.inf)


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """The fewest tokens of each row [B, V] whose probability reaches `p`, -inf elsewhere."""
    if p >= 1.0:
        return scores
    probabilities = scores.softmax(-1)
    top = probabilities.topk(min(FAST_TOP, scores.shape[-1])).values  # [B, K], falling
    if (top.sum(-1) < p).any():
        top = probabilities.sort(-1, descending=True).values
    before = top.cumsum(-1) - top  # probability of everything likelier
    needed = (before < p).sum(-1, keepdim=True).clamp(min=1)  # [B, 1]
    lowest = top.gather(-1, needed - 1)
    return scores.masked_fill(probabilities < lowest, -torch.inf)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Invert each row's cumulative distribution [B, V] at `uniform` [B]: tokens [B].

    First among parts of the vocabulary, then in one part: a sum over all of it that is accurate to
    the last token takes longer than the rest of a step.
    """
    rows, vocabulary = probabilities.shape
    width = math.gcd(vocabulary, PART)
    parts = probabilities.view(rows, -1, width)
    cumulative = parts.sum(-1).double().cumsum(-1)  # [B, V / width]
    target = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    part = _first_above(cumulative, target)  # [B, 1]
    every = torch.arange(rows, device=part.device)
    inside = parts[every, part[:, 0]].double().cumsum(-1)  # [B, width]
    until = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, part)
    share = (target - until) / (cumulative.gather(1, part) - until)
    token = _first_above(inside, share.clamp(0, 1) * inside[:, -1:])
    return (part * width + token)[:, 0]


def _first_above(rising: Tensor, target: Tensor) -> Tensor:
    """The first place of each row [B, n] with a number above `target` [B, 1]; at most the last."""
    found = torch.searchsorted(rising, target, right=True)
    return found.clamp(max=rising.shape[-1] - 1)


# --- Prompt-lookup decoding (Saxena 2023; `prompt_lookup_num_tokens` in transformers).
#
# Where the last three tokens stood before, what followed them then is likely to follow again, in
# code above all. A model that reads the guess together with the last token says after each of them
# what it would have said one at a time.

GRAM = 3  # tokens that must have stood before
FEW, MANY = 3, 7  # tokens guessed at once: with the last one they are whole tiles of four rows
SURE, UNSURE = 0.7, 0.3  # share of right guesses: for many; below it they are not worth their time
PATIENCE = 16  # chances that are let go then until another guess is made


class Lookup:
    """Guesses for one sequence that only grows; how many follows from how many were right."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # three tokens -> the place after them
        self._known = 0  # tokens of which the places are noted
        self._right = 0.5  # share of right guesses, of late
        self._waited = 0

    def guess(self, ids: Sequence[int]) -> list[int]:
        """The next tokens of `ids`, most often none."""
        for end in range(max(GRAM, self._known), len(ids)):
            self._after[tuple(ids[end - GRAM : end])] = end
        self._known = len(ids)
        start = self._after.get(tuple(ids[-GRAM:]))
        if start is None:
            return []
        self._waited += 1
        if self._right < UNSURE and self._waited < PATIENCE:
            return []
        self._waited = 0
        return list(ids[start : start + (MANY if self._right > SURE else FEW)])

    def learn(self, guessed: int, right: int) -> None:
        """How many of a guess came true."""
        self._right += 0.3 * (right / guessed - self._right)
