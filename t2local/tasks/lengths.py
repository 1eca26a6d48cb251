"""Which rows do not fit a model's context. Knows no model: the caller counts tokens."""

from collections.abc import Callable, Sequence

from t2local.tasks.examples import Example


def too_long(
    examples: Sequence[Example], count_tokens: Callable[[Example], int], most: int
) -> list[int]:
    """Positions, in order, of the examples that take more than `most` tokens."""
    return [i for i, example in enumerate(examples) if count_tokens(example) > most]
