"""Experts as HTML: a card each, what was deleted, and two or more side by side.

Here are the values; the elements are in `templates/experts.html`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2local.engine.requests import ExpertInfo
from t2local.experts import Deleted
from t2local.experts.comparison import Comparison, Facts, Likeness
from t2local.html import commas
from t2local.ui.style import PAGE

FILE = "experts.html"
KINDS = {"skill": "answers", "classifier": "decides in pass 1"}


@dataclass(frozen=True)
class Card:
    """`elsewhere`: a line for each other task. `acts`: what its buttons do, and their words."""

    expert: ExpertInfo
    kind: str
    verdict: str
    elsewhere: Sequence[str]
    acts: Sequence[tuple[str, str]]
    picked: bool


def experts_html(experts: Sequence[ExpertInfo], picked: Collection[str] = ()) -> str:
    """`picked`: the names that are being compared."""
    shown = [expert for expert in experts if not expert.draft]
    cards = [_card(expert, expert.name in picked) for expert in shown]
    return PAGE.render(FILE, "cards", cards=cards)


def trash_html(deleted: Sequence[Deleted], just_now: str | None = None) -> str:
    """A bar to undo what was deleted `just_now`, and the list of all that can come back."""
    names = list(dict.fromkeys(entry.name for entry in deleted))
    if not names:
        return ""
    return PAGE.render(FILE, "trash", names=names, just_now=just_now if just_now in names else "")


def _card(expert: ExpertInfo, picked: bool) -> Card:
    held_out = expert.held_out
    return Card(
        expert=expert,
        kind=KINDS.get(expert.kind, expert.kind),
        verdict=_verdict(held_out["ci95_difference"]) if held_out else "",
        elsewhere=[forgetting_line(measured) for measured in expert.forgetting],
        acts=_acts(expert, picked),
        picked=picked,
    )


def _acts(expert: ExpertInfo, picked: bool) -> list[tuple[str, str]]:
    readable = expert.usable or expert.size_bytes > 0
    offered = {
        "try_it": ("Try in chat", expert.usable and expert.kind == "skill"),
        "compare": ("Comparing ✓" if picked else "Compare", readable),
        "rename": ("Rename", readable and not expert.shipped),
        "duplicate": ("Duplicate", readable),
        "note_prompts": (
            "Let similarity find it",
            expert.usable and expert.kind == "skill" and not expert.shipped and not expert.prompts,
        ),
        "forgotten": (
            "See what it forgets",
            expert.usable and not expert.shipped and not expert.draft and not expert.forgetting,
        ),
        "go_back": (
            f"Back a version (of {expert.versions})",
            expert.versions > 0 and not expert.shipped,
        ),
        "hand_over": ("Download", readable),
        "remove": ("Delete", not expert.shipped),
    }
    return [(act, words) for act, (words, possible) in offered.items() if possible]


def _verdict(difference: Sequence[float]) -> str:
    low, high = difference
    return "helps" if low > 0 else "harms" if high < 0 else "no proven difference"


def forgetting_line(measured: Mapping[str, Any]) -> str:
    """`on math: 42 → 41 of 100, no proven change`."""
    low, high = measured["ci95_difference"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "no proven change"
    n = int(measured["n"])
    base, trained = (round(float(measured[key]) * n) for key in ("base", "trained"))
    return f"on {measured['task']}: {base} → {trained} of {n}, {verdict}"


# --- Two or more experts side by side, as a table and sentences.

UNRELATED, ALIKE, SAME = 0.1, 0.4, 0.9  # cosines from which other words are used
UNKNOWN = "–"


def picked_html(names: Sequence[str], compared: Comparison | None) -> str:
    """The chosen names, each with a way to take it out, and the table once there are two."""
    experts = compared.experts if compared else ()
    return PAGE.render(
        FILE,
        "picked",
        names=names,
        experts=[(facts.name, facts.held_out, _elsewhere(facts)) for facts in experts],
        rows=_rows(experts),
        likeness=[likeness_line(pair) for pair in compared.likeness] if compared else [],
    )


def _elsewhere(facts: Facts) -> list[str]:
    return [forgetting_line(measured.as_dict()) for measured in facts.forgetting]


def _rows(experts: Sequence[Facts]) -> list[tuple[str, str, str, list[str]]]:
    """Before a term, the term, after it, a cell for each expert; what nobody knows is left out."""
    rows = [
        ("rewarded for", "", "", [facts.reward or UNKNOWN for facts in experts]),
        ("training steps", "", "", [_count(facts.steps) for facts in experts]),
        ("rows trained on", "", "", [_count(facts.rows) for facts in experts]),
        ("numbers in ", "z", "", [_count(facts.numbers) for facts in experts]),
        ("distance from the base, ", "rms", " of z − 1", [f"{facts.rms:.4f}" for facts in experts]),
    ]
    return [row for row in rows if any(cell != UNKNOWN for cell in row[-1])]


def likeness_line(pair: Likeness) -> str:
    """`math and code: +0.03, nearly nothing in common`."""
    both, cosine = f"{pair.first} and {pair.second}", pair.overall
    if cosine is None:
        return f"{both}: one of them changes nothing"
    if cosine < -UNRELATED:
        words = "they pull in opposite directions"
    elif cosine < UNRELATED:
        words = "nearly nothing in common"
    elif cosine < ALIKE:
        words = "a little alike"
    else:
        words = "nearly the same" if cosine >= SAME else "alike"
    return f"{both}: {cosine:+.2f}, {words}".replace("-", "−")


def _count(value: int | None) -> str:
    return commas(value) if isinstance(value, int) else UNKNOWN
