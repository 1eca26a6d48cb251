"""The Models page as HTML: what is loaded, this machine, the catalogue, one model's memory.

Pure functions; `assets/models.js` turns a click on a card into an event.
"""

import re
from collections.abc import Sequence
from html import escape

from t2local.engine.loading import Sizing
from t2local.engine.requests import EngineStatus
from t2local.models.fit.automatic import Offer
from t2local.models.fit.catalogue import Entry, find
from t2local.models.fit.estimate import GB, Estimate
from t2local.models.load.hub import LocalModel
from t2local.models.storage import BASES, NONE, QUANTIZATIONS
from t2local.ui.messages import term
from t2local.ui.style import held, size

MARKS = {"fits": "good", "tight": "warn", "does not fit": "bad"}
TARGET_WORDS = {"all": "all matrices", "mlp": "MLP only", "attention": "attention only"}
NO_EXPERTS = (
    '<p class="note">There are no experts for this model yet: the base model answers, and the '
    'sliders are empty. <button type="button" class="link" data-act="train">Train one</button></p>'
)


def loaded_html(status: EngineStatus, has_experts: bool) -> str:
    """The model in use, or how far loading is."""
    note = f'<p class="note" role="alert">{escape(status.note)}</p>' if status.note else ""
    if status.error:
        return f'<p class="note" role="alert">{escape(status.error)}</p>{note}'
    if not status.ready:
        return f"{progress_html(status.stage, status.fraction)}{note}"
    weights = status.resident_bytes - status.basis_bytes - status.copies_bytes
    bases = f"{size(status.basis_bytes)}, {status.basis}, {TARGET_WORDS[status.targets]}"
    rows = (
        ("weights", f"{size(weights)}, {escape(held(status))}"),
        (term("bases"), bases),
        (term("copies"), f"{size(status.copies_bytes)} now" if status.copies_bytes else ""),
        ("runs on", escape(status.device)),
        (term("context length"), f"{thousands(status.context_length)} tokens"),
        ("why this one", escape(status.why)),
    )
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows if value)
    remarks = "".join(f'<p class="quiet">{escape(remark)}</p>' for remark in status.remarks)
    return (
        f'<div class="loaded" data-serial="{status.serial}"><h4>{escape(status.model_name)}</h4>'
        f"<dl>{facts}</dl>{remarks}{'' if has_experts else NO_EXPERTS}{note}</div>"
    )


def machine_html(name: str, device: str, total_bytes: int, free_bytes: int, usable: int) -> str:
    """This machine's memory. `usable`: free once the loaded model has made room."""
    used = 100 * (1 - free_bytes / max(1, total_bytes))
    what = "graphics card" if device == "cuda" else "processor; no graphics card that PyTorch knows"
    return (
        f'<div class="machine"><p><b>{escape(name[0].upper() + name[1:])}</b> ({what}): '
        f"{size(total_bytes)}, of which {size(free_bytes)} are free now.</p>"
        f'<span class="scale"><i style="--w:{used:.1f}%"></i></span>'
        f'<p class="quiet">{size(usable)} for a model: loading another one frees the old one '
        "first.</p></div>"
    )


def progress_html(stage: str, fraction: float, more: str = "") -> str:
    share = 100 * min(1.0, max(0.0, fraction))
    words = stage[:1].upper() + stage[1:]
    return (
        f'<div class="working" role="status"><p>{escape(words)} … <b>{share:.0f} %</b>'
        f'{escape(more)}</p><div class="bar-line"><i style="width:{share:.1f}%"></i></div></div>'
    )


def catalogue_html(
    offers: Sequence[Offer],
    others: Sequence[LocalModel],
    half: Sequence[str],
    chosen: str,
    loaded: str,
) -> str:
    """Every offer as a card, then what else lies on this machine. `half`: cut-off downloads."""
    cards = "".join(_offer(offer, half, chosen, loaded) for offer in offers)
    more = "".join(_other(model, chosen, loaded) for model in others)
    more = f'<h3>Also on this machine</h3><div class="model-cards">{more}</div>' if more else ""
    return f'<div class="model-cards">{cards}</div>{more}'


