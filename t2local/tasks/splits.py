"""Setting rows aside: a pure seeded split in which no prompt is on both sides, and no picture."""

import random
from collections.abc import Sequence

from t2local.tasks.examples import Example


def split_held_out(
    examples: Sequence[Example], share: float, seed: int = 0, at_least: int = 1
) -> tuple[list[Example], list[Example]]:
    """`(rest, held_out)`, each in the given order; about `share` of the rows, at least one, is held
    out and `at_least` prompts are not. Rows with the same prompt stay together. Needs `at_least`
    + 1 different prompts.
    """
    prompts = list(dict.fromkeys(e.group for e in examples))
    assert 0 < share < 1, share
    assert len(prompts) > at_least > 0, (len(prompts), at_least)
    count = min(max(1, round(share * len(prompts))), len(prompts) - at_least)
    chosen = set(random.Random(seed).sample(prompts, count))
    rest = [e for e in examples if e.group not in chosen]
    return rest, [e for e in examples if e.group in chosen]
