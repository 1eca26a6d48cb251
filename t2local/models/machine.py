"""The memory that a model may use: of this machine, or of a card that is only named.

What this process holds already counts as free: switching models frees the old one.
"""

from dataclasses import dataclass

import psutil
import torch

from t2local.errors import T2LocalError
from t2local.models.fit.estimate import GB


@dataclass(frozen=True)
class Machine:
    """Where a model would run. `memory_bytes`: what it and its bases may take there."""

    device: str  # "cuda" | "cpu"
    name: str
    memory_bytes: int


def this_machine() -> Machine:
    """The GPU with the most memory to use, else this computer's own memory."""
    cards = [_card(index) for index in range(torch.cuda.device_count())]
    if cards:
        return max(cards, key=lambda card: card.memory_bytes)
    usable = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    return Machine("cpu", "this computer's memory", usable)


def named_card(vram_gb: float) -> Machine:
    """A GPU of `vram_gb` times 10⁹ bytes. Raises `T2LocalError` for none."""
    if not 0 < vram_gb <= 10_000:
        raise T2LocalError(f"A card of {vram_gb:g} GB is not one; say its memory, as --vram 12.")
    return Machine("cuda", f"a {vram_gb:g} GB card", int(vram_gb * GB))


def _card(index: int) -> Machine:
    free = torch.cuda.mem_get_info(index)[0] + torch.cuda.memory_reserved(index)
    return Machine("cuda", torch.cuda.get_device_name(index), free)
