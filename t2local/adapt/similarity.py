"""Which expert's training prompts a message is near to: a discriminant over prompt prints.

With `x` the message's embedding at length 1, class means `μ_k` and the shrunk covariance within the
classes `Σ = (1 − s) S + s tr(S)/d · 1` (Friedman 1989), the score of a class is the linear
discriminant `μ_kᵀ Σ⁻¹ x − ½ μ_kᵀ Σ⁻¹ μ_k`. Classes are the experts and *other*: everyday messages
that none was trained on. The scores become probabilities by a temperature and a bias of *other*,
both fitted to the prints alone: each row is scored by means that it took no part in. A new expert
is one more class; nothing is trained.
Not in the paper: there, an expert that the classifier was not trained on is never dispatched to.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SHRINKAGE = 0.8  # measured: assets/results/README.md, with the layer and the alternatives
NEAREST = 10  # prints that a message is said to be near to
COVERED = 0.3  # of an expert's prints that are taken for another's: they overlap
TEMPERATURES = tuple(2.0 ** (k / 2) for k in range(-2, 15))
AS_LIKELY = 0.001  # nats a message
BIASES = tuple(k / 2 for k in range(-12, 13))  # of *other*, in units of the temperature


@dataclass(frozen=True)
class Neighbour:
    """A row of a print: the `place`-th of `label`'s, at a cosine `similarity` to the message."""

    label: str
    place: int
    similarity: float


@dataclass(frozen=True)
class Overlap:
    """`share` of the prompts of `expert` would be given to `other`."""

    expert: str
    other: str
    share: float


