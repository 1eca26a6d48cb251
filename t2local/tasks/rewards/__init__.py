"""Rewards: plain functions with TRL's signature, by name in `REWARDS`.

`f(prompts, completions, **columns) -> list[float | None]`, one value a completion: +1 right, −1
wrong, between where partial credit is asked for, `None` where a row cannot be scored. Completions
are strings or lists of chat messages.

A new reward is a function and one `Reward` in the table below: sums, the command line, the page,
what is suggested for a person's rows, how it is tried on them and the room for answers follow from
it.

A person names one, or a weighted sum such as `numeric+0.2*length` (`named`). A sum is divided by
its weights: all parts right is +1, all wrong −1. A row that one part cannot score is scored by
none.
"""

import difflib
import json as json_text
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.rewards.documents import json
from t2local.tasks.rewards.figures import numeric, plain_number
from t2local.tasks.rewards.languages import in_language, in_others, language, one_language
from t2local.tasks.rewards.math_worker import math
from t2local.tasks.rewards.normal import UNSPACED, spelled_number
from t2local.tasks.rewards.programs import TEST_COLUMNS, code, code_partial, runnable_tests
from t2local.tasks.rewards.words import (
    choice,
    contains,
    exact,
    length,
    other_choices,
    own_length,
    regex,
    right_choice,
    tidy,
)  # fmt: skip
from t2local.tasks.rows import Example, as_columns, shown
from t2local.tasks.sandbox import check_allowed

Score = Callable[..., list[float | None]]
Reason = Callable[[Sequence[Example]], str]  # why a reward fits the rows, "" where it does not
Gold = Callable[[Example], str]  # what a right answer to a row says, "" where nobody knows

MOST_CHOICES = 12
ROWS_A_CHOICE = 3  # on average: fewer, and the answers are no kinds that repeat
SHORT_WORDS = 5
MOST_ODD = 0.05  # of the answers, for which the reward suggested for the others is no use
CHARACTERS_A_TOKEN, TOKENS_A_WORD = 3, 1.5
JSON_CHARACTERS_A_TOKEN = 1.5  # models spread it over lines
MOST_TRIED = 10_000  # rows, evenly from first to last: a second, and few faults are rarer
_TERM = re.compile(r"(?:(\d{1,6}(?:\.\d{1,6})?)\s*\*\s*)?([a-z_]+)")


class Sure(IntEnum):
    """What a suggestion goes by; the surest one wins, of equals the first in the table."""

    ANYTHING = 0  # fits whatever no other reward fits
    SHORT = 1
    FORMULA = 2
    KINDS = 3  # few answers that repeat
    FORM = 4  # all answers are numbers, ranges or JSON
    COLUMN = 5  # a column that only this reward reads
    TESTS = 6


@dataclass(frozen=True)
class Reward:
    """A reward as it is called, and what is told of it.

    `explanation`: what earns, for a person. `needs`: columns, one of which every row must have.
    `suggested`: for which rows, and how surely. `answer_tokens`: about how long a right answer is,
    where all that is said counts and more would be wrong; None where thinking aloud is free.
    `runs_programs`: it runs what the model and the rows' tests say (`t2local.tasks.sandbox`).

    How it is tried on a person's rows (`t2local.tasks.uploads.try_reward`): `gold`; `wrong`, wrong
    answers that a row itself lists; `tells_apart`, whether another row's answer must not earn +1;
    `tried`, on how many rows at most, fewer where each takes its time.
    """

    name: str
    score: Score
    explanation: str
    needs: tuple[str, ...] = ()
    suggested: tuple[tuple[Sure, Reason], ...] = ()
    answer_tokens: Callable[[str], float] | None = None
    runs_programs: bool = False
    gold: Gold = operator.attrgetter("answer")
    wrong: Callable[[Example], Sequence[str]] = lambda example: ()
    tells_apart: Callable[[Example], bool] = lambda example: True
    tried: int = MOST_TRIED

    @property
    def __name__(self) -> str:
        """TRL logs a reward under it."""
        return self.name

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        return self.score(prompts, completions, **columns)


def every_row_has(column: str, reason: str) -> Reason:
    """`reason` where no row lacks the column."""
    return lambda rows: reason if all(row.columns.get(column) for row in rows) else ""


