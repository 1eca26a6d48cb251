"""Which device and float type a model gets here, and a sentence for what is not as one would hope.

Pure choices from what PyTorch says of this machine; knows nothing of a model but its size.
"""

import os
from pathlib import Path

import torch

from t2local.models.fit.automatic import BF16_ABOVE_PARAMETERS, NF4_ABOVE_PARAMETERS

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
    return f"cuda:{max(range(count), key=lambda index: torch.cuda.mem_get_info(index)[0])}"


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
    if asked != "auto":
        return asked
    wants_nf4 = torch.cuda.is_available() and n_parameters > NF4_ABOVE_PARAMETERS
    return "nf4" if wants_nf4 else "none"


def lowest_capability() -> tuple[int, int]:
    """The compute capability that all GPUs here have."""
    return min(
        torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())
    )


def notes(quantization: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Sentences for the log and the page about how a model runs here; () where all is well."""
    if not torch.cuda.is_available():
        problem = gpu_problem()
        if quantization != "none":
            why = problem or "no CUDA GPU was found"
            return (
                f"{_BITS[quantization]} weights run on the CPU, where they save memory and are "
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


_BITS = {"nf4": "4-bit", "int8": "8-bit"}


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
