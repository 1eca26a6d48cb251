"""The line on top: which model, how it is held, and how far loading is.

Pure functions from an `EngineStatus` to HTML and to the message box's placeholder.
"""

from html import escape

from t2local.engine.requests import EngineStatus

READY_HINT = "Ask something …"


def header_html(status: EngineStatus) -> str:
    return (
        f'<div class="header"><span class="brand">t2<i>local</i></span>{_facts(status)}'
        '<button type="button" class="theme" data-page="theme" title="Light or dark" '
        'aria-label="Switch between light and dark">◐</button></div>'
    )


def hint(status: EngineStatus) -> str:
    """What the message box says: how to use it, or why it cannot be used yet."""
    if status.error:
        return "The model could not be loaded: see the message at the top."
    if not status.ready:
        return f"One moment, the model is loading: {status.stage} {100 * status.fraction:.0f} %"
    return READY_HINT


def size(n_bytes: int) -> str:
    """`1.1 GB`, `480 KB`: decimal units."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if n_bytes >= factor:
            value = n_bytes / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{n_bytes} B"


def held(status: EngineStatus) -> str:
    """How the weights are held: `float32`, `NF4`, `INT8`."""
    return status.dtype if status.quantization == "none" else status.quantization.upper()


def _facts(status: EngineStatus) -> str:
    if status.error:
        return f'<span class="state failed" role="alert">{escape(status.error)}</span>'
    if not status.ready:
        share = 100 * min(1.0, max(0.0, status.fraction))
        return (
            f'<span class="state loading">{escape(status.stage)}<span class="progress">'
            f'<i style="width:{share:.1f}%"></i></span>{share:.0f} %</span>'
        )
    facts = (
        status.model_name,
        held(status),
        size(status.resident_bytes),
        status.device,
        status.why,
    )
    line = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    return f'<span class="facts">{line}</span><span class="state ready">ready</span>'
