"""The Models page as HTML: what is loaded, this machine, the catalogue, one model's memory.

Here are the values; the elements are in `templates/models.html`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from t2local.engine.loading import Sizing
from t2local.engine.model_slot import FAILED, STOPPED, Download
from t2local.engine.requests import EngineStatus
from t2local.html import percent, thousands
from t2local.models.fit.automatic import Offer
from t2local.models.fit.catalogue import Entry, find
from t2local.models.fit.estimate import Estimate
from t2local.models.load.hub import LocalModel
from t2local.models.storage import BASES, NONE, QUANTIZATIONS
from t2local.ui.style import PAGE, held, size

FILE = "models.html"
TARGET_WORDS = {"all": "all matrices", "mlp": "MLP only", "attention": "attention only"}
LINK = re.compile(r"(https://[\w./-]*[\w/])")
COMMAND = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class State:
    """What every card says of its model. `ribbon`: a word across its corner, or ""."""

    source: str
    title: str
    chosen: bool
    in_use: bool
    ribbon: str


def loaded_html(status: EngineStatus, has_experts: bool) -> str:
    """The model in use, or how far loading is."""
    if status.error or not status.ready:
        stage = _capital(status.stage)
        return PAGE.render(
            FILE, "not_loaded", status=status, stage=stage, share=_share(status.fraction)
        )
    weights = status.resident_bytes - status.basis_bytes - status.copies_bytes
    facts = (
        ("weights", f"{size(weights)}, {held(status)}"),
        ("bases", f"{size(status.basis_bytes)}, {status.basis}, {TARGET_WORDS[status.targets]}"),
        ("copies", f"{size(status.copies_bytes)} now" if status.copies_bytes else ""),
        ("runs on", status.device),
        ("context length", f"{thousands(status.context_length)} tokens"),
        ("why this one", status.why),
    )
    known = [(name, value) for name, value in facts if value]
    return PAGE.render(FILE, "loaded", status=status, facts=known, has_experts=has_experts)


def machine_html(name: str, device: str, total_bytes: int, free_bytes: int, usable: int) -> str:
    """This machine's memory. `usable`: free once the loaded model has made room."""
    what = "graphics card" if device == "cuda" else "processor; no graphics card that PyTorch knows"
    return PAGE.render(
        FILE,
        "machine",
        name=_capital(name),
        what=what,
        total=total_bytes,
        free=free_bytes,
        used=1 - free_bytes / max(1, total_bytes),
        usable=usable,
    )


def progress_html(stage: str, fraction: float, more: str = "") -> str:
    return PAGE.render(FILE, "working", stage=_capital(stage), share=_share(fraction), more=more)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _share(fraction: float) -> float:
    return min(1.0, max(0.0, fraction))


def catalogue_html(
    offers: Sequence[Offer],
    others: Sequence[LocalModel],
    half: Sequence[str],
    chosen: str,
    loaded: str,
) -> str:
    """Every offer as a card, then what else lies on this machine. `half`: cut-off downloads."""
    return PAGE.render(
        FILE,
        "catalogue",
        offers=[_offer(offer, half, chosen, loaded) for offer in offers],
        others=[_other(model, chosen, loaded) for model in others],
    )


def _offer(
    offer: Offer, half: Sequence[str], chosen: str, loaded: str
) -> tuple[State, Offer, str, str]:
    """The card's state, the offer, what there is to fetch, what would help."""
    entry, suggested = offer.entry, "suggested for this machine" if offer.suggested else ""
    state = _state(entry.id, entry.title, chosen, loaded, suggested)
    return state, offer, _to_fetch(entry, half), _advice(offer.fit.advice)


def _other(model: LocalModel, chosen: str, loaded: str) -> tuple[State, str, int]:
    """The card's state, where the model is from, its size in bytes."""
    where = {"hub": "from the Hub", "gguf": "GGUF file"}.get(model.kind, "folder")
    return _state(model.source, model.name, chosen, loaded), where, model.size_bytes


def _state(source: str, title: str, chosen: str, loaded: str, ribbon: str = "") -> State:
    in_use = source == loaded
    return State(source, title, source == chosen, in_use, "in use now" if in_use else ribbon)


