"""A proof as Markdown tables: plain text from plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "methods": "SVF and LoRA, policy gradient and next-token",
    "targets": "Which matrices are adapted",
    "dispatch": "Dispatchers on held-out messages",
    "chosen": "Strategies on unseen sets, answers chosen by likelihood",
    "written": "Strategies on unseen sets, written answers",
    "programs": "Strategies on unseen sets, written programs",
    "pass_times": "Pass 1 beside pass 2",
    "overfitting": "Few training rows",
    "composition": "Two experts at α from 0 to 1",
    "transfer": "An expert on a fine-tuned copy of its model",
}
DIFFERENCE = "difference, points [95 %]"
BEST = "to the best single expert"


def as_markdown(found: Mapping[str, Any]) -> str:
    """All sections, a table each."""
    about = found["about"]
    lines = [f"# {about['model']}, {about['dtype']}, {about['machine']}", "", about["command"], ""]
    for name, rows in found["sections"].items():
        lines += [f"## {TITLES[name]}", "", *_table(name, rows), ""]
    return "\n".join(lines)


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = _SHOWN.get(name, _measured)
    cells = [shown(row) for row in rows]
    heads = list(cells[0]) if cells else []
    body = ["| " + " | ".join(str(cell[head]) for head in heads) + " |" for cell in cells]
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *body]


def _measured(row: Mapping[str, Any]) -> dict[str, str]:
    """A variant or strategy on a set, beside the base model."""
    accuracy = row.get("adapted", row.get("accuracy"))
    trained = row.get("numbers", row.get("trained"))
    return {
        "set": row.get("set", row.get("task")),
        "variant": row.get("variant", row.get("strategy")),
        "n": row["n"],
        "right": f"{accuracy:.1%}" if accuracy is not None else "–",
        DIFFERENCE: _points(row["difference"], row["ci95_difference"]),
        "numbers trained": f"{trained:,}" if trained else "–",
    }


def _strategy(row: Mapping[str, Any]) -> dict[str, str]:
    """As `_measured`, and a mixture beside the best single expert."""
    over = row.get("over_best_single")
    name = f" ({row['best_single']})" if over else ""
    return _measured(row) | {BEST: (_points(over[0], over[1:]) if over else "–") + name}


def _dispatched(row: Mapping[str, Any]) -> dict[str, str]:
    low, high = row["ci95"]
    counts = {
        f"{true} called {' / '.join(row['labels'])}": " / ".join(map(str, called))
        for true, called in zip(row["labels"], row["counts"], strict=True)
    }
    right = f"{row['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
    return {"strategy": row["strategy"], "n": row["n"], "right": right, **counts}


def _timed(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "set": row["set"],
        "strategy": row["strategy"],
        "pass 1": f"{row['first_pass_s']:.1f} s",
        "pass 2": f"{row['second_pass_s']:.1f} s",
        "share": f"{row['share']:.1%}",
    }


def _composed(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "set": row["set"],
        "α reasoning": f"{row['reasoning']:.2f}",
        "α math": f"{row['math']:.2f}",
        "n": row["n"],
        "right": f"{row['adapted']:.1%}",
        DIFFERENCE: _points(row["difference"], row["ci95_difference"]),
    }


_SHOWN = {
    "chosen": _strategy,
    "written": _strategy,
    "programs": _strategy,
    "dispatch": _dispatched,
    "pass_times": _timed,
    "composition": _composed,
}


def _points(mean: float | None, interval: Sequence[float] | None) -> str:
    if mean is None or interval is None:
        return "–"
    return f"{100 * mean:+.1f} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"
