"""Settings that follow from a person's examples and reward: what a run uses unless told otherwise.

Pure functions. Knows nothing of models, so tokens are estimated.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from t2local.adapt.answering import CHOICE
from t2local.adapt.dispatch import LABEL_TEMPERATURE
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig

LABEL_WORDS = 2
TEXT_LEARNING_RATE = 4e-3  # twice the paper's: minutes on a laptop allow few steps
TEXT_PROMPTS = 4  # a step of free text: fewer prompts, for each costs a group of samples
CHARACTERS_A_TOKEN, TOKENS_A_WORD = 3, 1.5
JSON_CHARACTERS_A_TOKEN = 1.5  # models spread it over lines
ROOM = 16  # tokens beyond the longest answer, so that too long is seen to be too long
WHOLE_ANSWER = ("json", "json_partial", "exact", "length")  # rewards of all that is said


FITTED = ("temperature", "prompts_per_step", "learning_rate", "max_new_tokens")


def fitting(reward: str, examples: Sequence[Example]) -> dict[str, Any]:
    """Names (of `FITTED`) and values of `TrainConfig` that suit the examples."""
    if reward == CHOICE:
        return {"temperature": choice_temperature(examples)}
    fitted: dict[str, Any] = {"prompts_per_step": TEXT_PROMPTS, "learning_rate": TEXT_LEARNING_RATE}
    if reward in WHOLE_ANSWER:
        longest = max(_tokens(example.answer, reward) for example in examples)
        fitted["max_new_tokens"] = round(longest) + ROOM
    return fitted


def choice_temperature(examples: Sequence[Example]) -> float:
    """Of the policy: choices of a word or two lie so far apart that at 1 nothing is tried out."""
    short = all(len(example.answer.split()) <= LABEL_WORDS for example in examples)
    return LABEL_TEMPERATURE if short else TrainConfig.temperature


def with_fitting(given: Mapping[str, Any], reward: str, examples: Sequence[Example]) -> TrainConfig:
    """The configuration of what a person `given` explicitly, the rest as fits the examples."""
    return TrainConfig(**{**fitting(reward, examples), **given})


def _tokens(answer: str, reward: str) -> float:
    numbers = re.findall(r"\d+", answer)
    if reward == "length" and numbers and not re.search(r"[^\d\s–-]", answer):
        return TOKENS_A_WORD * int(numbers[-1])  # a range of words such as 5-20
    is_json = reward.startswith("json")
    return len(answer) / (JSON_CHARACTERS_A_TOKEN if is_json else CHARACTERS_A_TOKEN)
