"""The dispatch card as HTML: what pass 1 decided, what pass 2 mixed, and how long each took.

Also what an expert chose among its labels, and which training prompts a message is like. Here are
the values; the elements are in `templates/chat.html`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2local.adapt.dispatch import STRATEGIES
from t2local.html import signed
from t2local.ui.style import PAGE

FILE = "chat.html"
Bar = tuple[str, float, str, bool]  # name, share of the full width, number, whether it is below 0
PromptsOf = Callable[[str], Sequence[str]]  # an expert's name -> what it learnt from, if here
SUMMARY_SEGMENTS = 0.02  # smaller shares are left out of the one-line bar
LIKE_SHOWN, LIKE_LENGTH = 2, 90  # training prompts, and characters of each


@dataclass(frozen=True)
class Card:
    """What pass 1 decided, what pass 2 mixed. Shares are 0 to 1; seconds None: it did not happen.

    `choices`: where `chooser` chose among its labels; `may_write`: it may write instead.
    `near`: how many training prompts of which expert the message is like; `like`: some of them.
    `names` may answer instead; `override` is the one that does.
    """

    chosen: str
    by_hand: bool
    segments: Sequence[tuple[str, float]]
    strategy: str
    first_s: float | None
    second_s: float | None
    probabilities: Sequence[Bar]
    unasked: str
    mixture: Sequence[Bar]
    strength: float
    note: str
    chooser: str
    choices: Sequence[Bar]
    may_write: bool
    near: Sequence[tuple[str, int]]
    like: Sequence[str]
    names: Sequence[str]
    override: str | None
    is_open: bool


def dispatch_card(
    dispatch: Mapping[str, Any],
    timing: Mapping[str, Any] | None,
    *,
    answer_with: Sequence[str] = (),
    is_open: bool = True,
) -> str:
    """`dispatch`, `timing`: as a `Message` keeps them. `answer_with`: names offered as override."""
    card = card_of(dispatch, timing, answer_with, is_open=is_open)
    return PAGE.render(FILE, "card", card=card)


def card_of(
    dispatch: Mapping[str, Any],
    timing: Mapping[str, Any] | None,
    names: Sequence[str],
    *,
    is_open: bool,
) -> Card:
    alpha = dispatch.get("alpha") or {}
    probabilities = dispatch.get("probabilities") or {}
    override = dispatch.get("override")
    return Card(
        chosen=str(override or dispatch.get("chosen", "base")),
        by_hand=bool(override),
        segments=_segments(alpha),
        strategy=str(dispatch.get("strategy", "")),
        first_s=dispatch.get("seconds", 0.0) if probabilities else None,
        second_s=None if timing is None else timing.get("second_pass_s", 0.0),
        probabilities=_probabilities(probabilities),
        unasked="" if probabilities else _unasked(dispatch),
        mixture=_mixture(alpha),
        strength=dispatch.get("strength", 1.0),
        note=str(dispatch.get("note") or ""),
        chooser=str(_choice(dispatch).get("expert", "")),
        choices=_probabilities(_choice(dispatch).get("shares") or {}),
        may_write=bool(names),
        near=_near(dispatch),
        like=(),
        names=names,
        override=override,
        is_open=is_open,
    )


def _choice(dispatch: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an expert chose among its labels, `expert` and `shares`; {} where it wrote."""
    choice = dispatch.get("choice")
    shares = choice.get("shares") if isinstance(choice, Mapping) else None
    if not isinstance(shares, Mapping):
        return {}
    sound = all(isinstance(share, int | float) for share in shares.values())
    return choice if sound else {}


def _neighbours(dispatch: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The training prompts that the message is near to, `(expert, place)`, the nearest first."""
    pairs = dispatch.get("near")
    return [
        (pair[0], pair[1])
        for pair in (pairs if isinstance(pairs, list) else ())
        if isinstance(pair, list) and [type(part) for part in pair] == [str, int] and pair[1] >= 0
    ]


def _near(dispatch: Mapping[str, Any]) -> list[tuple[str, int]]:
    """How many of them each expert has, the most first."""
    return Counter(name for name, _ in _neighbours(dispatch)).most_common()


def like(dispatch: Mapping[str, Any], prompts_of: PromptsOf) -> list[str]:
    """The nearest of the prompts of the expert that was chosen, in short, where they are here."""
    chosen = str(dispatch.get("chosen"))
    places = [place for name, place in _neighbours(dispatch) if name == chosen]
    texts = prompts_of(chosen) if places else ()
    found = [" ".join(texts[place].split()) for place in places if place < len(texts)]
    return [t if len(t) <= LIKE_LENGTH else f"{t[:LIKE_LENGTH]}…" for t in found[:LIKE_SHOWN]]


def thinking_card(stage: str) -> str:
    """Shown until pass 1 has decided."""
    return PAGE.render(FILE, "thinking", stage=stage)


def describe_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs between two mixtures' JSON, in words: `math +0.86 → −1.00`."""
    changes = [
        f"{name} {signed(old)} → {signed(new)}"
        for name, old, new in _pairs(before.get("alpha", {}), after.get("alpha", {}), 0.0)
    ]
    if before.get("strength", 1.0) != after.get("strength", 1.0):
        changes.append(f"strength {before.get('strength', 1.0):.2f} → {after['strength']:.2f}")
    changes += [
        f"{name} gain {old:.2f} → {new:.2f}"
        for name, old, new in _pairs(before.get("gains", {}), after.get("gains", {}), 1.0)
    ]
    return ", ".join(changes) or "the same mixture again"


def _pairs(
    before: Mapping[str, float], after: Mapping[str, float], missing: float
) -> list[tuple[str, float, float]]:
    names = dict.fromkeys((*before, *after))
    pairs = [(name, before.get(name, missing), after.get(name, missing)) for name in names]
    return [(name, old, new) for name, old, new in pairs if abs(old - new) >= 0.005]


def _segments(alpha: Mapping[str, float]) -> list[tuple[str, float]]:
    """The mixture as one thin bar of coloured shares; the base model fills the rest."""
    scale = 1.0 / max(1.0, sum(abs(a) for a in alpha.values()))
    shares = ((name, abs(a) * scale) for name, a in alpha.items())
    return [(name, share) for name, share in shares if share >= SUMMARY_SEGMENTS]


def _unasked(dispatch: Mapping[str, Any]) -> str:
    """Why there are no probabilities."""
    kind = str(dispatch.get("strategy")).partition(":")[0]  # few-shot names its mixture
    strategy = None if dispatch.get("override") else STRATEGIES.get(kind)
    return strategy.unasked if strategy else "Nothing was asked: you chose who answers."


def _probabilities(probabilities: Mapping[str, float]) -> list[Bar]:
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    return [(name, share, f"{share:.2f}", False) for name, share in ranked]


def _mixture(alpha: Mapping[str, float]) -> list[Bar]:
    rest = 1.0 - sum(alpha.values())
    shown = {**{n: a for n, a in alpha.items() if abs(a) >= 0.005}, "base": rest}
    largest = max(1.0, *(abs(a) for a in shown.values()))
    return [(name, abs(a) / largest, signed(a).lstrip("+"), a < 0) for name, a in shown.items()]