class Discriminant:
    """`prints`: label -> embeddings `[n, d]`; the last one is *other*. Fitted at its first use."""

    def __init__(self, prints: Mapping[str, Tensor]) -> None:
        assert len(prints) > 1, "one class is not told apart from nothing"
        self.prints, self.labels = prints, tuple(prints)
        self._rows = [_unit(rows.double()) for rows in prints.values()]
        self._owner = torch.cat([torch.full((len(r),), k) for k, r in enumerate(self._rows)])

    def fit(self) -> None:
        """Do now what the first message would wait for: a second for twenty experts."""
        _ = self._calibration

    @cached_property
    def digest(self) -> str:
        """Equal only for equal prints under equal names."""
        found = hashlib.sha256()
        for label, rows in self.prints.items():
            found.update(label.encode() + rows.to(torch.float32).contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def joined_by(self, label: str, rows: Tensor) -> "Discriminant":
        """With one more expert, whose print is `rows` `[n, d]`."""
        *experts, other = self.prints.items()
        return Discriminant({**dict(experts), label: rows, other[0]: other[1]})

    def probabilities(self, embeddings: Tensor) -> list[dict[str, float]]:
        """Label -> p for each of `embeddings` `[n, d]`; {} where one is not finite."""
        finite = torch.isfinite(embeddings).all(dim=1)
        scores = self._scores(self._whitened(_unit(embeddings.double().nan_to_num())))
        shares = self._shares(scores, *self._calibration)
        return [
            dict(zip(self.labels, row, strict=True)) if sound else {}
            for row, sound in zip(shares.tolist(), finite.tolist(), strict=True)
        ]

    def nearest(self, embedding: Tensor, count: int = NEAREST) -> list[Neighbour]:
        """The rows of all prints that are most like `embedding` `[d]`, the nearest first."""
        point = _unit(self._whitened(_unit(embedding.double()[None])))[0]
        cosines = _unit(self._points) @ point  # [N]
        found = cosines.topk(min(count, len(cosines)))
        firsts = [0, *torch.tensor([len(r) for r in self._rows]).cumsum(0).tolist()]
        return [
            Neighbour(self.labels[k := int(self._owner[place])], place - firsts[k], cosine)
            for cosine, place in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]

    def overlaps(self) -> list[Overlap]:
        """Pairs of experts of which one covers the other's ground, the worst first."""
        taken = self._left_out.argmax(dim=1)  # [N]
        found, experts = [], range(len(self.labels) - 1)
        for k in experts:
            own = taken[self._owner == k]
            for other in experts:
                share = float((own == other).double().mean())
                if other != k and share >= COVERED:
                    found.append(Overlap(self.labels[k], self.labels[other], share))
        return sorted(found, key=lambda overlap: -overlap.share)

    # --- fitted: what whitens, the means, the calibration

    @cached_property
    def _whitening(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """Mean `[d]`, directions `[r, d]`, their factors `[r]`, the factor of all others."""
        every = torch.cat(self._rows)
        residuals = torch.cat([rows - rows.mean(dim=0) for rows in self._rows])  # [N, d]
        freedom = max(1, len(residuals) - len(self._rows))
        _, sizes, directions = torch.linalg.svd(residuals, full_matrices=False)
        variances = sizes.square() / freedom  # [r]
        floor = SHRINKAGE * variances.sum() / every.shape[1] + 1e-12
        factors = ((1 - SHRINKAGE) * variances + floor).rsqrt()
        return every.mean(dim=0), directions, factors, float(floor.rsqrt())

    def _whitened(self, rows: Tensor) -> Tensor:
        """`Σ^(−1/2) (x − mean)` of `rows` `[n, d]`."""
        mean, directions, factors, others = self._whitening
        moved = rows - mean
        return (moved @ directions.T * (factors - others)) @ directions + others * moved

    @cached_property
    def _points(self) -> Tensor:
        return self._whitened(torch.cat(self._rows))  # [N, d]

    @cached_property
    def _means(self) -> Tensor:
        return torch.stack([self._points[self._owner == k].mean(0) for k in self._classes])

    @property
    def _classes(self) -> range:
        return range(len(self.labels))

    def _scores(self, points: Tensor) -> Tensor:
        """`[n, K]` of whitened `points` `[n, d]`."""
        return points @ self._means.T - 0.5 * self._means.square().sum(dim=1)

    @cached_property
    def _left_out(self) -> Tensor:
        """Scores `[N, K]` of the prints' own rows, each by a mean of its class without it."""
        scores = self._scores(self._points)
        for k in self._classes:
            own = self._owner == k
            points, count = self._points[own], int(own.sum())
            if count > 1:
                means = (count * self._means[k] - points) / (count - 1)
                scores[own, k] = (points * means).sum(dim=1) - 0.5 * means.square().sum(dim=1)
        return scores

    @cached_property
    def _calibration(self) -> tuple[float, float]:
        """Temperature and bias of the greatest likelihood of the left-out rows.

        Each expert counts the same, and *other* as much as the root of how many experts there are.
        Of pairs that are as likely, within `AS_LIKELY`, it is that of the least bias and then the
        greatest temperature: prints that lie far apart leave both open.
        """
        each = torch.stack([1.0 / (self._owner == k).sum() for k in self._classes])
        each[-1] *= math.sqrt(len(self._classes) - 1)
        weights = each[self._owner]

        def loss(temperature: float, bias: float) -> float:
            shares = self._shares(self._left_out, temperature, bias)
            own = shares.gather(1, self._owner[:, None])[:, 0].clamp(min=1e-9)
            return float(-(weights * own.log()).sum())

        losses = {(t, b): loss(t, b) for t in TEMPERATURES for b in BIASES}
        most = min(losses.values()) + AS_LIKELY * float(weights.sum())
        likely = [pair for pair, value in losses.items() if value <= most]
        return min(likely, key=lambda pair: (abs(pair[1]), -pair[0]))

    @staticmethod
    def _shares(scores: Tensor, temperature: float, bias: float) -> Tensor:
        """`[n, K]` probabilities of `scores`; `bias`: for the last class."""
        moved = scores / temperature
        moved = torch.cat([moved[:, :-1], moved[:, -1:] + bias], dim=1)
        return moved.softmax(dim=1)


def _unit(rows: Tensor) -> Tensor:
    """`rows` `[n, d]` at length 1."""
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


def shares_of(neighbours: Sequence[Neighbour]) -> dict[str, int]:
    """How many of the neighbours each label has, the most first."""
    counts: dict[str, int] = {}
    for neighbour in neighbours:
        counts[neighbour.label] = counts.get(neighbour.label, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
