"""How sure a score is: 95 % intervals of an accuracy and of a paired difference.

Pure functions of counts and of right/wrong lists.
"""

import math
from collections.abc import Sequence

Z95 = 1.959963984540054


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of an accuracy `correct / n`; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p, square = correct / n, Z95**2
    centre = (p + square / (2 * n)) / (1 + square / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(base: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Mean of `other − base` over the same prompts, with its 95 % interval (normal, paired).

    Returns (mean, low, high). The interval is widened to at least 1/n each way, since n equal
    differences say little about the next one.
    """
    assert len(base) == len(other) > 0, (len(base), len(other))
    n = len(base)
    differences = [o - b for b, o in zip(base, other, strict=True)]
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / max(n - 1, 1)
    half = max(Z95 * math.sqrt(variance / n), 1 / n)
    return mean, mean - half, mean + half
