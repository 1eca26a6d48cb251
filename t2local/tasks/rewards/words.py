"""Rewards for words: `exact`, `contains`, `regex`, `choice`, `length`.

What counts as the same text is said in `normal`; what is thinking and no answer in
`t2local.thinking`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.rewards.normal import ANSWER, IS, UNSPACED, last_boxed, plain, stands_in, tidy
from t2local.tasks.rows import WHOLE, Example
from t2local.tasks.syntax import literal
from t2local.thinking import bare_answer, split_thinking

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def exact(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """+1 where the completion *is* the answer (or one of several), else −1.

    Case, spaces, emphasis, closing punctuation and how a letter is typed do not count.

    >>> exact(["Capital of France?"], ["**Paris**."], answer=["paris"])
    [1.0]
    """
    return where_right(completions, columns, lambda text, answer: tidy(text) == tidy(answer))


def contains(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 where the answer (or one of several) stands in the completion as whole words, else −1.

    In scripts without spaces between words, any part of the text counts: 北京 in 北京大学.

    >>> contains(["Capital of France?"], ["It is **Paris**, of course."], answer=["Paris"])
    [1.0]
    """
    return where_right(
        completions, columns, lambda text, answer: stands_in(tidy(answer), tidy(text))
    )


def regex(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """+1 where the pattern in `answer` (or one of a list) matches in the completion, else −1.

    Raises `T2LocalError` for an answer that is no regular expression.

    >>> regex(["A date?"], ["On 2024-05-01."], answer=[r"\\d{4}-\\d\\d-\\d\\d"])
    [1.0]
    """

    def right(text: str, answer: str) -> bool:
        try:
            return re.search(answer, text) is not None
        except re.error as error:
            raise T2LocalError(
                f"The answer '{answer}' is no regular expression ({error}); "
                "mend it, or use the reward 'contains'."
            ) from error

    return where_right(completions, columns, right, lists_as_text=False)


def choice(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 where the completion names the right choice, by letter or by its text, else −1.

    Columns: `choices` (texts, or ARC's {"text": […], "label": […]}) and `label` (index), or
    `answer` (letter, label, text or index from 0). Naming several choices counts as none. Where
    the choices are `whole` answers, every letter counts.

    >>> choice(["?"], ["The answer is (B)."], choices=[["a cat", "a dog"]], label=[1])
    [1.0]
    """
    count = len(completions)
    rows = zip(
        completions,
        *(column(columns.get(name), count) for name in ("choices", "label", WHOLE)),
        accepted_answers(columns, count),
        strict=True,
    )
    rewards: list[float | None] = []
    for completion, choices, label, whole, answers in rows:
        texts, labels = _texts_and_labels(choices)
        if whole and isinstance(label, int) and 0 <= label < len(texts):
            same = said(completion).strip() == str(texts[label]).strip()
            rewards.append(1.0 if same else -1.0)
            continue
        right = _right_choices(texts, labels, label, answers)
        if not right:
            rewards.append(None)
            continue
        text = said(completion)
        word_for_word = label in (None, "") and tidy(text) in map(tidy, answers)
        named = named_choice(text, texts, labels)
        rewards.append(1.0 if named in right or word_for_word else -1.0)
    return rewards


# --- Which choice is named.

_STATEMENT = re.compile(
    rf"(?:(?:{ANSWER}|\b(?:option|choice|opción|opção)\b|选项|選項|вариант)"
    rf"(?:\s+(?:to|for|of)\b[^.\n:]{{0,60}}?)?(?:[*_\s]*(?:{IS}|\bto be\b|选|選|-))*"
    r"|\b(?:choose|chose|pick|select|going? with|wähle|choisis|elijo|escolho|scelgo|выбираю)\b"
    r"|(?<!不)选择?|選択?|선택)\s*(?:the\s+)?(?:option|choice|answer|letter|选项|選項)?[\s*_\"'(\[\\${]*",
    re.IGNORECASE,
)
_FURTHER = r"\s*(?:,|/|&|\bor\b|\band\b|oder|und|\bou\b|\bet\b|или|或者?|和|또는|か)\s*[(*_\"']*"
_NOT = (
    r"(?:\bnot|n't|\bnever|\bhardly|\bneither|\bnor|\bnicht|\bkeine?|\bpas|\bне|不是|不选|不選"
    r"|rather than|instead of)\s*(?:the |an? |option |choice )*"
)
_NEGATED = re.compile(_NOT + r"[*_\"'(\[]*\Z", re.IGNORECASE)
_WRONG = re.compile(
    r"[)*_\"'\]]*\s*(?:(?:is|are|was|ist|est|es)(?:n't|\s+not\b)"
    r"|(?:is|are|was|ist|est|es)?\s*(?:wrong|incorrect|false|falsch|faux)\b"
    r"|не|不对|不對|错|錯|不正确|不正確)",
    re.IGNORECASE,
)
_CORRECTED = re.compile(r"\b(?:no|wait|actually|correction|sorry)\b", re.IGNORECASE)
_POLAR = {"yes", "no", "true", "false", "ja", "nein", "oui", "non", "sí", "si", "да", "нет"}


def named_choice(text: str, choices: Sequence[str], labels: Sequence[str] = ()) -> int | None:
    """The index of the one choice that a completion names, or `None`.

    The whole text of a choice first, then what is stated ("the answer is B"), a letter at a line's
    start, one in brackets, a choice's words (the longest, where one choice is part of another), and
    last a letter anywhere. A choice that is called wrong is not named.
    """
    text, tidied = plain(text).strip(), [tidy(one) for one in choices]
    if tidy(text) in tidied:
        return tidied.index(tidy(text))
    letters = _Labels(tuple(labels or _LETTERS[: len(choices) or None]))
    places: tuple[Callable[[], set[int]], ...] = (
        lambda: _stated(text, tidied, letters),
        lambda: _alone(text, letters),
        lambda: _started(text, tidied, letters),
        lambda: letters.found(letters.bracketed, text),
        lambda: _worded(tidy(text), tidied),
        lambda: letters.found(letters.anywhere, text),
    )
    for place in places:
        if named := place():
            return named.pop() if len(named) == 1 else None
    return None


class _Labels:
    """The labels of choices (letters, mostly) and the patterns that find them."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.index = {label.casefold(): i for i, label in reversed([*enumerate(labels)])}
        self.several, self.started, self.bracketed, self.anywhere = _label_patterns(labels)

    def named(self, text: str) -> set[int]:
        """By a text that is nothing but labels."""
        return {
            self.index[part.casefold()]
            for part in re.split(r"[^\w.-]+", text)
            if part.casefold() in self.index
        }

    def found(self, pattern: re.Pattern[str], text: str) -> set[int]:
        """By all that a pattern finds, but for what is called wrong."""
        return {
            i
            for match in pattern.finditer(text)
            if not _NEGATED.search(text[max(0, match.start() - 30) : match.start(1)])
            and not _WRONG.match(text, match.end(1))
            for i in self.named(match[1])
        }


@lru_cache(maxsize=64)
def _label_patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    one_of = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    closed = r"(?![A-Za-z0-9+#]|['’]\w|[.,]\d)"
    plainly = rf"(?:{one_of}){closed}"
    in_any_case = rf"(?i:{one_of})(?=\s*(?:[)\]}}.:,;*_\"'$]|$)){closed}"  # "a", and not "a dog"
    several = rf"((?:{plainly}|{in_any_case})(?:{_FURTHER}{plainly})*)"
    started = rf"^[*_\s(\[>-]*{several}[*_]*\s*(?:[).:,\]]|$)"
    anywhere = rf"(?<![A-Za-z0-9'’.])(?!(?:A|I) (?!or |and |is )[a-z]|I\b)({plainly})"
    return (
        re.compile(several, re.MULTILINE),
        re.compile(started, re.MULTILINE),
        re.compile(rf"[(\[]({plainly})[)\]]"),
        re.compile(anywhere),
    )


def _stated(text: str, tidied: Sequence[str], letters: _Labels) -> set[int]:
    """By the last `\\boxed{}`, or by statements: the last, where the text corrects itself."""
    if boxed := last_boxed(text):
        inner = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", boxed).strip(" ({")
        if named := _leading(inner, tidied, letters) or _worded(tidy(inner), tidied):
            return named
    statements = [
        named
        for match in _STATEMENT.finditer(text)
        if match.end() > match.start()
        and (named := _leading(text[match.end() : match.end() + 400], tidied, letters))
    ]
    if len(statements) > 1 and _CORRECTED.search(text):
        return statements[-1]
    return set().union(*statements)


def _leading(text: str, tidied: Sequence[str], letters: _Labels) -> set[int]:
    """By the choice or the letters with which a text begins."""
    words = tidy(text)
    begun = [
        i
        for i, one in enumerate(tidied)
        if one and words.startswith(one) and stands_in(one, words[: len(one) + 16])
    ]
    if begun:
        return {max(begun, key=lambda i: len(tidied[i]))}
    match = letters.several.match(text)
    return set() if not match or _WRONG.match(text, match.end()) else letters.named(match[1])


def _alone(text: str, letters: _Labels) -> set[int]:
    """By a letter that has the first or the last line to itself."""
    lines = [line.strip(" *_()[].,:\"'!$`") for line in text.splitlines() if line.strip()]
    ends = {line.casefold() for line in (*lines[:1], *lines[-1:])}
    return {letters.index[line] for line in ends if line in letters.index}


def _started(text: str, tidied: Sequence[str], letters: _Labels) -> set[int]:
    """By the letter that begins a line, where only one does; with another's text after it, by both.

    A list of all choices names none of them.
    """
    named = letters.found(letters.started, text)
    matches = list(letters.started.finditer(text))
    if len(matches) > 1:
        return named if len(named) == 1 else set()
    rest = tidy(text[matches[0].end() :]) if matches else ""
    return named | ({tidied.index(rest)} if named and rest in tidied else set())


def _worded(text: str, tidied: Sequence[str]) -> set[int]:
    """By a choice's words somewhere in a tidied text."""
    if not any(re.search(_NOT, one) for one in tidied):
        one_of = "|".join(re.escape(one) for one in sorted(tidied, key=len, reverse=True) if one)
        text = re.sub(rf"{_NOT}(?:{one_of})", " ", text) if one_of else text
    found = [i for i, one in enumerate(tidied) if one and stands_in(one, text)]
    longest = {i for i in found if not any(i != j and tidied[i] in tidied[j] for j in found)}
    if len(longest) > 1 and _POLAR.issuperset(tidied):  # "Yes, there is no doubt."
        first = re.match(r"\w+(?!\s*(?:/|or\b|and\b|oder\b|und\b|ou\b|et\b|или\b)\s*\w)\b", text)
        return {i for i in longest if first and tidied[i] == first[0]} or longest
    return longest


def _texts_and_labels(choices: Any) -> tuple[list[str], list[str]]:
    """Of a list of texts, or of ARC's {"text": […], "label": […]}."""
    if isinstance(choices, Mapping):
        texts, labels = choices.get("text") or (), choices.get("label") or ()
        return [str(text) for text in texts], [str(label) for label in labels]
    return [str(text) for text in choices or ()], []


def _right_choices(
    choices: Sequence[str], labels: Sequence[str], label: Any, answers: Sequence[str]
) -> set[int]:
    """The indices of what is right: by `label`, or by any of the answers."""
    if label is not None and str(label).strip():
        name = str(label).strip()
        if labels and name in labels:
            return {labels.index(name)}
        return {int(float(name))} if re.fullmatch(r"\d+(?:\.0)?", name) else {_of_letter(name)}
    tidied = [tidy(one) for one in choices]
    return {_right_choice(answer, tidied, labels) for answer in answers} - {-1}


def _right_choice(answer: str, tidied: Sequence[str], labels: Sequence[str]) -> int:
    """By a choice's text, a label, a letter (also "B) Paris"), or an index from 0; −1 by none."""
    if tidy(answer) in tidied:
        return tidied.index(tidy(answer))
    name = plain(answer).strip().strip("().")
    if name in labels:
        return list(labels).index(name)
    if name.isdecimal() and tidied:
        return int(name) if int(name) < len(tidied) else -1
    lettered = re.fullmatch(r"\(?([A-Za-z])\s*[).:]\s*(.+)", plain(answer).strip())
    return _of_letter(lettered[1] if lettered and tidied else name)


def _of_letter(name: str) -> int:
    return _LETTERS.find(name.upper()) if len(name) == 1 else -1


def right_choice(example: Example) -> str:
    """What names the right choice of a row: its text where `label` points at it."""
    choices, label = example.columns.get("choices") or (), example.columns.get("label")
    if isinstance(label, int) and 0 <= label < len(choices):
        return str(choices[label])
    return example.answer


def other_choices(example: Example) -> list[str]:
    """The texts of the choices that the answer names neither by text nor by letter."""
    choices = list(map(str, example.columns.get("choices") or ()))
    given = {tidy(right_choice(example)), tidy(example.answer)}
    at = [i for i, choice in enumerate(choices) if {tidy(choice), chr(97 + i)} & given]
    return [choice for i, choice in enumerate(choices) if i not in at]


def own_length(example: Example) -> str:
    """An answer that is no number of words is as long as is allowed."""
    return "" if re.fullmatch(r"[\d\s–-]*", example.answer) else example.answer


# --- Lengths.


def length(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 within a number of words, falling evenly to −1 at twice too long or at nothing said.

    `answer`: the most words ("20"), a range ("10-20"), or a text whose own length is the most. In
    scripts without spaces between words, such as Chinese and Thai, each character is a word.

    >>> length(["Say it short."] * 2, ["One two.", "One two three."], answer=["2", "2"])
    [1.0, 0.0]
    """
    answers = accepted_answers(columns, len(completions))
    return [
        max(_length(words_in(said(completion)), one) for one in several) if several else None
        for completion, several in zip(completions, answers, strict=True)
    ]


def words_in(text: str) -> int:
    """How many words a text has; punctuation by itself is none.

    >>> words_in("It's well-known – really."), words_in("今天，很好。"), words_in("สวัสดี")
    (3, 4, 4)
    """
    spaced = UNSPACED.sub(lambda match: f" {match[0]} " if match[0].isalpha() else match[0], text)
    parts = re.split(r"[\s\u200b—]+", spaced)
    return sum(any(one.isalnum() or one > "\U0001f000" for one in part) for part in parts)


def _length(words: int, answer: str) -> float:
    limits = re.fullmatch(r"\s*(?:(\d+)\s*[-~]\s*)?(\d+)\s*", plain(answer))
    least = max(1, int(limits[1] or 1)) if limits else 1
    most = max(least, int(limits[2]) if limits else words_in(answer))
    if words < least:
        return 2.0 * words / least - 1.0
    return max(-1.0, 1.0 - 2.0 * max(0, words - most) / most)


# --- What is right: one answer or several.

_STRING = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_LIST = re.compile(rf"\s*\[\s*{_STRING}(?:\s*,?\s*{_STRING})*\s*,?\s*\]\s*", re.DOTALL)


def accepted_answers(
    columns: Mapping[str, Any], count: int, lists_as_text: bool = True
) -> list[list[str]]:
    """All answers that each row accepts, from the columns `answer` and `answers`; [] for none."""
    rows = zip(*(column(columns.get(name), count) for name in ("answer", "answers")), strict=True)
    return [
        list(dict.fromkeys((*_several(answers, lists_as_text), *_several(answer, lists_as_text))))
        for answer, answers in rows
    ]


def _several(answer: Any, lists_as_text: bool) -> Iterable[str]:
    """Also where a list came as text, as JSON, Python or numpy write it: any, or the whole text."""
    if isinstance(answer, (list, tuple, set)):
        for one in answer:
            yield from _several(one, lists_as_text=False)
    elif isinstance(answer, Mapping):  # SQuAD's {"text": […]}
        yield from _several(answer.get("text"), lists_as_text=False)
    elif answer is not None and str(answer).strip():
        if lists_as_text and isinstance(answer, str) and _LIST.fullmatch(answer):
            yield from filter(str.strip, map(literal, re.findall(_STRING, answer)))
        yield str(answer)


def where_right(
    completions: Sequence[Any],
    columns: Mapping[str, Any],
    right: Callable[[str, str], bool],
    lists_as_text: bool = True,
) -> list[float | None]:
    """+1 where any accepted answer is right; nothing said is never right."""
    rewards: list[float | None] = []
    accepted = accepted_answers(columns, len(completions), lists_as_text)
    for completion, answers in zip(completions, accepted, strict=True):
        text = said(completion)
        found = bool(text.strip()) and any(right(text, answer) for answer in answers)
        rewards.append((1.0 if found else -1.0) if answers else None)
    return rewards


# --- What a completion says, whatever form it came in.

_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S
)


def said(completion: Any) -> str:
    """What a completion answers: a string, or TRL's list of chat messages (the last one's words).

    Thinking is set apart; where it never ends, nothing was answered.
    """
    if isinstance(completion, str):
        text = completion
    elif isinstance(completion, Sequence) and completion:
        content = completion[-1].get("content") or ""
        text = content if isinstance(content, str) else _parts(content)
    else:
        return ""
    return bare_answer(split_thinking(text).answer)


def column(values: Sequence[Any] | None, count: int) -> list[Any]:
    """A column with one value a row; `None` everywhere where the column is missing."""
    if values is None:
        return [None] * count
    assert len(values) == count, (len(values), count)
    return list(values)


def blocks(text: str) -> list[tuple[str, str]]:
    """Fenced blocks as (language, content); the last one may be cut off before its end."""
    return [(match[2].lower(), match[3]) for match in _FENCE.finditer(text)]


def _parts(content: Sequence[Any]) -> str:
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")
