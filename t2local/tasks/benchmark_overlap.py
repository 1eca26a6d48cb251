"""Which prompts were used to choose something, so that a measurement can refuse them.

A hash a prompt, of its letters and digits alone: a prompt that was wrapped or spaced otherwise is
still known. Pure functions.
"""

import hashlib
import re
from collections.abc import Collection, Sequence

from t2local.tasks.examples import Example

DIGITS = 24


def prompt_hash(prompt: str) -> str:
    """24 hexadecimal digits, the same however the prompt is spaced or punctuated.

    >>> prompt_hash("What is 2+2?") == prompt_hash("what is 2 + 2 ?")
    True
    """
    letters = re.sub(r"[\W_]+", "", prompt).casefold() or prompt
    return hashlib.sha256(letters.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def prompt_hashes(examples: Sequence[Example]) -> tuple[str, ...]:
    return tuple(prompt_hash(example.key) for example in examples)


def overlapping(examples: Sequence[Example], hashes: Collection[str]) -> list[Example]:
    """The examples whose prompts are among `hashes`."""
    known = set(hashes)
    return [example for example in examples if prompt_hash(example.key) in known]
