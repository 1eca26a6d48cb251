"""What the Arena tab shows as HTML: a pair before and after its vote, and the standings.

Here are the values; the elements are in `templates/arena.html`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from t2local.engine.arena import Battle
from t2local.engine.standings import PairStanding, Standings
from t2local.engine.verdicts import BAD, SAME, SIDES, TIE
from t2local.evaluation.bradley_terry import Score, Tally
from t2local.html import percent, signed
from t2local.ui.markdown import render
from t2local.ui.style import PAGE

FILE = "arena.html"
TOLD = {
    TIE: "You found both equally good.",
    BAD: "You found both bad.",
    SAME: "Both wrote the same; that counts as a tie.",
}
FEWEST_DECIDED = 10  # votes, before a guess of how many more it takes is worth anything
EVEN = (0.45, 0.55)  # a score whose interval is within is that of no difference


class Side(NamedTuple):
    """One `answer`, rendered. `name`, `mixture`: "" and nothing until the vote."""

    letter: str
    answer: str
    empty: bool
    name: str
    won: bool
    mixture: Sequence[tuple[str, str]]


def pair_html(battle: Battle | None) -> str:
    """None: nothing was asked yet."""
    if battle is None:
        return PAGE.render(FILE, "nothing")
    if battle.texts is None:
        return PAGE.render(FILE, "writing", prompt=battle.prompt, progress=battle.progress)
    sides = []
    for place, letter in enumerate(SIDES):
        text, name = battle.texts[place], battle.names[place] if battle.names else ""
        won = battle.said == letter
        mixture = _alpha(battle.mixtures[place]) if battle.mixtures else []
        sides.append(Side(letter.upper(), render(text), not text.strip(), name, won, mixture))
    told = TOLD.get(battle.said, "")
    return PAGE.render(FILE, "pair", prompt=battle.prompt, sides=sides, told=told, kind=battle.kind)


def _alpha(mixture: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, signed(alpha)) for name, alpha in mixture.get("alpha", {}).items() if alpha]


class Line(NamedTuple):
    """A contender in the ranking; `score` "" for the reference. `low`, `high`: shares."""

    label: str
    votes: int
    score: str
    low: float
    high: float
    value: float


class PairLine(NamedTuple):
    """Two contenders, the better first. `verdict`: whether it is clear, in words."""

    first: str
    second: str
    tally: Tally
    score: str
    interval: str
    verdict: str
    clear: bool
    kinds: Sequence[tuple[str, Tally, str]]


def standings_html(found: Standings | None) -> str:
    """None: not looked up yet."""
    if found is None or not found.places:
        return PAGE.render(FILE, "no_votes", elsewhere=found.elsewhere if found else 0)
    lines = [Line(p.label, p.votes, _score(p.score), *_span(p.score)) for p in found.places]
    pairs = [_pair_line(pair) for pair in found.pairs]
    return PAGE.render(FILE, "standings", found=found, lines=lines, pairs=pairs)


def _score(score: Score | None) -> str:
    return percent(score.value) if score is not None else ""


def _span(score: Score | None) -> tuple[float, float, float]:
    return (score.low, score.high, score.value) if score is not None else (0.0, 0.0, 0.0)


def _pair_line(pair: PairStanding) -> PairLine:
    kinds = [(kind, tally, _interval(score)) for kind, tally, score in pair.kinds]
    return PairLine(
        pair.first, pair.second, pair.tally, percent(pair.score.value), _interval(pair.score),
        verdict(pair), pair.clear, kinds,
    )  # fmt: skip


def _interval(score: Score) -> str:
    return f"{100 * score.low:.0f} to {percent(score.high)}"


def verdict(pair: PairStanding) -> str:
    """Whether it is clear which is better, and if not, what it would take."""
    if pair.clear:
        return f"Clear: {pair.first} is preferred."
    if EVEN[0] < pair.score.low and pair.score.high < EVEN[1]:
        return "Hardly a difference."
    if not pair.tally.decided:
        return "Only ties so far."
    if pair.tally.decided < FEWEST_DECIDED:
        return "Too few votes to tell anything."
    if pair.more is None:
        return "Nearly even so far; too few votes to tell."
    votes = f"{pair.more:,} more vote{'' if pair.more == 1 else 's'}"
    return f"Not clear yet: about {votes}, if it goes on so."
