"""Whether an evening's edits teach a habit: 24 answers of the base model, each written over.

The answers are the base model's own, to everyday messages; a rule writes over them as a person with
one habit would, or, for a habit that no rule has, a sentence that was written for each. The rows go
the way that rows from chats go, two whole answers each, trained as the tab Train offers for five
minutes. Measured on fresh messages: how often the edit rose above the base model's odds (what
training is for), and how often a *written* answer has the habit (what a person gets); beside it
what was forgotten elsewhere.
"""

import json
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache

from t2local.adapt.answering import answer_examples
from t2local.adapt.applier import holding
from t2local.bench.table import Measured, Row
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.paths import PROJECT_ROOT
from t2local.progress import drain
from t2local.statistics import wilson
from t2local.svf import SVFModel
from t2local.tasks.datasets import HELD_OUT, everyday_messages, split_rows
from t2local.tasks.rewards.languages import language_of
from t2local.tasks.rewards.words import words_in
from t2local.tasks.rows import WHOLE, Example
from t2local.training.dry_run import dry_run_report, with_fitting
from t2local.training.forecast import lasting
from t2local.training.preferences import Reference
from t2local.training.recipe import Trained, train_expert
from t2local.training.runner import other_tasks
from t2local.training.runs import Plan
from t2local.training.validation import score_greedy

EDITS, FRESH = 24, 40
ANSWER_TOKENS = 64  # of an answer that is written over, and of those that are looked at
SHORT_WORDS = 20
LENGTH = "five minutes"


@dataclass(frozen=True)
class Habit:
    """`edit`: what a person with it makes of a prompt's answer. `has`: whether an answer has it.

    `messages`: those whose edits were written one by one, the last of them held out; () for a rule.
    """

    name: str
    edit: Callable[[str, str], str]
    has: Callable[[str], bool]
    messages: tuple[str, ...] = ()


def first_sentence(text: str) -> str:
    """
    >>> first_sentence("Yes. It is so, mostly.")
    'Yes.'
    """
    found = re.match(r".+?[.!?](?=\s|$)", " ".join(text.split()))
    return found[0] if found else " ".join(text.split())[:80]


