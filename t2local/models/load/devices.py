"""Which device and float type a model gets here, and where its layers go.

One device where the model fits, else several GPUs, CPU memory and disk. Memory that loading frees
goes back to the system at once.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedConfig

from t2local.models.fit.anatomy import Anatomy, anatomy
from t2local.models.fit.automatic import BF16_ABOVE_PARAMETERS, ROUNDED_ABOVE_PARAMETERS
from t2local.models.fit.estimate import PROGRAM_BYTES, Plan, bases_bytes, estimate, weights_bytes
from t2local.models.fit.memory import free_on, return_freed_memory
from t2local.models.storage import AUTO, INT8, NONE, QUANTIZATIONS, leanest

BFLOAT16_CAPABILITY = (8, 0)  # Ampere; before it bfloat16 is emulated, and slow
FLOAT16_CAPABILITY = (7, 0)  # Volta; before it float16 has no fast units either
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
NVIDIA_DRIVER_WINDOWS = Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll")
NEEDS_WIDE_RANGE = ("gemma2", "gemma3", "gemma3_text")  # their activations overflow in float16


def choose_device() -> str:
    """The CUDA (or ROCm) device with the most free memory, else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    count = torch.cuda.device_count()
    if count < 2:
        return "cuda"
    return f"cuda:{max(range(count), key=free_on)}"


def choose_dtype(n_parameters: int, model_type: str = "") -> torch.dtype:
    """bfloat16 on a GPU and for big models on the CPU, else float32.

    On a GPU without bfloat16: float16, or float32 where that is slow or overflows.
    """
    if not torch.cuda.is_available():
        big = n_parameters > BF16_ABOVE_PARAMETERS
        return torch.bfloat16 if big else torch.float32
    capability = lowest_capability()
    if capability >= BFLOAT16_CAPABILITY:
        return torch.bfloat16
    narrow = capability >= FLOAT16_CAPABILITY and model_type not in NEEDS_WIDE_RANGE
    return torch.float16 if narrow else torch.float32


def choose_quantization(asked: str, n_parameters: int) -> str:
    """What "auto" means on this machine for a model of this size."""
    if asked != AUTO:
        return asked
    short = torch.cuda.is_available() and n_parameters > ROUNDED_ABOVE_PARAMETERS
    return leanest().name if short else NONE


def lowest_capability() -> tuple[int, int]:
    """The compute capability that all GPUs here have."""
    return min(
        torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())
    )


def notes(quantization: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Sentences for the log and the page about how a model runs here; () where all is well."""
    if not torch.cuda.is_available():
        problem = gpu_problem()
        if bits := QUANTIZATIONS[quantization].bits:
            why = problem or "no CUDA GPU was found"
            return (
                f"{bits}-bit weights run on the CPU, where they save memory and are "
                f"slow: {why}; use `--quantize none` if the model fits without.",
            )
        return (f"The model runs on the CPU: {problem}.",) if problem else ()
    if dtype == torch.bfloat16:
        return ()
    major, minor = lowest_capability()
    return (
        f"This GPU (compute capability {major}.{minor}) has no fast bfloat16; "
        f"the model computes in {str(dtype).removeprefix('torch.')}.",
    )


def gpu_problem() -> str:
    """Why an NVIDIA GPU that is there cannot be used, "" where there is none to be seen."""
    if torch.version.cuda is None:
        drivers = (NVIDIA_DRIVER, NVIDIA_DRIVER_WINDOWS)
        if torch.version.hip is None and any(driver.is_file() for driver in drivers):
            return (
                "this PyTorch was built without CUDA though there is an NVIDIA GPU; "
                "install the CUDA build of PyTorch (https://pytorch.org/get-started)"
            )
        return ""
    try:
        torch.cuda.init()  # its error says why; `is_available` says it once, and to nobody
    except RuntimeError as error:
        text = str(error)
    else:
        return ""
    if "driver" in text and "too old" in text:
        return (
            f"the NVIDIA driver is too old for PyTorch's CUDA {torch.version.cuda}; "
            "update the driver, or install a PyTorch built for an older CUDA"
        )
    return ""


# --- Where the layers go.
#
# A model that does not fit on the best device is spread by accelerate's `device_map`, with room on
# each device for the bases beside its layers. Layers outside the GPUs travel to one in every
# forward: slow, but it runs. All numbers come from the configuration.

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
        index: free_on(index) + torch.cuda.memory_reserved(index)
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
    plan = Plan(kind, INT8, "mlp", _plan_dtype(dtype), device)
    best = max((memory[gpu] for gpu in gpus), default=memory["cpu"])
    fits = estimate(parts, plan, context=1).total_bytes <= best
    if fits or (kind != NONE and not gpus):
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
    if plan.quantization != NONE:
        whole = weights_bytes(parts, NONE, plan.dtype)
        found["cpu"] = int(found["cpu"] * weights / whole)
    return {**found, "disk": DISK_BYTES}


def _plan_dtype(dtype: torch.dtype) -> str:
    return "float32" if dtype == torch.float32 else "bfloat16"


# --- Memory that loading frees goes back to the system at once.
#
# transformers quantises and converts matrix by matrix, so the tensors alive never exceed the final
# size by more than one of them. But glibc keeps freed blocks of up to 32 MiB in its heap, scattered
# between the ones that stay: a 52 MB int8 model read from bfloat16 held 217 MB. Blocks of their own
# (`mmap`) are returned when they are freed. On other C libraries nothing is done.

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
OWN_BLOCK_BYTES = 128 * 1024  # glibc's own beginning, which it raises with each larger block freed
AFTERWARDS_BYTES = 32 * 2**20  # where it ends: a running model reuses its blocks


@contextlib.contextmanager
def blocks_returned_when_freed() -> Iterator[None]:
    """Inside the block every large tensor that is freed is given back to the system."""
    _set(M_MMAP_THRESHOLD, OWN_BLOCK_BYTES)
    try:
        yield
    finally:
        _set(M_MMAP_THRESHOLD, AFTERWARDS_BYTES)
        _set(M_TRIM_THRESHOLD, 2 * AFTERWARDS_BYTES)
        return_freed_memory()


def _set(option: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL("libc.so.6").mallopt(option, value)
    except (OSError, AttributeError):  # another C library
        return
