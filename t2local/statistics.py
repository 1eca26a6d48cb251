"""How sure a score is: 95 % intervals of an accuracy and of a paired difference.

Pure functions of counts and of right/wrong lists.
"""

import itertools
import math
import statistics
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
    """Mean of `other − base` over the same prompts, with its 95 % interval: (mean, low, high).

    Of two values, such as right and wrong, it is Bonett and Price's interval (2012), of graded
    rewards Student's, at least the values' range / n each way. Either reaches to 0 wherever
    McNemar's exact test (the sign test) of the changed prompts finds nothing: four changed prompts
    are no proof, however alike.
    """
    assert len(base) == len(other) > 0, (len(base), len(other))
    differences = [o - b for b, o in zip(base, other, strict=True)]
    mean = sum(differences) / len(differences)
    values = sorted({*base, *other})
    extent = values[-1] - values[0] or 1.0
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    if len(values) > 2:
        low, high = _student(differences, extent)
    else:
        low, high = (extent * end for end in _bonett_price(better, worse, len(differences)))
    if mcnemar(better, worse) >= 0.05:
        low, high = min(low, 0.0), max(high, 0.0)
    return mean, low, high


def mcnemar(better: int, worse: int) -> float:
    """The two-sided exact p of so many changed prompts if either change were as likely."""
    changed = better + worse
    tail = sum(math.comb(changed, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**changed)


def fewest_proven() -> int:
    """How many prompts have to change, all for the better, before the exact test finds a gain."""
    return next(n for n in itertools.count(1) if mcnemar(n, 0) < 0.05)


def _bonett_price(better: int, worse: int, n: int) -> tuple[float, float]:
    """95 % interval of `(better − worse) / n`, each count taken one larger."""
    up, down = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    middle = up - down
    half = Z95 * math.sqrt((up + down - middle**2) / (n + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)


def _student(differences: Sequence[float], extent: float) -> tuple[float, float]:
    """95 % interval of the mean of at least two differences of values within `extent`."""
    n = len(differences)
    middle = statistics.fmean(differences)
    spread = student95(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    half = max(spread, extent / n)  # n equal differences say little about the next one
    return middle - half, middle + half


def student95(freedom: int) -> float:
    """The 97.5 % point of Student's t, within 0.2 %, by the expansion around the normal one.

    Abramowitz and Stegun, 26.7.5; tabled below three degrees of freedom.
    """
    if freedom < 3:
        return (12.7062, 4.3027)[freedom - 1]
    z = Z95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
