"""Running out of memory while a model works: one sentence for the user, and the memory freed."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from t2local.errors import T2LocalError
from t2local.models.fit.memory import free_memory
from t2local.models.load.loader import LoadedModel
from t2local.models.storage import INT8, leanest

CPU_ALLOCATOR = "DefaultCPUAllocator"  # how PyTorch says it where there is no class for it


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of a forward or backward pass says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or CPU_ALLOCATOR in str(error)


@dataclass(frozen=True)
class Work:
    """What needed the memory: its `name`, and what makes it smaller first of all."""

    name: str
    remedy: str


ANSWER = Work("This answer", "shorten the chat or begin a new one")


@contextlib.contextmanager
def out_of_memory_told(
    loaded: LoadedModel, forget: Callable[[], None], work: Work = ANSWER
) -> Iterator[None]:
    """Turn running out of memory in the block into a `T2LocalError`; the model stays usable.

    `forget` drops what can be made again (kept KV caches). The error's frames are cleared, because
    they hold the tensors of the forward that failed.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        forget()
        free_memory()
        raise T2LocalError(_sentence(loaded, work)) from error


def _sentence(loaded: LoadedModel, work: Work) -> str:
    ways = [work.remedy, f"load the model with `--basis {INT8}`"]
    if loaded.quantization != (rounded := leanest().name):
        ways.append(f"with `--quantize {rounded}`")
    ways.append("or with MLP targets only")
    memory = "the GPU's memory" if loaded.device.startswith("cuda") else "this machine's memory"
    context = f" (the context may grow to {loaded.context_length:,} tokens)"
    return f"{work.name} needed more than {memory}{context}; {', '.join(ways)}."
