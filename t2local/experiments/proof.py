"""The whole proof, section by section, as one JSON object: what the command `prove` runs.

And the same as Markdown tables, plain text from plain values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from t2local import paths
from t2local.errors import T2LocalError
from t2local.evaluation.variants import Subject
from t2local.experiments import sections
from t2local.experiments.laboratory import (
    Book,
    Cell,
    Laboratory,
    confusion,
    fine_tuned,
    measured_sets,
)
from t2local.experts import Expert
from t2local.experts.store import read_expert
from t2local.models.load.loader import LoadedModel
from t2local.progress import Progress
from t2local.provenance import origin

SECTIONS = (
    "methods", "targets", "dispatch", "chosen", "overfitting", "composition", "transfer", "written",
    "programs",
)  # fmt: skip
REVISION = 1  # raise it when what a cell means changes


@dataclass(frozen=True)
class ProofPlan:
    """`steps`: of each training. `limit`: rows of a set. `max_new_tokens`: of a written answer."""

    sections: tuple[str, ...] = SECTIONS
    steps: int = 40
    limit: int = 300
    max_new_tokens: int = 192

    def __post_init__(self) -> None:
        for name in self.sections:
            if name not in SECTIONS:
                raise T2LocalError(
                    f"There is no section '{name}' in the proof; "
                    f"choose among {', '.join(SECTIONS)}."
                )
        if self.steps < 4 or self.limit < 1:
            raise T2LocalError("The proof needs 4 steps and 1 row at least.")


def prove(
    loaded: LoadedModel, plan: ProofPlan, report: Callable[[Progress], None]
) -> dict[str, Any]:
    """`{"about": …, "sections": {name: rows}}`. Raises `T2LocalError` for missing data."""
    book = Book(paths.home() / "proof", (REVISION, loaded.name, loaded.quantization, loaded.dtype))
    lab = Laboratory(loaded, book, report)
    found = {name: _section(lab, plan, name) for name in SECTIONS if name in plan.sections}
    tables = [found[name] for name in sections.SETS if name in found]
    if tables:
        found["pass_times"] = sections.pass_times([row for table in tables for row in table])
    return {"about": _about(loaded, plan), "sections": found}


def _section(lab: Laboratory, plan: ProofPlan, name: str) -> list[Cell]:
    sets, experts = measured_sets(plan.limit), _experts(lab.loaded)
    match name:
        case "methods":
            return sections.methods(lab, sets, plan.steps)
        case "targets":
            return sections.targets(lab, sets, plan.steps)
        case "overfitting":
            return sections.overfitting(lab, sets, plan.steps)
        case "composition":
            return sections.composition(lab, sets, experts)
        case "dispatch":
            return confusion(lab, experts)
        case "transfer":
            copy = fine_tuned(lab, plan.steps)
            return sections.transfer(copy, sets, experts["reasoning"])
    source, config = sections.source_and_config(plan.steps)

    def lora():
        return lab.learn("LoRA", source, sections.as_lora(lab, source, config))

    def subject() -> Subject:
        return Subject(lab.loaded, lab.svf, experts)

    return sections.on_unseen_sets(
        lab,
        subject,
        sections.SETS[name],
        plan.limit,
        plan.max_new_tokens,
        lora if name == "chosen" else None,
    )


def _experts(loaded: LoadedModel) -> dict[str, Expert]:
    """The shipped ones, whatever the user has under their names."""
    files = sorted((paths.SHIPPED_EXPERTS / loaded.slug).glob("*.safetensors"))
    if not files:
        raise T2LocalError(
            f"No experts ship for {loaded.name}; run the proof on the embedded model, or train "
            "some and place them beside the shipped ones."
        )
    return {path.stem: read_expert(path) for path in files}


def _about(loaded: LoadedModel, plan: ProofPlan) -> dict[str, Any]:
    return {
        **origin(str(loaded.device)),
        "model": loaded.name,
        "dtype": loaded.dtype,
        "quantization": loaded.quantization,
        "steps": plan.steps,
        "limit": plan.limit,
        "max_new_tokens": plan.max_new_tokens,
        "seed": 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


# --- A proof as Markdown tables: plain text from plain values.

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
