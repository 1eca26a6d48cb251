"""What a model thinks, set apart from what it answers.

Models that think first put it between tags of their own. Some templates open the tag in the prompt,
so that only the closing one is in the text; some models are cut off before they close it, and then
nothing was answered. A tag in quotes, or an opening one in a fenced block, is talk about tags.
"""

import re
from typing import NamedTuple

# What names the tag in `<think>…</think>`; with attributes and in any case.
_NAMES = (
    "think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad|seed:think"
    "|antthinking|inner_monologue"
)
# As a model writes them, opening and closing. The first is what most models use.
THINKING_TAGS: tuple[tuple[str, str], ...] = (
    *((f"<{name}>", f"</{name}>") for name in _NAMES.split("|")),
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|think_start|>", "<|think_end|>"),
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|channel|>analysis<|message|>", "<|end|>"),  # gpt-oss
    ("<|channel|>commentary<|message|>", "<|end|>"),
    ("<|channel>thought", "<channel|>"),  # Gemma
)
_TAG_BEGINS = re.compile("[<\\[◁]")  # most completions have none, and are done with at once
_FURTHER = THINKING_TAGS[len(_NAMES.split("|")) :]
_OPENING = re.compile(
    rf"<(?P<name>{_NAMES})(?:\s[^<>]*)?>"
    r"|<\|channel\|>(?P<channel>analysis|commentary)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    + "".join(f"|{re.escape(tag)}" for tag, _ in _FURTHER),
    re.IGNORECASE,
)
_CHANNEL_END = r"<\|end\|>|<\|call\|>|<\|return\|>|(?=<\|start\|>)|(?=<\|channel\|>)"
_CLOSING = re.compile(
    rf"</(?:{_NAMES})\s*>"
    + "".join(f"|{re.escape(end)}" for _, end in _FURTHER if end != "<|end|>"),
    re.IGNORECASE,
)
# gpt-oss says which channel is the answer; its marks are no part of it.
_MARKS = re.compile(
    r"(?:<\|start\|>\s*assistant)?\s*<\|channel\|>final[^<]*<\|message\|>"
    r"|<\|(?:end|return|call)\|>|<\|start\|>\s*assistant|<\|(?:START|END)_RESPONSE\|>",
    re.IGNORECASE,
)
# Without tags: gpt-oss where control tokens are dropped, and Granite.
_UNTAGGED = re.compile(
    r"\s*(?:analysis(?P<gpt>.*?)assistantfinal"
    r"|here(?:'s|’s| is) my thought process:(?P<granite>.*?)here(?:'s|’s| is) my response:)",
    re.IGNORECASE | re.DOTALL,
)
_ENVELOPE = re.compile(
    r"<(answer|final_answer|response|output)>(.*?)(?:</\1>\s*|\Z)\Z", re.IGNORECASE | re.DOTALL
)
_FENCED = re.compile(r"^[ \t]*(```+|~~~+)[^\n]*\n.*?^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)


class Spoken(NamedTuple):
    """`closed` is False where the text ends in the midst of thinking."""

    thinking: str
    answer: str
    closed: bool


def split_thinking(text: str, opened: bool = False) -> Spoken:
    """What of a completion is thinking and what is its answer.

    `opened`: the prompt already ends in an opening tag (`opens_thinking`), so the text begins
    within the thinking. An unclosed thinking has no answer after it.

    >>> split_thinking("<think>France, so Paris.</think>\\n\\nParis")
    Spoken(thinking='France, so Paris.', answer='Paris', closed=True)
    >>> split_thinking("So Paris.</think>Paris").answer
    'Paris'
    """
    if not opened and (untagged := _UNTAGGED.match(text)):
        thinking = untagged["gpt"] or untagged["granite"] or ""
        return Spoken(thinking.strip(), text[untagged.end() :].strip(), closed=True)
    if not opened and not _TAG_BEGINS.search(text):
        return Spoken("", text, closed=True)
    thoughts: list[str] = []
    said: list[str] = []
    at, closed = 0, True
    if opened:
        at, closed = _think_on(text, 0, _CLOSING, thoughts)
    unfenced = _FENCED.sub(lambda match: " " * len(match[0]), text)
    opening, stray = _next(_OPENING, unfenced, at), _next(_CLOSING, text, at)
    while closed and (opening or stray):
        if stray and (opening is None or stray.start() < opening.start()):
            thoughts.append("".join(said) + text[at : stray.start()])  # was opened by the prompt
            said, at = [], stray.end()
        else:
            said.append(text[at : opening.start()])
            at, closed = _think_on(text, opening.end(), _closing_of(opening), thoughts)
        if opening and opening.start() < at:
            opening = _next(_OPENING, unfenced, at)
        if stray and stray.start() < at:
            stray = _next(_CLOSING, text, at)
    said.append(text[at:])
    answer = _MARKS.sub("", "".join(said)) if closed else ""
    thinking = "\n\n".join(filter(None, map(str.strip, thoughts)))
    return Spoken(thinking, _after_blank_lines(bare_answer(answer)) if thoughts else answer, closed)


def bare_answer(text: str) -> str:
    """A text without the `<answer>` tags in which its answer stands at the end, if it does.

    >>> bare_answer("As asked: <answer> Paris </answer>")
    'Paris'
    """
    envelope = _ENVELOPE.search(text) if "<" in text else None
    return _after_blank_lines(envelope[2]) if envelope else text


def _after_blank_lines(text: str) -> str:
    """Without blank lines at the front and spaces at the end; a program's indentation stays."""
    words = text.strip()
    front = text[: len(text) - len(text.lstrip())]
    return (front.rpartition("\n")[2] if "\n" in front else "") + words


def opens_thinking(prompt: str) -> bool:
    """Whether a rendered prompt ends in an opening tag: what follows it is thinking."""
    end = prompt.rstrip().casefold()
    return any(end.endswith(tag.casefold()) for tag, _ in THINKING_TAGS)


def _think_on(
    text: str, start: int, closing: re.Pattern[str], thoughts: list[str]
) -> tuple[int, bool]:
    """Where the thinking that begins at `start` ends, and whether it does."""
    end = _next(closing, text, start) or _next(_CLOSING, text, start)
    thoughts.append(text[start : end.start() if end else len(text)])
    return (end.end(), True) if end else (len(text), False)


def _closing_of(opening: re.Match[str]) -> re.Pattern[str]:
    if opening["name"]:
        return re.compile(rf"</{opening['name']}\s*>", re.IGNORECASE)
    if opening["channel"]:
        return re.compile(_CHANNEL_END, re.IGNORECASE)
    ends = {tag.casefold(): end for tag, end in _FURTHER}
    return re.compile(re.escape(ends[opening[0].casefold()]), re.IGNORECASE)


def _next(tag: re.Pattern[str], text: str, at: int) -> re.Match[str] | None:
    """The next tag that is meant as one, and not in quotes."""
    for match in tag.finditer(text, at):
        around = (
            text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
        )
        if around not in ("``", "''", '""', "“”", "‘’"):
            return match
    return None