def every_answer(fits: Callable[[str], object], reason: str) -> Reason:
    """`reason` where all answers fit, also where a row accepts several."""
    return lambda rows: (
        reason if all(row.answers and all(map(fits, _stripped(row))) for row in rows) else ""
    )


def nearly_every_answer(fits: Callable[[str], object], reason: str) -> Reason:
    """`reason` where all answers fit, or all of many but for a few, which are counted."""

    def why(rows: Sequence[Example]) -> str:
        odd = [row.answer for row in rows if not (row.answers and all(map(fits, _stripped(row))))]
        few = f"All but {len(odd)} of {len(rows)} answers" if odd else "All answers"
        return f"{few} {reason}" if len(odd) <= MOST_ODD * len(rows) else ""

    return why


def some_and_every(
    some: Callable[[str], object], every: Callable[[str], object], reason: str
) -> Reason:
    """`reason` where all answers fit `every` and one of them `some`."""
    all_fit = every_answer(every, reason)
    return lambda rows: (
        all_fit(rows) if any(some(answer) for row in rows for answer in _stripped(row)) else ""
    )


def _stripped(row: Example) -> list[str]:
    return [answer.strip() for answer in row.answers]


def distinct_answers(examples: Sequence[Example]) -> list[str]:
    """The different answers, the commonest first, where they are few and repeat; else empty.

    Those that differ in case or spaces are one, as the reward `choice` sees them. Yes and no are
    kinds however few the rows; rows that accept several answers have none.
    """
    spellings: dict[str, Counter[str]] = {}
    for example in examples:
        answer = example.answer.strip()
        spellings.setdefault(tidy(answer), Counter())[answer] += 1
    most = min(MOST_CHOICES, len(examples) // ROWS_A_CHOICE)
    if all(f"|{answer}|" in _YES_AND_NO for answer in spellings):
        most = MOST_CHOICES
    few = 2 <= len(spellings) <= most and "" not in spellings
    if not few or any(len(example.answers) > 1 for example in examples):
        return []
    kinds = sorted(spellings.values(), key=Counter.total, reverse=True)
    return [kind.most_common(1)[0][0] for kind in kinds]


def _few_kinds(examples: Sequence[Example]) -> str:
    kinds = distinct_answers(examples)
    shown = ", ".join(f"'{kind}'" for kind in kinds[:4]) + (" …" if len(kinds) > 4 else "")
    told = f"There are only {len(kinds)} different answers ({shown}): the model picks one."
    return told if kinds else ""


# --- What an answer looks like.

_YES_AND_NO = (
    "|yes|no|true|false|positive|negative|ja|nein|wahr|falsch|richtig|oui|non|vrai|faux|sí|si|"
    "verdadero|falso|sim|não|verdadeiro|vero|да|нет|evet|hayır|tak|nie|是|否|对|错|不是|不对|"
    "はい|いいえ|예|아니요|نعم|لا|हाँ|नहीं|כן|לא|"
)
_LATEX = re.compile(r"\\[dt]?frac|\\sqrt|\\boxed|\\pi\b|\^|\$[^$]*[^$\d.,\s][^$]*\$|[√π∞±]")
_PLAIN_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{3,}")
_MOST_PLAIN_WORDS = 3  # of a formula, such as its unit; more is prose with a formula in it
_FUNCTIONS = frozenset(("sin", "cos", "tan", "log", "ln", "exp"))
_NO_ALGEBRA = re.compile(r"[^\w\s()\[\]{}+\-−*/=<>≤≥·×|,.°]")
_OPERATOR = re.compile(
    r"[\w)]\s*[=+*<>≤≥×·]\s*[\w(−-]|[a-z)]\s*[-−/]\s*[\d(]|\d\s*[-−/]\s*\d*[a-z(]"
)
_GROUPED = r"(?:\d{1,3}(?:[.,'’ \u00a0\u202f]\d{2,3})+|\d+)"
_AMOUNT = re.compile(
    rf"[+\-−–]?\s?[$€£¥₹]?\s?[+\-−–]?{_GROUPED}(?:[.,]\d+)?\s?(?:[$€£¥₹%°]|[^\W\d_]{{1,12}}[.]?)?"
)
_NAME = re.compile(  # with capitals, as in 12 Monkeys; German writes units so
    r"\d\s+(?!(?:Euros?|Dollars?|Cents?|Celsius|Fahrenheit|Prozent|Grad|Uhr|Stück|Liter|Kilo\w*|\w*[mM]eter"
    r"|\w*[gG]ramm|Sekunden?|Minuten?|Stunden?|Tagen?|Wochen?|Monaten?|Jahren?|Personen|Menschen"
    r"|Million\w*|Milliard\w*|Kinder|Mal)\b)[^\W\d_a-z][a-zäöüß]{2,}"
)
_ZERO_FIRST = re.compile(r"\+?0\d[\d\s/().-]*")
_GROUPS_OF_DIGITS = re.compile(r"\+?[\d(][\d\s/().-]*\d")
_FEWEST_CODE_DIGITS, _FEWEST_TELEPHONE_DIGITS = 5, 8
_MONTH = (
    r"(?:jan|feb|fév|m[aä]r|apr|avr|abr|ma[iy]|jun|juin|jul|juil|aug|aoû|ago|sep|o[ck]t|nov|de[czé]"
    r"|ene|dic)[^\W\d_]*\.?"
)
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ]\d{1,2}:\d\d\S*)?"  # 2024-05-01 12:30
    r"|\d{1,2}([-/.])\d{1,2}\1\s?(?:\d{4}|\d\d)"  # 1.5.2024
    r"|\d{1,2}:\d\d(?::\d\d)?(?:\s?[ap]\.?m\.?)?"  # 12:30 pm
    r"|\d{2,4}[年년]\s?\d{1,2}[月월](?:\s?\d{1,2}[日일])?"
    rf"|\d{{1,2}}(?:st|nd|rd|th|\.)?\s(?:de\s|of\s)?{_MONTH}(?:,?\s(?:de\s)?\d{{4}})?"  # 1 May 2024
    rf"|{_MONTH}\s(?:\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s\d{{4}})?|\d{{4}})",  # May 1, 2024
    re.IGNORECASE,
)
_HASHES = re.compile(r"####\s*(\S[^\n]*)\s*\Z")
_CLOSING = re.compile(r"(?i)(?<!\w)answer(?:\s*(?:is|:|=))+\s*(\S[^\n]*)\s*\Z")
_RANGE = re.compile(r"([1-9]\d*)\s*[-–]\s*([1-9]\d*)")
_MOST_WORDS = 1_000  # a range that ends beyond is of years
_PROGRAM = re.compile(r"^\s*(?:```|~~~|(?:async )?def \w+\(|class \w+)", re.MULTILINE)
_CHARACTERS_A_WORD = 2  # in these scripts