def is_object(text: str) -> bool:
    """Whether a text is a JSON object and nothing else."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@cache
def german_edits() -> dict[str, str]:
    """Everyday messages, each with an answer in one German sentence, written for it."""
    lines = (PROJECT_ROOT / "assets" / "german_edits.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in lines.splitlines()]
    return {row["prompt"]: row["wanted"] for row in rows}


GREETING, FAREWELL = "Thank you for asking!", "I hope this helps."
HABITS = (
    Habit(
        "short",
        lambda prompt, text: " ".join(first_sentence(text).split()[:SHORT_WORDS]),
        lambda text: 0 < words_in(text) <= SHORT_WORDS,
    ),
    Habit(
        "polite",
        lambda prompt, text: f"{GREETING} {first_sentence(text)} {FAREWELL}",
        lambda text: text.startswith(GREETING) and text.strip().endswith(FAREWELL),
    ),
    Habit("in JSON", lambda prompt, text: json.dumps({"answer": first_sentence(text)}), is_object),
    Habit(
        "in German",
        lambda prompt, text: german_edits()[prompt],
        lambda text: language_of(text) == "de",
        tuple(german_edits()),
    ),
)


def learnt(loaded: LoadedModel, svf: SVFModel, habit: Habit) -> Generator[str, None, Measured]:
    """Says what it does. Raises `T2LocalError` where nothing can be learnt."""
    yield f"24 edits, {habit.name}: the base model answers"
    by_hand = habit.messages
    taught = edited(loaded, svf, habit, by_hand[:EDITS] or everyday_messages("train"), EDITS)
    fresh = edited(loaded, svf, habit, by_hand[EDITS:] or everyday_messages(HELD_OUT), FRESH)
    others = [message for message in everyday_messages(HELD_OUT) if message not in by_hand]
    asked = lacking(loaded, svf, habit, others) if by_hand else fresh
    began = time.perf_counter()
    trained = yield from _trained(loaded, svf, habit, taught)
    took_s = time.perf_counter() - began
    reference, rows = Reference(loaded, svf), []
    name = f"24 edits, {habit.name}"
    shares = {}
    for who, z in (("base model", {}), ("trained", trained.expert.z)):
        around = holding(loaded, svf, z)
        preferred = score_greedy(loaded, around, fresh, "choice", 1, reference=reference)
        shares[who] = _written(loaded, around, habit, asked)
        rows.append(Row(name, f"edit preferred, {who}", preferred.accuracy, f"of {len(fresh)}"))
        rows.append(Row(name, f"habit in what is written, {who}", shares[who], f"of {len(asked)}"))
    low, _ = wilson(round(preferred.accuracy * len(fresh)), len(fresh))
    rows += [
        Row(name, "edit preferred, 95 % from", low, f"of {len(fresh)}"),
        Row(name, "with dry run and forgetting", took_s, "s"),
        Row(name, "steps", trained.outcome.steps, ""),
    ]
    rows += [
        Row(name, f"elsewhere: {f['task']}", f["trained"] - f["base"], f"share of {f['n']}")
        for f in trained.card["forgetting"]
    ]
    worse = sum(f["ci95_difference"][1] < 0 for f in trained.card["forgetting"])
    rows.append(Row(name, "tasks proven worse", worse, "tasks"))
    key = habit.name.replace(" ", "_")
    ratios = {
        f"habit_{key}_preferred": preferred.accuracy,
        f"habit_{key}_preferred_low_end": low,
        f"habit_{key}_written": shares["trained"],
        f"habit_{key}_train_s": trained.card["train_s"],
    }
    yield Measured(rows, ratios)


def _trained(
    loaded: LoadedModel, svf: SVFModel, habit: Habit, taught: Sequence[Example]
) -> Generator[str, None, Trained]:
    """As the tab Train does it, with its five minutes."""
    source = split_rows(habit.name, taught)
    config, others = with_fitting({}, "choice", taught), other_tasks("", source, loaded.slug)
    tried = dry_run_report(loaded, svf, source, "choice", config, others)
    config = lasting(LENGTH, tried, config, forgetting=False)
    yield f"24 edits, {habit.name}: {config.steps} steps"
    plan = Plan("habit", habit.name, "choice", config)
    return drain(train_expert(loaded, svf, source, plan, others=others))


def edited(
    loaded: LoadedModel, svf: SVFModel, habit: Habit, messages: Sequence[str], most: int
) -> list[Example]:
    """Rows of the first messages whose answers lack the habit: the edit, then what was said."""
    asked = [Example(message, "") for message in messages[: most + most // 2]]
    answers = answer_examples(loaded, asked, ANSWER_TOKENS, around=holding(loaded, svf, {}))
    rows = []
    for row, answer in zip(asked, answers, strict=True):
        said = answer.text.strip()
        if said and not habit.has(said):
            pair = [habit.edit(row.prompt, said), said]
            columns = {"choices": pair, "label": 0, WHOLE: True}
            rows.append(Example(row.prompt, pair[0], columns))
    return rows[:most]


def lacking(
    loaded: LoadedModel, svf: SVFModel, habit: Habit, messages: Sequence[str]
) -> list[Example]:
    """The first messages, in English, whose answers lack the habit."""
    asked = [Example(message, "") for message in messages if language_of(message) == "en"][:FRESH]
    answers = answer_examples(loaded, asked, ANSWER_TOKENS, around=holding(loaded, svf, {}))
    return [row for row, said in zip(asked, answers, strict=True) if not habit.has(said.text)]


def _written(loaded: LoadedModel, around: Around, habit: Habit, rows: Sequence[Example]) -> float:
    asked = [Example(row.prompt, "") for row in rows]
    answers = answer_examples(loaded, asked, ANSWER_TOKENS, around=around)
    return sum(habit.has(answer.text) for answer in answers) / len(answers)
