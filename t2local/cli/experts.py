"""`experts ACTION`: list, look at, compare and keep the experts of a model. No model is loaded.

Moving experts between programs and models is in `experts_move`. An action sets `act`, a function
of the arguments and `report`; `--model`, `--json` and `--data-dir` are added to every one here.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from t2local import paths
from t2local.cli import experts_move
from t2local.experts import Expert, HeldOut, Library
from t2local.experts.comparison import Comparison, Facts, compare
from t2local.experts.store import Stored
from t2local.models.load.loader import model_slug

Report = Callable[[dict[str, Any]], None]


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("experts", help="list, compare, rename, share ... experts")
    parser.add_argument("--model", default=None, metavar="NAME", help="whose experts")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add(actions, "list", list_experts, "all experts of a model")
    _add(actions, "show", show, "one expert's card", "name")
    comparing = _add(actions, "compare", compare_experts, "two or more experts side by side")
    comparing.add_argument("names", nargs="+", metavar="NAME")
    _add(actions, "rename", rename, "give one of your experts another name", "name", "new")
    copying = _add(actions, "duplicate", duplicate, "copy an expert", "name")
    copying.add_argument("new", nargs="?", help="the copy's name (default: NAME-copy)")
    _add(actions, "delete", delete, "move one of your experts to the trash", "name")
    bringing = _add(actions, "restore", restore, "bring a deleted expert back", "name")
    bringing.add_argument("new", nargs="?", help="another name for it")
    experts_move.add_actions(actions)
    for action in actions.choices.values():
        suppressed = {"default": argparse.SUPPRESS}  # or it would undo what stood before ACTION
        action.add_argument("--model", metavar="NAME", help="whose experts", **suppressed)
        action.add_argument("--json", action="store_true", help="one JSON object", **suppressed)
        action.add_argument("--data-dir", metavar="DIR", **suppressed)


def run(arguments: argparse.Namespace, report: Report) -> None:
    arguments.act(arguments, report)


def library_of(arguments: argparse.Namespace) -> Library:
    """The experts of `--model`, or of the model that is loaded when nobody says."""
    return Library(model_slug(arguments.model or paths.default_model()))


def list_experts(arguments: argparse.Namespace, report: Report) -> None:
    files = library_of(arguments).files()
    if arguments.json:
        report({"experts": [_row(file) for file in files]})
        return
    for file in files:
        print(_line(file))
    if not files:
        print("No experts for this model yet; train one with `python -m t2local train`.")


def show(arguments: argparse.Namespace, report: Report) -> None:
    report(card(library_of(arguments).load(arguments.name)))


def compare_experts(arguments: argparse.Namespace, report: Report) -> None:
    library = library_of(arguments)
    compared = compare([library.load(name) for name in arguments.names])
    if arguments.json:
        report(compared.as_dict())
        return
    print("\n".join(comparison_lines(compared)))


def rename(arguments: argparse.Namespace, report: Report) -> None:
    renamed = library_of(arguments).rename(arguments.name, arguments.new)
    report({"renamed": arguments.name, "expert": renamed.name})


def duplicate(arguments: argparse.Namespace, report: Report) -> None:
    copy = library_of(arguments).duplicate(arguments.name, arguments.new)
    report({"duplicated": arguments.name, "expert": copy.name})


def delete(arguments: argparse.Namespace, report: Report) -> None:
    library_of(arguments).delete(arguments.name)
    undo = f"python -m t2local experts restore {arguments.name}"
    report({"deleted": arguments.name, "undo": undo})


def restore(arguments: argparse.Namespace, report: Report) -> None:
    report({"expert": library_of(arguments).restore(arguments.name, arguments.new)})


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


def _add(actions, name: str, act: Callable, words: str, *names: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=words, description=words)
    for positional in names:
        parser.add_argument(positional, metavar=positional.upper())
    parser.set_defaults(act=act)
    return parser


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


# --- Experts' figures as lines of text: held-out accuracy, and two or more experts side by side.


def gain(held_out: HeldOut | None) -> str:
    """Held-out accuracy before and after, with the interval of the difference, in words."""
    if held_out is None:
        return "not measured"
    low, high = held_out.ci95_difference
    return (
        f"{held_out.base:.3f} → {held_out.trained:.3f} on {held_out.n} held-out rows "
        f"(difference {low:+.3f} to {high:+.3f}, 95 %)"
    )


def comparison_lines(compared: Comparison) -> Iterator[str]:
    for facts in compared.experts:
        yield from _expert_lines(facts)
    yield "alike (cosine of z − 1; 1: the same, 0: nothing in common):"
    for pair in compared.likeness:
        by_layer = " ".join(_number(value) for value in pair.by_layer.values())
        yield f"  {pair.first} · {pair.second}: {_number(pair.overall)}"
        yield f"    by layer: {by_layer}"


def _expert_lines(facts: Facts) -> Iterator[str]:
    yield f"{facts.name} ({facts.kind})"
    yield f"  held out: {gain(facts.held_out)}"
    for measured in facts.forgetting:
        yield f"  on {measured.task}: {gain(measured)}"
    known = {"reward": facts.reward, "steps": facts.steps, "rows": facts.rows}
    told = [f"{name} {value}" for name, value in known.items() if value]
    told += [f"{facts.numbers:,} numbers", f"rms of z − 1 {facts.rms:.4f}"]
    yield f"  {', '.join(told)}"


def _number(cosine: float | None) -> str:
    return "–" if cosine is None else f"{cosine:+.2f}"