def short(answer: str) -> bool:
    """Whether a completion can be asked to say it: a few words in a line."""
    if "\n" in answer or _PROGRAM.search(answer):
        return False
    spaced, unspaced = UNSPACED.subn(" ", answer)
    return 0 < len(spaced.split()) + unspaced / _CHARACTERS_A_WORD <= SHORT_WORDS


def date(answer: str) -> bool:
    """A date or a time of day."""
    return _DATE.fullmatch(answer) is not None


def digit_code(answer: str) -> bool:
    """A postal code, a telephone number, an ISBN: digits that are no quantity."""
    if _ZERO_FIRST.fullmatch(answer):
        return True
    digits = sum(character.isdigit() for character in answer)
    if answer.startswith("+") and answer[1:].isdecimal():
        return digits >= _FEWEST_TELEPHONE_DIGITS
    grouped = _GROUPS_OF_DIGITS.fullmatch(answer) and digits >= _FEWEST_CODE_DIGITS
    return bool(grouped) and not (amount(answer) or word_range(answer))


def amount(answer: str) -> bool:
    """A number in any country's grouping, with a currency or one word after it; no 2 Kings."""
    if _NAME.search(answer):
        return False
    return plain_number(answer) or (_AMOUNT.fullmatch(answer) is not None and not date(answer))


def stated_number(answer: str) -> bool:
    """GSM8K's `#### 18`, or "The answer is 18." at the end of a worked solution."""
    stated = _HASHES.search(answer) or _CLOSING.search(answer)
    return stated is not None and amount(stated[1].strip(" *$."))


