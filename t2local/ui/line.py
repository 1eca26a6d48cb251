"""The line under the message box: speed, and how full the model's context is."""

from t2local.engine.requests import EngineStatus


def line_html(status: EngineStatus, tokens_per_s: float, context_used: int) -> str:
    if not status.ready:
        return ""
    limit = max(1, status.context_length)
    share = min(100.0, 100 * context_used / limit)
    speed = f"<b>{tokens_per_s:.0f} tok/s</b> · " if tokens_per_s else ""
    full = " full" if share > 85 else ""
    return (
        f'<span class="line">{speed}{context_used:,} of {limit:,} tokens'
        f'<span class="context{full}" title="how full the context is">'
        f'<i style="width:{share:.1f}%"></i></span></span>'
    ).replace(",", "\u202f")
