"""`experts ACTION`: list, look at, compare, keep and move the experts of a model.

Listing and keeping load no model. A t2local expert file goes in and out without one, too; import
from other programs, export and transfer load one, for its singular values. An action sets `act`, a
function of the arguments and `report`; `--model`, `--json` and `--data-dir` are added to every one.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.adapt.applier import holding
from t2local.cli import (
    add_flags_of_all,
    add_reward_argument,
    add_storage_arguments,
    log,
    open_model,
)
from t2local.cli.forgotten import add_forgotten
from t2local.cli.look import add_rows_arguments, refuse_flags, source_in
from t2local.cli.prints import add_print
from t2local.errors import T2LocalError
from t2local.experts import Expert, HeldOut, Library, read_expert
from t2local.experts.comparison import Comparison, Facts, compare
from t2local.experts.expert import IN_ORDER, check_free, free_name, transfer_warning
from t2local.experts.library import from_mixture
from t2local.experts.store import Stored, check_fits
from t2local.experts.transfer import ORDERS, import_reference, transfer
from t2local.export.checkpoints import DTYPE, DTYPES, RANK, export_lora, export_merged
from t2local.models.load.loader import LoadedModel, model_slug
from t2local.statistics import paired_difference
from t2local.svf import SVFModel
from t2local.tasks.datasets import DATASETS, dataset
from t2local.tasks.files import read_examples
from t2local.tasks.rows import Example
from t2local.training.validation import score_greedy

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
    add_actions(actions)
    add_print(actions)
    add_forgotten(actions)
    for action in actions.choices.values():
        action.add_argument(
            "--model", metavar="NAME", help="whose experts", default=argparse.SUPPRESS
        )
    add_flags_of_all(actions)


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
        "printed_prompts": 0 if expert.prompt_print is None else len(expert.prompt_print),
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


# --- `experts import|export|transfer`: experts of other models and programs, in and out.
#
# A t2local expert file goes in and out without a model; the others load one, for its singular
# values. One that comes from elsewhere is measured beside the base model.

SUFFIX = ".safetensors"  # of t2local's own expert files
MIXTURE = ".json"  # of a mixture's
FILE, LORA, MERGED = "file", "lora", "merged"
FULL = "full"


def add_actions(subparsers) -> None:
    """Add the three actions to the subparsers of `experts`."""
    _add_import(subparsers)
    _add_export(subparsers)
    _add_transfer(subparsers)


def _add_import(subparsers) -> None:
    parser = subparsers.add_parser(
        "import", help="take in a shared expert, or the reference repository's parameters"
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE",
        help="an expert file, policy_params.pt or learnable_params.pt",
    )  # fmt: skip
    parser.add_argument("--name", help="the new expert's name")
    parser.add_argument(
        "--raw-alpha", type=_numbers, metavar="A,B,...",
        help="mix reference files as their few-shot code does: raw numbers, one α a file",
    )  # fmt: skip
    _add_loading(parser)
    parser.set_defaults(act=import_expert)


def _add_export(subparsers) -> None:
    parser = subparsers.add_parser("export", help="write an expert for other people and programs")
    parser.add_argument("name", help="the expert, or a mixture file (.json) of `adapt`")
    parser.add_argument(
        "--to", default=FILE, choices=(FILE, LORA, MERGED),
        help="file: to share; lora: for PEFT and vLLM; merged: a whole checkpoint",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="PATH")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--rank", type=_rank, default=RANK, metavar="N|full", help=f"of a lora (default {RANK})"
    )
    size.add_argument(
        "--energy", type=float, metavar="0..1", help="the smallest rank that keeps this share"
    )
    parser.add_argument("--dtype", default=DTYPE, choices=tuple(DTYPES), help="of a merged one")
    _add_loading(parser)
    parser.set_defaults(act=export_expert)


def _add_transfer(subparsers) -> None:
    parser = subparsers.add_parser("transfer", help="use an expert of one model on another")
    parser.add_argument("name", help="the expert, or an expert file")
    parser.add_argument("--from", dest="source", metavar="MODEL", help="whose expert it is")
    parser.add_argument("--name", dest="new_name", metavar="NAME", help="the new expert's name")
    parser.add_argument("--order", default=IN_ORDER, choices=ORDERS, help="shuffled: the control")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle")
    add_measure_arguments(parser)
    _add_loading(parser)
    parser.set_defaults(act=transfer_expert)


def _add_loading(parser: argparse.ArgumentParser) -> None:
    """How the model is loaded; which one says `--model`, that every action of experts has."""
    add_storage_arguments(parser)


def import_expert(arguments: argparse.Namespace, report: Report) -> None:
    """Save a file's numbers among the user's experts and say under which name."""
    files: Sequence[Path] = arguments.files
    source = arguments.model or paths.default_model()
    if files[0].suffix == SUFFIX:
        if len(files) > 1 or arguments.raw_alpha is not None:
            raise T2LocalError(
                f"'{files[0].name}' is an expert file of t2local; import such files one by one, "
                "and mix them in the chat or with `ask --alpha`."
            )
        expert, warning = Library(model_slug(source)).import_file(files[0], arguments.name)
        report({"expert": expert.name, "base_model": expert.base_model, "warning": warning})
        return
    library = Library(model_slug(source))
    name = check_free(arguments.name or free_name(files[0].stem, library.names()), library.names())
    loaded, svf = open_model(source, arguments.quantize, arguments.basis)
    expert = import_reference(files, loaded, svf, name, arguments.raw_alpha)
    path = library.add(expert)
    report(_saved(expert, path, expert.description))


def export_expert(arguments: argparse.Namespace, report: Report) -> None:
    """Write the expert and report what it cost in exactness."""
    source = arguments.model or paths.default_model()
    library, out = Library(model_slug(source)), arguments.out.expanduser()
    if out.exists() and (arguments.to != FILE or not out.is_dir()):
        raise T2LocalError(f"'{out}' is there already; choose another --out, or remove it.")
    if arguments.to == FILE:
        if arguments.name.endswith(MIXTURE):
            raise T2LocalError(
                f"'{arguments.name}' is a mixture, already a file to share; export what it mixes "
                "with --to merged or --to lora."
            )
        report({"expert": arguments.name, "file": str(library.share(arguments.name, out))})
        return
    mixed = arguments.name.endswith(MIXTURE)
    expert = None if mixed else library.load(arguments.name)
    merge_auto = arguments.to == MERGED and arguments.quantize == "auto"  # 4 bits cannot be merged
    quantization = "none" if merge_auto else arguments.quantize
    loaded, svf = open_model(source, quantization, arguments.basis)
    expert = expert or from_mixture(Path(arguments.name).expanduser(), library, loaded, svf)
    if warning := check_fits(expert, svf, loaded.name, loaded.quantization):
        log(warning)
    if arguments.to == MERGED:
        merged = export_merged(loaded, svf, expert, out, arguments.dtype)
        size = {"dtype": merged.dtype, "size_bytes": merged.size_bytes}
        report({"expert": expert.name, "folder": str(out), **size})
        return
    rank = None if arguments.rank == FULL else arguments.rank
    lora = export_lora(loaded, svf, expert, out, rank, arguments.energy)
    report(
        {
            "expert": expert.name,
            "folder": str(out),
            "rank": lora.rank,
            "size_bytes": lora.size_bytes,
            "energy_kept": lora.energy_kept,
            "error_of_delta_w": lora.error_of_delta_w,
            "error_of_logits": lora.logits.relative,
            "error_of_change_in_logits": lora.logits.of_change,
        }
    )


def transfer_expert(arguments: argparse.Namespace, report: Report) -> None:
    """Save an expert of `--from` as one of `--model`, measured there if `--data` is given."""
    source = arguments.model or paths.default_model()
    library, rows = Library(model_slug(source)), rows_to_measure(arguments)
    expert = _expert_elsewhere(arguments.name, arguments.source, source)
    name = check_free(arguments.new_name or _transferred_name(expert, library), library.names())
    loaded, svf = open_model(source, arguments.quantize, arguments.basis)
    moved = transfer(expert, loaded, svf, name, arguments.order, arguments.seed)
    if rows:
        held_out = measured(loaded, svf, moved, rows, arguments)
        card = {**moved.training, "held_out": held_out.as_dict()}
        moved = replace(moved, training=card, reward=arguments.reward)
    warning = transfer_warning(moved)
    log(warning)
    report(_saved(moved, library.add(moved), warning))


def _expert_elsewhere(name: str, source: str | None, target: str) -> Expert:
    """The expert in a file, or of this name among those of `source` (default: the target's)."""
    if name.endswith(SUFFIX):
        return read_expert(Path(name).expanduser())
    return Library(model_slug(source or target)).load(name)


def _transferred_name(expert: Expert, library: Library) -> str:
    return free_name(f"{expert.name}-transferred", library.names())


def _saved(expert: Expert, path: Path, warning: str) -> dict[str, Any]:
    held_out = expert.held_out
    return {
        "expert": expert.name,
        "file": str(path),
        "base_model": expert.base_model,
        "matrices": len(expert.z),
        "rms_of_z_minus_1": expert.rms,
        "held_out": held_out.as_dict() if held_out else None,
        "warning": warning,
    }


def _numbers(text: str) -> tuple[float, ...]:
    """`0.6,0.4` as (0.6, 0.4); argparse tells what is no number."""
    return tuple(float(part) for part in text.split(","))


def _rank(text: str) -> int | str:
    return text if text == FULL else int(text)


# --- The accuracy of an expert from elsewhere beside the base model's.
#
# The rows of a file, or the held-out rows of a dataset; answers are greedy, the interval
# paired.


def add_measure_arguments(parser: argparse.ArgumentParser) -> None:
    """`--data`, `--reward`, `--limit` and `--max-new-tokens`: measure before and after."""
    named = ", ".join(DATASETS)
    parser.add_argument("--data", metavar="FILE", help=f"measure on it: a file, or {named}")
    add_reward_argument(parser, "of answers to --data: ", needed=True)
    add_rows_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows only")
    parser.add_argument("--max-new-tokens", type=int, default=128)


def rows_to_measure(arguments: argparse.Namespace) -> Sequence[Example]:
    """The rows that `--data` names, none without it. Raises `T2LocalError` for a bad file."""
    if not arguments.data:
        return ()
    if not arguments.reward:
        raise T2LocalError("--data needs --reward, such as choice, numeric or exact.")
    if arguments.data in DATASETS:
        refuse_flags(arguments.data, arguments)
        rows = dataset(arguments.data).held_out
    else:
        rows = read_examples(Path(source_in(arguments.data, arguments))).examples
    if arguments.limit is not None and arguments.limit < 1:
        raise T2LocalError(f"--limit is {arguments.limit}; it must be 1 or more.")
    return rows[: arguments.limit]


def measured(
    loaded: LoadedModel,
    svf: SVFModel,
    expert: Expert,
    rows: Sequence[Example],
    arguments: argparse.Namespace,
) -> HeldOut:
    """Accuracy of base model and expert on the same rows."""
    right, sigma = [], svf.singular_values
    on_device = {name: row.to(sigma[name].device) for name, row in expert.z.items()}
    for stage, z in (("base", {}), (expert.name, on_device)):
        log(f"measuring {stage} on {len(rows)} rows")
        around = holding(loaded, svf, z)
        scored = score_greedy(loaded, around, rows, arguments.reward, arguments.max_new_tokens)
        right.append(scored.right)
    base, own = right
    _, low, high = paired_difference(base, own)
    n = len(rows)
    return HeldOut(n, sum(base) / n, sum(own) / n, (low, high), Path(arguments.data).name)