def formula(answer: str) -> bool:
    """LaTeX, or a bare term or equation such as 2x + 1."""
    if _LATEX.search(answer):
        return "\\boxed" in answer or len(_PLAIN_WORD.findall(answer)) <= _MOST_PLAIN_WORDS
    words = re.findall(r"[^\W\d_]+", answer)
    variables = all(len(w) == 1 or w in _FUNCTIONS or (len(w) == 2 and w.islower()) for w in words)
    bare = words and variables and not _NO_ALGEBRA.search(answer) and not date(answer)
    return bool(bare and _OPERATOR.search(answer))


def word_range(answer: str) -> bool:
    """5-20, as a number of words; neither 1914-1918 nor the 3-1 of a match."""
    ends = _RANGE.fullmatch(answer)
    return ends is not None and int(ends[1]) < int(ends[2]) <= _MOST_WORDS


def _json_object(text: str) -> bool:
    try:
        return isinstance(json_text.loads(text), dict)
    except ValueError:
        return False


def _no_words_to_compare(rows: Sequence[Example]) -> str:
    why = "The answers are texts, which cannot be right word for word"
    if all(_PROGRAM.search(row.answer) for row in rows):
        why = "The answers are programs, but no column 'tests' says what they must do"
    return f"{why}; this one asks for answers no longer than yours."


# --- What a right answer says, and what a wrong one.


def _text_tokens(answer: str) -> float:
    return len(answer) / CHARACTERS_A_TOKEN


def _json_tokens(answer: str) -> float:
    return len(answer) / JSON_CHARACTERS_A_TOKEN


def _length_tokens(answer: str) -> float:
    """Of a text, or of as many words as a range such as 5-20 allows."""
    numbers = re.findall(r"\d+", answer)
    if numbers and not re.search(r"[^\d\s–-]", answer):
        return TOKENS_A_WORD * int(numbers[-1])
    return _text_tokens(answer)


REWARDS: dict[str, Reward] = {
    reward.name: reward
    for reward in (
        Reward(
            "exact", exact, "it says the answer and nothing else", answer_tokens=_text_tokens,
            suggested=(
                (Sure.FORM, every_answer(
                    date, "All answers are dates or times: they must be written the same way."
                )),
                (Sure.FORM, some_and_every(
                    digit_code, lambda answer: digit_code(answer) or answer.isdecimal(),
                    "The answers are codes such as postal codes or telephone numbers, "
                    "in which each digit counts.",
                )),
            ),
        ),
        Reward(
            "contains", contains, "the answer stands in what it says",
            suggested=((Sure.SHORT, lambda rows: (
                "The answers are short: they must stand in what it says."
                if all(any(map(short, _stripped(row))) for row in rows) else ""
            )),),
        ),
        Reward(
            "numeric", numeric, "its final number is the answer",
            suggested=(
                (Sure.FORM, nearly_every_answer(
                    amount, "are numbers: the final number must agree."
                )),
                (Sure.FORM, some_and_every(
                    amount, lambda answer: amount(answer) or spelled_number(answer),
                    "All answers are numbers, also in words: the final number must agree.",
                )),
                (Sure.FORM, nearly_every_answer(
                    stated_number, "end in a number: the final number must agree."
                )),
            ),
        ),
        Reward(
            "choice", choice, "one of a few choices is right", needs=("choices", "label"),
            suggested=(
                (Sure.COLUMN, every_row_has(
                    "choices", "Every row lists its choices: one of them is right."
                )),
                (Sure.KINDS, _few_kinds),
            ),
            gold=right_choice, wrong=other_choices,
        ),
        Reward("regex", regex, "a pattern in the answer column matches", gold=lambda example: ""),
        Reward(
            "math", math, "its final value or formula equals the answer",
            suggested=((Sure.FORMULA, some_and_every(
                formula, lambda answer: formula(answer) or plain_number(answer),
                "All answers are formulas: an equal value counts as right.",
            )),),
            tried=50,
        ),
        Reward(
            "code", code, "its program passes the row's tests", needs=TEST_COLUMNS[:1],
            runs_programs=True,
            suggested=((Sure.TESTS, lambda rows: (
                "Every row has tests: an answer is right when they pass."
                if all(map(_is_tested, rows)) else ""
            )),),
            tried=8,
        ),
        Reward(
            "code_partial", code_partial, "as code, with credit on the way", needs=TEST_COLUMNS[:1],
            runs_programs=True, tried=8,
        ),
        Reward(
            "json", json, "JSON with the right fields", answer_tokens=_json_tokens,
            suggested=(
                (Sure.COLUMN, every_row_has(
                    "schema", "Every row has a schema that the answer's JSON must fit."
                )),
                (Sure.FORM, every_answer(
                    _json_object, "All answers are JSON: each field that agrees earns a part."
                )),
            ),
            tells_apart=lambda example: not example.columns.get("schema"),
        ),
        Reward(
            "length", length, "a number of words, such as 5-20", answer_tokens=_length_tokens,
            suggested=(
                (Sure.FORM, every_answer(
                    word_range, "All answers are ranges such as 5-20: a number of words."
                )),
                (Sure.ANYTHING, _no_words_to_compare),
            ),
            gold=own_length, tells_apart=lambda example: False,
        ),
        Reward(
            "language", language, "a language, such as German", gold=in_language,
            wrong=in_others, tells_apart=lambda example: False,
            suggested=((Sure.FORM, one_language),),
        ),
    )
}  # fmt: skip


