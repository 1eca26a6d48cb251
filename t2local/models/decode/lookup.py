"""A guess of the next tokens, from what the prompt and the answer have said before.

Prompt-lookup decoding (Saxena 2023; `prompt_lookup_num_tokens` in transformers): where the last
three tokens stood before, what followed them then is likely to follow again, in code above all.
A model that reads the guess together with the last token says after each of them what it would
have said one at a time, so a wrong guess costs time and changes nothing.
"""

from collections.abc import Sequence

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
