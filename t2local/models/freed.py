"""Loading without leftovers: what is freed while a model loads goes back to the system at once.

transformers quantises and converts matrix by matrix, so the tensors alive never exceed the final
size by more than one of them. glibc however keeps freed blocks of up to 32 MiB in its heap, where
they lie scattered between the ones that stay: a 52 MB int8 model read from bfloat16 held 217 MB.
Blocks of their own (`mmap`) are returned when they are freed. Elsewhere than on glibc nothing is
done. Knows nothing of models.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

from t2local.models.fit.memory import return_freed_memory

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
