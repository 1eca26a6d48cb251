"""Other libraries' progress bars and warnings, silenced while our own progress events speak."""

import contextlib
import logging as python_logging
from collections.abc import Iterator

from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars, and only errors from transformers and accelerate; restored after it."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    accelerate = python_logging.getLogger("accelerate")
    before = accelerate.level
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    accelerate.setLevel(python_logging.ERROR)
    try:
        yield
    finally:
        accelerate.setLevel(before)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """No progress bar from huggingface_hub inside the block; restored after it."""
    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            enable_progress_bars()
