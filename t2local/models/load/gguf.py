"""GGUF files as ordinary transformers models.

transformers dequantises a GGUF while it loads but marks the model as quantised, so that it can be
neither saved nor quantised again: the mark is taken off here. Knows nothing of where files come
from.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from t2local.errors import T2LocalError

GGUF_MAGIC = b"GGUF"


def read_gguf_model(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a `.gguf` file, its weights dequantised to `dtype`, on the CPU.

    Raises `T2LocalError` when the file is no GGUF, is damaged or holds an unknown architecture.
    """
    with readable(path):
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    return without_quantization_mark(model)


def read_gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a `.gguf` file, chat template included; raises as `read_gguf_model`."""
    with readable(path):
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the readers of a `.gguf` file raise inside the block into one `T2LocalError`."""
    check_magic(path)
    try:
        yield
    except T2LocalError:
        raise
    except Exception as error:  # the readers raise many kinds, `Exception` itself among them
        raise T2LocalError(
            f"'{path}' could not be read as a GGUF model ({first_line(error)}); "
            "use a complete file of an architecture that transformers can read from GGUF."
        ) from error


def check_magic(path: Path) -> None:
    """Raise `T2LocalError` unless the file begins like a GGUF."""
    with path.open("rb") as file:
        start = file.read(len(GGUF_MAGIC))
    if start != GGUF_MAGIC:
        raise T2LocalError(
            f"'{path}' is not a GGUF file (it begins with {start!r}); fetch it again, "
            "or name a folder with a safetensors checkpoint."
        )


def without_quantization_mark(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model built from the config without its `quantization_config`."""
    left_out = ("quantization_config", "_name_or_path")
    config = type(model.config).from_dict(
        {k: v for k, v in model.config.to_dict().items() if k not in left_out}
    )
    with torch.device("meta"):
        plain = type(model)(config)
    plain.to(model.dtype)
    # Buffers that are in no state dict (rotary frequencies) come from the loaded model as well.
    plain.load_state_dict(model.state_dict(), assign=True, strict=True)
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        plain.get_submodule(owner)._buffers[leaf] = buffer
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain.eval()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for one sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