def _offer(offer: Offer, half: Sequence[str], chosen: str, loaded: str) -> str:
    entry, fit = offer.entry, offer.fit
    marks = (
        f'<span class="mark">{"on this machine" if offer.local else _to_fetch(entry, half)}</span>'
    )
    if entry.gated:
        marks += f'<span class="mark">{term("gated")}</span>'
    if entry.sees_images:
        marks += '<span class="mark">sees pictures</span>'
    licence = (
        f'<a href="{escape(entry.license_url)}" target="_blank" rel="noreferrer">'
        f"{escape(entry.license)}</a>"
    )
    advice = f"<p>{escape(sentence(fit.advice))}</p>" if fit.advice else ""
    return _card(
        entry.id,
        entry.title,
        f"{verdict_html(fit.verdict)}<b>{fit.estimate.total_bytes / GB:.1f} GB</b>",
        f"<p>{escape(entry.good_for)}.</p>{advice}<p class='marks'>{marks}</p>"
        f"<footer>{entry.parameters / 1e9:.2g} billion parameters · {licence}</footer>",
        chosen,
        loaded,
        "suggested for this machine" if offer.suggested else "",
    )


def _other(model: LocalModel, chosen: str, loaded: str) -> str:
    where = {"hub": "from the Hub", "gguf": "GGUF file"}.get(model.kind, "folder")
    body = f"<footer>{where} · {size(model.size_bytes)} on the disk</footer>"
    return _card(model.source, model.name, "", body, chosen, loaded)


def _card(
    source: str, title: str, side: str, body: str, chosen: str, loaded: str, ribbon: str = ""
) -> str:
    state = ("chosen " if source == chosen else "") + ("in-use" if source == loaded else "")
    ribbon = "in use now" if source == loaded else ribbon
    badge = f'<span class="ribbon">{ribbon}</span>' if ribbon else ""
    pressed = str(source == chosen).lower()
    return (
        f'<article class="model {state}" data-source="{escape(source)}">{badge}'
        f'<h4><button type="button" aria-pressed="{pressed}">{escape(title)}</button>'
        f'<span class="side">{side}</span></h4>{body}</article>'
    )


def _to_fetch(entry: Entry, half: Sequence[str]) -> str:
    return "half downloaded" if entry.id in half else f"download ≈ {size(2 * entry.parameters)}"


def verdict_html(verdict: str) -> str:
    return f'<span class="verdict {MARKS[verdict]}">{verdict}</span>'


def sentence(words: str) -> str:
    """An advice as a sentence: "To fit well: int8 bases: 4.2 GB."."""
    return f"What would help: {words}."


def sizing_html(found: Sizing, local: LocalModel | None) -> str:
    """One model's verdict here in words, its way of being held, and the table of all ways."""
    fit, shown = found.fit, find(found.source)
    total, training = fit.estimate.total_bytes, fit.estimate.training_total_bytes
    advice = f'<p class="advice">{escape(sentence(fit.advice))}</p>' if fit.advice else ""
    name = shown.title if shown else found.source
    where = "" if local else '<p class="quiet">It is not on this machine yet.</p>'
    return (
        f'<h4>{escape(name)}</h4><p class="words">{verdict_html(fit.verdict)} '
        f"<b>{total / GB:.1f} GB</b> of {found.machine.memory_bytes / GB:.1f} GB for a chat of "
        f"{thousands(fit.estimate.context)} tokens; {training / GB:.1f} GB while an expert is "
        f"trained. Held as {plan_words(fit.estimate)}.</p>{advice}{where}"
    )


def thousands(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


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
    head = "".join(f"<th>{BASES[basis].label}</th>" for basis in bases)
    body = "".join(
        f"<tr><th>{weights_label(kind, found.plan.dtype)}</th>"
        + "".join(_cell(found, by_way[kind, basis]) for basis in bases)
        + "</tr>"
        for kind in kinds
    )
    return (
        f'<div class="scroll"><table class="ways"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(found: Sizing, row: Estimate) -> str:
    verdict = row.verdict(found.machine.memory_bytes)
    mine = ' aria-current="true"' if row.plan == found.plan else ""
    return (
        f"<td{mine}><b>{row.total_bytes / GB:.1f} GB</b>"
        f'<small class="{MARKS[verdict]}">{verdict}</small></td>'
    )


def linked(text: str) -> str:
    """Plain text in which addresses can be followed and commands in backticks stand out."""
    text = escape(text, quote=False)
    text = re.sub(
        r"https://[\w./-]*[\w/]",
        lambda found: f'<a href="{found[0]}" target="_blank" rel="noreferrer">{found[0]}</a>',
        text,
    )
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
