"""From the token ids of an answer to its text, complete or on its way.

The text ends before the name of the next speaker, where that ends the answer. What is not complete
may end in a part of a character, of a flag or of such a name: that part is not shown. The marks of
the model's thinking are kept, also where they are special tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from t2local.models.chat_format import stop_strings, unsaid_tokens

NAME_TOKENS = 16  # at the end of an answer: as many as there are letters in a name with its lines
INCOMPLETE = "\ufffd"  # what a decoder writes for a character whose last bytes are still to come
JOINER = "\u200d"  # between the parts of one emoji
LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))  # two of them are a flag
BLACK_FLAG, TAGS = "\U0001f3f4", "".join(map(chr, range(0xE0020, 0xE007F)))  # until they are closed
SELECTORS = "\ufe0e\ufe0f"
CHANGE = SELECTORS + "".join(map(chr, range(0x1F3FB, 0x1F400)))  # what stands before them
KEYS = "0123456789#*"  # with a selector they are the beginning of a key


@dataclass(frozen=True)
class Ends:
    """What ends the answers of a model: tokens, and the next speaker's name where it has those."""

    tokenizer: PreTrainedTokenizerBase
    tokens: frozenset[int]
    names: tuple[str, ...]

    def named(self, said: Sequence[int]) -> bool:
        """Whether the last token completed the next speaker's name."""
        if not self.names:
            return False
        end = decoded(self.tokenizer, said[-NAME_TOKENS:])
        return any(name in end for name in self.names)

    def without_name(self, said: list[int]) -> list[int]:
        """The tokens up to the next speaker's name: as few as hold all of the text before it."""
        if not self.named(said):
            return said
        text = answer_text(self.tokenizer, said)
        while said and _spoken(self.tokenizer, said[:-1]).startswith(text):
            said = said[:-1]
        return said


def answer_text(
    tokenizer: PreTrainedTokenizerBase, said: Sequence[int], complete: bool = True
) -> str:
    """The text of an answer. `complete`: it ended by itself, not at its length, and no more comes.

    One that is on its way begins like every longer one.
    """
    text, names = _spoken(tokenizer, said), stop_strings(tokenizer)
    found = [at for name in names if (at := text.find(name)) >= 0]
    if found:
        return text[: min(found)]
    return text if complete else whole(text[: len(text) - _begun(text, names)])


def _spoken(tokenizer: PreTrainedTokenizerBase, said: Sequence[int]) -> str:
    """What was said, without the space that the plain template writes after a speaker's name."""
    text = decoded(tokenizer, said)
    return text.removeprefix(" ") if stop_strings(tokenizer) else text


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Tokens as text, without special ones but the marks of thinking."""
    unsaid = unsaid_tokens(tokenizer)
    ids = [i for i in ids if i not in unsaid]
    return tokenizer.decode(ids, skip_special_tokens=not unsaid, clean_up_tokenization_spaces=False)


def whole(text: str) -> str:
    """A text that was cut, without what is left of a character or flag at its end."""
    while text and (half := _half(text)):
        text = text[:-half]
    return text


def _half(text: str) -> int:
    """How many code points at the end of a text are no sign without those that would follow."""
    *_, before, last = "\n", *text[-2:]
    if last in INCOMPLETE + JOINER:
        return 1
    if last in CHANGE and (before.isspace() or (last in SELECTORS and before in KEYS)):
        return 1
    if last in BLACK_FLAG + TAGS and (flag := text.rstrip(TAGS)).endswith(BLACK_FLAG):
        return len(text) - len(flag) + 1
    return (len(text) - len(text.rstrip(LETTERS))) % 2


def _begun(text: str, names: Sequence[str]) -> int:
    """How many letters at the end of a text are the beginning of a name."""
    longest = max(map(len, names), default=0)
    return next(
        (n for n in range(longest, 0, -1) if any(name.startswith(text[-n:]) for name in names)), 0
    )
