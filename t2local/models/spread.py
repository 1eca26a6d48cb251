"""Where a model's layers go: one device where it fits, else several GPUs, CPU memory and disk.

What does not fit on the best device is spread by accelerate's `device_map`, with room left on each
for the bases beside its layers. Layers outside the GPUs travel to one in every forward: slow, but
they run. Numbers come from the configuration alone. Knows nothing of weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch
from transformers import PreTrainedConfig

from t2local.models.fit.anatomy import Anatomy, anatomy
from t2local.models.fit.estimate import PROGRAM_BYTES, Plan, bases_bytes, estimate, weights_bytes
from t2local.models.load.devices import choose_device

Memory = Mapping[int | str, int]  # bytes free: GPU number -> , "cpu" ->
DISK_BYTES = 10**15  # accelerate wants a number; what is offloaded lies in the checkpoint already


@dataclass(frozen=True)
class Placement:
    """`device_map` and `max_memory` as transformers' `from_pretrained` takes them."""

    device_map: dict[str, str] | str
    max_memory: dict[int | str, int] | None = None

    @property
    def spread(self) -> bool:
        return self.max_memory is not None


def free_memory() -> Memory:
    """Bytes that a model may take now on each GPU and in CPU memory."""
    memory: dict[int | str, int] = {
        index: torch.cuda.mem_get_info(index)[0] + torch.cuda.memory_reserved(index)
        for index in range(torch.cuda.device_count())
    }
    own = psutil.Process().memory_info().rss
    return {**memory, "cpu": psutil.virtual_memory().available + own}


def place(config: PreTrainedConfig, kind: str, dtype: torch.dtype, memory: Memory) -> Placement:
    """Where the model of `config` goes, quantised as `kind`, with so much `memory` free.

    One device where it fits with the smallest bases (int8, MLP only), which is what the automatic
    choices come down to. Quantised models are never spread without a GPU: on the CPU, bitsandbytes
    cannot read them from disk.
    """
    parts = anatomy(config)
    gpus = [device for device in memory if device != "cpu"]
    device = "cuda" if gpus else "cpu"
    plan = Plan(kind, "int8", "mlp", _plan_dtype(dtype), device)
    best = max((memory[gpu] for gpu in gpus), default=memory["cpu"])
    fits = estimate(parts, plan, context=1).total_bytes <= best
    if fits or (kind != "none" and not gpus):
        return Placement({"": choose_device()})
    return Placement("auto", _shares(parts, plan, memory))


def _shares(parts: Anatomy, plan: Plan, memory: Memory) -> dict[int | str, int]:
    """What of each device's memory is for weights: the rest is for bases and working buffers.

    Bases count as int8 ones of all matrices, in proportion to the weights they are beside. Outside
    the GPUs layers are not quantised, so a quantised model's take more there than is planned.
    """
    weights = weights_bytes(parts, plan.quantization, plan.dtype)
    share = weights / (weights + bases_bytes(parts, plan.basis, "all"))
    work = estimate(parts, plan, context=1).reserve_bytes - PROGRAM_BYTES[plan.device]
    found: dict[int | str, int] = {}
    for device, free in memory.items():
        program = PROGRAM_BYTES["cpu" if device == "cpu" else "cuda"]
        room = max(0, int((free - program - work) * share))
        found[device] = room
    if plan.quantization != "none":
        whole = weights_bytes(parts, "none", plan.dtype)
        found["cpu"] = int(found["cpu"] * weights / whole)
    return {**found, "disk": DISK_BYTES}


def _plan_dtype(dtype: torch.dtype) -> str:
    return "float32" if dtype == torch.float32 else "bfloat16"
