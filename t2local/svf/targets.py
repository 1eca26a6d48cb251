"""Which layers of a model are adapted, and what their names say about them.

Any transformers causal LM: the linear layers inside its numbered blocks; of a vision-language model
those of its language model. Embeddings and the output head are never adapted (paper, section 3.1:
MLP and attention matrices).
"""

import re
from collections import Counter
from collections.abc import Iterable

from torch import nn

from t2local.errors import T2LocalError

SHARING = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # one input, side by side
ATTENTION_PARTS = (".self_attn.", ".attn.", ".attention.")
LANGUAGE_PARTS = (".language_model.", ".text_model.")  # of a vision-language model


def depth_of(name: str) -> int | None:
    """The layer number in a matrix name (`model.layers.3.mlp.up_proj` -> 3)."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def is_attention(name: str) -> bool:
    """Whether a matrix belongs to an attention module (else it counts as MLP)."""
    return any(part in f".{name}." for part in ATTENTION_PARTS)


def sharing_input(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The groups among `names` whose layers get the very same input in every forward."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name in names:
        parent, _, child = name.rpartition(".")
        for kind, children in enumerate(SHARING):
            if child in children:
                groups.setdefault((parent, kind), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def is_conv1d(layer: nn.Module) -> bool:
    """GPT-2's `Conv1D` (weight `[n, m]`), known by its name: this package needs torch alone."""
    return type(layer).__name__ == "Conv1D"


def find_targets(model: nn.Module, targets: str = "all") -> dict[str, nn.Module]:
    """Matrix name -> layer, in the model's own order.

    `targets`: "all", "mlp", "attention", or a regular expression searched in the names.
    Raises `T2LocalError` when nothing matches, naming what was found instead.
    """
    linear = {
        name: layer
        for name, layer in model.named_modules()
        if (isinstance(layer, nn.Linear) or is_conv1d(layer)) and depth_of(name) is not None
    }
    linear = {n: layer for n, layer in linear.items() if _is_language(n)} or linear
    if not linear:
        kinds = Counter(type(m).__name__ for m in model.modules() if not list(m.children()))
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6))
        raise T2LocalError(
            f"{type(model).__name__} cannot be adapted: SVF needs linear layers in numbered blocks "
            f"and found only {found}; choose a Llama-, Mistral-, Qwen-, Gemma-, Phi-3- or "
            "GPT-2-like model."
        )
    chosen = {name: layer for name, layer in linear.items() if _matches(name, targets)}
    if not chosen:
        raise T2LocalError(
            f"Target pattern '{targets}' matches none of the {len(linear)} linear layers "
            f"(the first is '{next(iter(linear))}'); use all, mlp, attention or a pattern of names."
        )
    return chosen


def _is_language(name: str) -> bool:
    return any(part in name for part in LANGUAGE_PARTS)


def _matches(name: str, targets: str) -> bool:
    if targets == "all":
        return True
    if targets in ("mlp", "attention"):
        return is_attention(name) == (targets == "attention")
    try:
        return re.search(targets, name) is not None
    except re.error as error:
        raise T2LocalError(
            f"Target pattern '{targets}' is not a regular expression ({error}); "
            "use all, mlp, attention or a pattern of names."
        ) from error