def named(text: str) -> Score:
    """The reward that `text` names. Raises `T2LocalError` for what is no reward.

    >>> named("exact+contains")(["2 + 2?"], ["It is 4."], answer=["4"])
    [0.0]
    """
    terms = parts_of(text)
    if len(terms) == 1:
        return REWARDS[terms[0][1]]
    return partial(_sum, terms)


def parts_of(text: str) -> list[tuple[float, str]]:
    """(weight, reward) of each part. Raises `T2LocalError`."""
    terms = []
    for part in text.split("+"):
        match = _TERM.fullmatch(part.strip())
        if match is None or float(match[1] or 1) == 0:
            raise T2LocalError(
                f"'{part.strip()}' is no part of a reward; "
                "write names joined by +, with a weight above 0, such as numeric+0.2*length."
            )
        if match[2] not in REWARDS:
            near = difflib.get_close_matches(match[2], REWARDS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose among {', '.join(REWARDS)}."
            raise T2LocalError(f"There is no reward '{match[2]}'; {hint}")
        terms.append((float(match[1] or 1), match[2]))
    return terms


def check_reward(text: str, examples: Sequence[Example]) -> None:
    """Raise `T2LocalError` where `text` is no reward, needs a column that rows do not have, or runs
    programs where none may be run.
    """
    if runs_programs(text):
        check_allowed()
    for _, name in parts_of(text):
        needed = REWARDS[name].needs
        without = [e for e in examples if not any(_has(e, column) for column in needed)]
        if needed and without:
            columns = " or ".join(f"'{column}'" for column in needed)
            raise T2LocalError(
                f"The reward '{name}' needs a column {columns}, which {len(without)} of "
                f"{len(examples)} rows lack; add it, or choose another reward."
            )
        idle = [] if not REWARDS[name].runs_programs else [e for e in examples if not _is_tested(e)]
        if idle:
            raise T2LocalError(
                f"The tests of {len(idle)} of {len(examples)} rows test nothing, the first are of "
                f"'{shown(idle[0].prompt)}'; let each call the program, as assert f(1) == 2 does."
            )


def runs_programs(text: str) -> bool:
    """Whether a part of the reward runs programs. Raises `T2LocalError` for what is no reward."""
    return any(REWARDS[name].runs_programs for _, name in parts_of(text))


def rewards_of(
    text: str, examples: Sequence[Example], completions: Sequence[str]
) -> list[float | None]:
    """The reward of one completion an example."""
    prompts = [example.prompt for example in examples]
    return named(text)(prompts, list(completions), **as_columns(examples))


def _is_tested(example: Example) -> bool:
    return bool(runnable_tests({**example.columns, "answer": example.answer}))


def _has(example: Example, column: str) -> bool:
    names = TEST_COLUMNS if column in TEST_COLUMNS else (column,)
    return any(example.columns.get(name) not in (None, "", []) for name in names)


def _sum(
    terms: Sequence[tuple[float, str]],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    **columns: Any,
) -> list[float | None]:
    scored = [REWARDS[name](prompts, completions, **columns) for _, name in terms]
    total = sum(weight for weight, _ in terms)
    return [
        None
        if None in row
        else sum(weight * value for (weight, _), value in zip(terms, row, strict=True)) / total
        for row in zip(*scored, strict=True)
    ]
