"""Which models' steps know beforehand where they look: what a decoding of our own relies on.

Knows nothing of weights.
"""

from transformers import PreTrainedConfig

STATIC_ROPE = {"default", "linear", "llama3"}  # cosines that do not depend on the text's length
FULL = "full_attention"


def positions_problem(config: PreTrainedConfig) -> str:
    """What about positions moves with the length of the text, in a few words; "" if nothing."""
    if config.rope_parameters.get("rope_type", "default") not in STATIC_ROPE:
        return "its rotary embedding changes with the length of the text"
    if any(kind != FULL for kind in _attention_kinds(config)):
        return "its attention has a window"
    return ""


def _attention_kinds(config: PreTrainedConfig) -> list[str]:
    """What each layer attends to, by transformers' names; families without a window say nothing."""
    if getattr(config, "layer_types", None):
        return list(config.layer_types)
    windowed = getattr(config, "sliding_window", None) is not None
    return ["sliding_attention"] if windowed else []
