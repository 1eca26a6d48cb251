"""How contenders stand by the votes on blind pairs: values for a page, no model is asked."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from t2local.adapt.dispatch import BASE
from t2local.engine.contenders import Contender, label_of
from t2local.engine.verdicts import A, B, Verdict
from t2local.evaluation.bradley_terry import (
    Score,
    Tally,
    Votes,
    counted,
    is_clear,
    more_votes,
    ranked,
    score,
)


@dataclass(frozen=True)
class Place:
    """A contender in the ranking. `score`: against the reference, None for that itself."""

    key: str
    label: str
    votes: int
    score: Score | None


@dataclass(frozen=True)
class PairStanding:
    """Votes on one pair, the better first. `more`: as `bradley_terry.more_votes`."""

    first: str
    second: str
    tally: Tally
    score: Score
    clear: bool
    more: int | None
    kinds: tuple[tuple[str, Tally, Score], ...] = ()


@dataclass(frozen=True)
class Standings:
    """`reference`: the label of the contender whom all are measured against.

    `on_a`: of how many `decided` votes A was the better. `elsewhere`: votes on other models.
    """

    places: tuple[Place, ...] = ()
    pairs: tuple[PairStanding, ...] = ()
    reference: str = ""
    votes: int = 0
    on_a: int = 0
    decided: int = 0
    elsewhere: int = 0


def standings(
    verdicts: Sequence[Verdict], known: Collection[Contender] = (), model: str = ""
) -> Standings:
    """Of votes on answers of `model`. Everybody is measured against the base model, else the best.

    `known`: the contenders that there are, for their labels.
    """
    here = _different([v for v in verdicts if v.vote and v.vote.said and v.model == model])
    votes = counted((*v.vote.contenders, v.vote.winner) for v in here)
    order = ranked(votes)
    if not order:
        return Standings(elsewhere=len(verdicts))
    reference = BASE if BASE in order else order[0]
    sides = Counter(v.vote.said for v in here)
    return Standings(
        tuple(_place(key, votes, reference, known) for key in order),
        tuple(_pair(pair, tally, votes, here, known) for pair, tally in _by_size(votes)),
        label_of(reference, known),
        len(here),
        sides[A],
        sides[A] + sides[B],
        sum(v.model != model for v in verdicts),
    )


def _different(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Without votes on answers that had been seen, with their names: the first one counts."""
    once = {}
    for verdict in sorted(verdicts, key=lambda v: v.given):
        seen = verdict.question, frozenset(verdict.vote.contenders), frozenset(verdict.sides)
        once.setdefault(seen, verdict)
    return list(once.values())


def _by_size(votes: Votes) -> list[tuple[tuple[str, str], Tally]]:
    return sorted(votes.items(), key=lambda item: -item[1].n)


def _place(key: str, votes: Votes, reference: str, known: Collection[Contender]) -> Place:
    met = sum(tally.n for pair, tally in votes.items() if key in pair)
    against = score(votes, key, reference) if key != reference else None
    return Place(key, label_of(key, known), met, against)


def _pair(
    pair: tuple[str, str],
    tally: Tally,
    votes: Votes,
    verdicts: Sequence[Verdict],
    known: Collection[Contender],
) -> PairStanding:
    """Its score is of its own votes alone: what others did is in the ranking."""
    first, second = pair
    if tally.losses > tally.wins:
        first, second, tally = second, first, tally.swapped()
    kinds = {v.vote.kind for v in verdicts if set(v.vote.contenders) == set(pair) and v.vote.kind}
    by_kind = []
    for kind in sorted(kinds):
        of_kind = [v for v in verdicts if v.vote.kind == kind]
        found = counted((*v.vote.contenders, v.vote.winner) for v in of_kind)[pair]
        found = found if first == pair[0] else found.swapped()
        by_kind.append((kind, found, _of_two(found)))
    labels = label_of(first, known), label_of(second, known)
    clear, more = is_clear(tally, len(votes)), more_votes(tally, len(votes))
    return PairStanding(*labels, tally, _of_two(tally), clear, more, tuple(by_kind))


def _of_two(tally: Tally) -> Score:
    """By the votes on one pair alone, which has some."""
    found = score({("first", "second"): tally}, "first", "second")
    assert found is not None, tally
    return found
