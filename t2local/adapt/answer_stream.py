"""The typed events of one two-pass answer, in the order in which they come.

`Dispatched`, then `Token`s (with a `Steered` wherever the mixture changed), then one `Done`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from t2local.experts.expert import RESERVED
from t2local.svf import Mixture

BASE, OTHER, MANUAL, FEW_SHOT = RESERVED  # `few-shot:NAME`: with the mixture kept under a name
PROMPT, CLASSIFIER = "prompt", "classifier"

ADAPTED_ROW, BASE_ROW = 0, 1


@dataclass(frozen=True)
class Dispatch:
    """What pass 1 decided.

    `probabilities`: label -> p, summing to 1, `OTHER` among them; empty where nothing was asked
    (base, manual) or the model gave NaN. `chosen`: the label that won, else the strategy's name,
    `BASE` or the expert chosen by hand. `mixture.alpha`: what pass 2 mixes; empty means the base
    model answers.
    """

    strategy: str
    probabilities: Mapping[str, float]
    chosen: str
    mixture: Mixture
    seconds: float = 0.0
    note: str = ""  # one sentence when the decision needs a word ("below the threshold of 0.40")


@dataclass(frozen=True)
class Dispatched:
    dispatch: Dispatch
    context_tokens: int  # prompt tokens after the chat template
    cut_tokens: int = 0  # oldest tokens left out because they did not fit


@dataclass(frozen=True)
class Token:
    """`text`: what one more token added to a row's answer ("" while a character is incomplete)."""

    text: str
    row: int = ADAPTED_ROW
    tokens: int = 0  # generated so far in this row


@dataclass(frozen=True)
class Steered:
    """The mixture changed: the next `Token` is the first under `mixture`."""

    mixture: Mixture
    at_token: int
    at_character: int


@dataclass(frozen=True)
class Done:
    """`texts`: one answer a row (adapted, and base beside it when compared)."""

    texts: tuple[str, ...]
    tokens: int
    first_pass_s: float
    second_pass_s: float
    finish: str  # "stop" | "length" | "cancelled"
    context_used: int
    context_length: int
    int8_tokens: int = 0  # of `tokens`, those that came from an 8-bit copy of the weights

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.second_pass_s if self.second_pass_s > 0 else 0.0
