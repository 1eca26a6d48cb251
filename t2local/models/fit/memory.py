"""What this machine can run: devices, memory, packages, and the memory a model may use."""

import ctypes
import gc
import os
import platform
import sys
from dataclasses import dataclass, field
from importlib import metadata

import psutil
import torch

from t2local.errors import T2LocalError
from t2local.models.fit.estimate import GB
from t2local.models.load.quantized import problem
from t2local.models.storage import NONE, QUANTIZATIONS

PACKAGES = ("torch", "transformers", "bitsandbytes", "accelerate", "safetensors", "gradio")
NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Gpu:
    """One CUDA (or ROCm) device."""

    name: str
    total_bytes: int
    free_bytes: int
    bfloat16: bool


@dataclass(frozen=True)
class DeviceReport:
    """This machine at this moment."""

    system: str  # "Linux 6.1.0 x86_64", for bug reports
    python: str
    cpu_cores: int  # that this process may use
    ram_total_bytes: int
    ram_free_bytes: int
    gpus: tuple[Gpu, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)  # name -> version
    quantizations: dict[str, str] = field(default_factory=dict)  # name -> "", or why not here


def device_report() -> DeviceReport:
    """Look at this machine; takes a second or two, since quantisations are tried."""
    memory = psutil.virtual_memory()
    return DeviceReport(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cpu_cores=_usable_cores(),
        ram_total_bytes=memory.total,
        ram_free_bytes=memory.available,
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())),
        packages={name: _version(name) for name in PACKAGES},
        quantizations={
            name: problem(name)
            for name, kind in QUANTIZATIONS.items()
            if name != NONE and not kind.of_gguf
        },
    )


def free_bytes(device: str) -> int:
    """Memory that is free now: of the GPU a model is on, else of this machine."""
    if device.startswith("cuda"):
        return free_on(torch.device(device))
    return psutil.virtual_memory().available


def free_on(device: torch.device | int) -> int:
    """Bytes of a GPU that this process may still take: those free, within a cap that it was set."""
    if isinstance(device, torch.device):  # the cap is asked for by number only
        device = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(device)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(device))
    return max(0, min(free, allowed - torch.cuda.memory_reserved(device)))


def total_bytes(device: str) -> int:
    """Memory there is, free or not: of the GPU a model is on, else of this machine."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[1]
    return psutil.virtual_memory().total


def peak_memory_bytes() -> int:
    """The most memory held so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # Windows has no such module

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gpu(index: int) -> Gpu:
    return Gpu(
        name=torch.cuda.get_device_name(index),
        total_bytes=torch.cuda.mem_get_info(index)[1],
        free_bytes=free_on(index),
        bfloat16=torch.cuda.get_device_capability(index) >= (8, 0),
    )


def _usable_cores() -> int:
    if platform.system() == "Linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def held_bytes(device: str) -> int:
    """Memory held at this moment: on the GPU that `device` names, else by this process."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(torch.device(device))
    return psutil.Process().memory_info().rss


def free_memory() -> None:
    """Collect what nobody holds any more and give it back to the system and the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return_freed_memory()


def return_freed_memory() -> None:
    """Give what was freed back to the system, which glibc does not do by itself."""
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return


# --- The memory that a model may use: of this machine, or of a card that is only named.
#
# What this process holds counts as free, because switching models frees the old one.


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
    free = free_on(index) + torch.cuda.memory_reserved(index)
    return Machine("cuda", torch.cuda.get_device_name(index), free)