def _to_fetch(entry: Entry, half: Sequence[str]) -> str:
    if entry.id in half:
        return "half downloaded"
    if entry.file:
        return f"download {size(entry.file.size_bytes)}"
    return f"download ≈ {size(2 * entry.parameters)}"


def _advice(words: str) -> str:
    """An advice as a sentence, "" for none."""
    return f"What would help: {words}." if words else ""


def sizing_html(found: Sizing, local: LocalModel | None) -> str:
    """One model's verdict here in words, its way of being held, and the table of all ways."""
    entry = find(found.source)
    return PAGE.render(
        FILE,
        "sizing",
        name=entry.title if entry else found.source,
        fit=found.fit,
        machine=found.machine,
        plan=plan_words(found.fit.estimate),
        advice=_advice(found.fit.advice),
        is_here=local is not None,
    )


def plan_words(row: Estimate) -> str:
    plan = row.plan
    weights = weights_label(plan.quantization, plan.dtype)
    return f"{weights}, {BASES[plan.basis].label}, {TARGET_WORDS[plan.targets]}"


def weights_label(kind: str, dtype: str) -> str:
    return dtype if kind == NONE else QUANTIZATIONS[kind].label


def table_html(found: Sizing) -> str:
    """Total memory of each quantisation × basis, with its verdict."""
    rows = found.table
    bases = list(dict.fromkeys(row.plan.basis for row in rows))
    kinds = list(dict.fromkeys(row.plan.quantization for row in rows))
    by_way = {(row.plan.quantization, row.plan.basis): row for row in rows}
    return PAGE.render(
        FILE,
        "ways",
        columns=[BASES[basis].label for basis in bases],
        rows=[
            (
                weights_label(kind, found.plan.dtype),
                [_cell(found, by_way[kind, basis]) for basis in bases],
            )
            for kind in kinds
        ],
    )


def _cell(found: Sizing, row: Estimate) -> tuple[int, str, bool]:
    """Bytes, the verdict, and whether the model would be held so."""
    return row.total_bytes, row.verdict(found.machine.memory_bytes), row.plan == found.plan


def offer_html(offer: Offer, download: Download | None) -> str:
    """A model that is better than the loaded one: to be fetched, on its way, or to be loaded."""
    entry, share = offer.entry, None
    good_for = entry.good_for[:1].lower() + entry.good_for[1:]
    n_bytes = entry.file.size_bytes if entry.file else 2 * entry.parameters
    words, act, label = (
        f"{good_for}; {size(n_bytes)}; {offer.fit.verdict}.",
        "fetch_model",
        "Fetch it",
    )
    if offer.local:
        words, act, label = f"{good_for}; it is on this machine.", "switch_model", "Switch to it"
    elif download is not None and download.running:
        total = max(1, download.total_bytes)
        share = min(1.0, download.done_bytes / total)
        speed = f", {size(int(download.bytes_per_s))}/s" if download.bytes_per_s else ""
        of = f"{percent(share)} of {size(download.total_bytes)}{speed}"
        words = f"{of if download.total_bytes else 'asking for it'}; chat on meanwhile."
        act, label = "stop_fetching", "Stop"
    elif download is not None and download.stage == FAILED:
        words, label = download.message, "Try again"
    elif download is not None and download.stage == STOPPED:
        words, label = "stopped; what has arrived is kept.", "Go on fetching"
    return PAGE.render(
        FILE, "offer", title=entry.title, words=words, act=act, label=label, share=share
    )


def linked(text: str) -> str:
    """Plain text in which addresses can be followed and commands in backticks stand out."""
    return PAGE.render(FILE, "linked", pieces=_pieces(text))


def advice_html(text: str, urgent: bool = False) -> str:
    """The same as a note. `urgent`: it is read out where a screen reader runs."""
    return PAGE.render(FILE, "advice", pieces=_pieces(text), urgent=urgent)


def _pieces(text: str) -> list[tuple[bool, list[tuple[bool, str]]]]:
    """Whether it is a command; its text in pieces, each with whether it is an address."""
    return [
        (bool(i % 2), [(bool(k % 2), piece) for k, piece in enumerate(LINK.split(part))])
        for i, part in enumerate(COMMAND.split(text))
    ]
