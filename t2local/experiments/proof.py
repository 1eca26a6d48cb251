"""The whole proof, section by section, as one JSON object: what the command `prove` runs.

Sections are independent and remembered cell by cell (`book`): any of them may be asked for alone,
and a second run of all is a matter of seconds. The shipped experts are used as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from t2local import paths
from t2local.errors import T2LocalError
from t2local.evaluation.variants import Subject
from t2local.experiments import sections
from t2local.experiments.laboratory import Laboratory
from t2local.experts import Expert
from t2local.experts.store import read_expert
from t2local.models.load.loader import LoadedModel
from t2local.progress import Progress
from t2local.proof import strategies
from t2local.proof.book import Book, Cell
from t2local.proof.copies import fine_tuned
from t2local.proof.dispatch import confusion
from t2local.proof.measured_sets import measured_sets
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
    tables = [found[name] for name in strategies.SETS if name in found]
    if tables:
        found["pass_times"] = strategies.pass_times([row for table in tables for row in table])
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

    return strategies.on_unseen_sets(
        lab,
        subject,
        strategies.SETS[name],
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
