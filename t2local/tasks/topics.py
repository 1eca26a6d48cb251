"""Examples for the dispatcher: which kind of question a prompt is.

Labels are `math` (GSM8K, SVAMP), `code` (MBPP, and HumanEval held out only), `reasoning` (ARC) and
`other` (the small talk of our own in `assets/`). A pure function of the data folder and a seed.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from t2local.errors import T2LocalError
from t2local.paths import PROJECT_ROOT
from t2local.tasks.benchmarks import load_task
from t2local.tasks.examples import Example

TOPICS = ("math", "code", "reasoning", "other")
SMALL_TALK = PROJECT_ROOT / "assets" / "small_talk.jsonl"
HELD_OUT = "held_out"

_SOURCES = {
    "train": {
        "math": (("gsm8k", "train"), ("svamp", "train")),
        "code": (("mbpp", "train"), ("mbpp", "validation")),
        "reasoning": (("arc_easy", "train"), ("arc_challenge", "train")),
    },
    HELD_OUT: {
        "math": (("gsm8k", "test"), ("svamp", "test")),
        "code": (("mbpp", "test"), ("humaneval", "test")),
        "reasoning": (("arc_easy", "test"), ("arc_challenge", "test")),
    },
}


def topic_labels(
    split: str, per_label: int = 100, seed: int = 0, folder: Path | None = None
) -> list[Example]:
    """Shuffled prompts, `per_label` of each label as evenly over its sources as they allow.

    `split`: "train" or "held_out"; no prompt is in both. `answer` is the label, `choices` are
    `TOPICS`, `label` its index, `source` where the prompt is from. Every second science question
    lists its answers, as people paste them. Fewer where a source is smaller (100 to 140 of small
    talk). Raises `T2LocalError` where the data folder lacks a file.
    """
    assert split in _SOURCES, split
    rng = random.Random(f"{seed}:{split}")
    talk = small_talk(split)
    chosen_talk = rng.sample(talk, min(per_label, len(talk)))
    examples = [_labelled(prompt, "other", "small_talk") for prompt in chosen_talk]
    for topic, sources in _SOURCES[split].items():
        trained_on = _questions(_SOURCES["train"][topic], folder) if split == HELD_OUT else set()
        share = -(-per_label // len(sources))
        rows = [
            _labelled(prompt, topic, task)
            for task, part in sources
            for prompt in _prompts(load_task(task, part, folder), share, trained_on, rng)
        ]
        examples += rows[:per_label]
    rng.shuffle(examples)
    return examples


def small_talk(split: str, path: Path = SMALL_TALK) -> list[str]:
    """The prompts of one split of our own small talk. Raises `T2LocalError` if the file is gone."""
    if not path.is_file():
        raise T2LocalError(f"'{path}' is missing; restore it from the project's assets.")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return [row["prompt"] for row in rows if row["split"] == split]


def _prompts(
    rows: Sequence[Example], count: int, trained_on: set[str], rng: random.Random
) -> list[str]:
    """`count` random prompts that were not trained on (a few are in both splits)."""
    fresh = [row for row in rows if row.prompt not in trained_on]
    picked = rng.sample(fresh, min(count, len(fresh)))
    return [
        with_options(row.prompt, row.columns["choices"])
        if i % 2 and "choices" in row.columns
        else row.prompt
        for i, row in enumerate(picked)
    ]


def _questions(sources: Sequence[tuple[str, str]], folder: Path | None) -> set[str]:
    return {row.prompt for task, part in sources for row in load_task(task, part, folder)}


def with_options(question: str, choices: Sequence[str]) -> str:
    """The question with its answers below, lettered: "A. …"."""
    return "\n".join([question, *(f"{chr(65 + i)}. {text}" for i, text in enumerate(choices))])


def _labelled(prompt: str, topic: str, source: str) -> Example:
    columns = {"choices": list(TOPICS), "label": TOPICS.index(topic), "source": source}
    return Example(prompt, topic, columns)
