"""`experts list|show`: the experts of a model, and one expert's card. No model is loaded."""

import argparse
from collections.abc import Callable
from typing import Any

from t2local import paths
from t2local.experts import Expert, ExpertStore, HeldOut
from t2local.experts.store import Stored
from t2local.models.load import model_slug


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("experts", help="list experts, or show one expert's card")
    parser.add_argument("action", choices=("list", "show"))
    parser.add_argument("name", nargs="?", help="the expert to show")
    parser.add_argument("--model", default=None, metavar="NAME", help="whose experts")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    store = ExpertStore(model_slug(arguments.model or paths.default_model()))
    if arguments.action == "show":
        if not arguments.name:
            arguments.parser.error("experts show needs a name")
        report(card(store.load(arguments.name)))
        return
    files = store.files()
    if arguments.json:
        report({"experts": [_row(file) for file in files]})
        return
    for file in files:
        print(_line(file))
    if not files:
        print("No experts for this model yet; train one with `python -m t2local train`.")


def card(expert: Expert) -> dict[str, Any]:
    """Everything an expert's file says of it."""
    return {
        "name": expert.name,
        "kind": expert.kind,
        "description": expert.description,
        "base_model": expert.base_model,
        "basis_fingerprint": expert.basis_fingerprint,
        "reward": expert.reward,
        "matrices": len(expert.z),
        "numbers": expert.size,
        "rms_of_z_minus_1": expert.rms,
        "labels": list(expert.labels),
        "license": expert.license,
        "training": dict(expert.training),
    }


def _row(file: Stored) -> dict[str, Any]:
    expert = file.expert
    if expert is None:
        return {"name": file.path.stem, "problem": file.problem, "shipped": file.shipped}
    held_out = expert.held_out
    return {
        "name": expert.name,
        "kind": expert.kind,
        "description": expert.description,
        "shipped": file.shipped,
        "size_bytes": file.path.stat().st_size,
        "held_out": held_out.as_dict() if held_out else None,
    }


def _line(file: Stored) -> str:
    if file.expert is None:
        return f"{file.path.stem:12} {file.problem}"
    return f"{file.expert.name:12} {file.expert.kind:10} {gain(file.expert.held_out)}"


def gain(held_out: HeldOut | None) -> str:
    """Held-out accuracy before and after, with the interval of the difference, in words."""
    if held_out is None:
        return "not measured"
    low, high = held_out.ci95_difference
    return (
        f"{held_out.base:.3f} → {held_out.trained:.3f} on {held_out.n} held-out rows "
        f"(difference {low:+.3f} to {high:+.3f}, 95 %)"
    )
