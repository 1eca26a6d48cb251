"""GGUF files: read as ordinary transformers models, or written anew as an ordinary checkpoint."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.integrations.gguf.reader import read_gguf_metadata
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
    load_gguf_checkpoint,
)

from t2local.errors import DiskFull, T2LocalError

GGUF_MAGIC = b"GGUF"


def read_gguf_model(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a `.gguf` file, its weights dequantised to `dtype`, on the CPU.

    Raises `T2LocalError` when the file is no GGUF, is damaged or holds an unknown architecture.
    """
    with readable(path):
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, trust_remote_code=False
        )
        model.generation_config.eos_token_id = end_tokens(path)
    return without_quantization_mark(model)


def read_gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a `.gguf` file, chat template included; raises as `read_gguf_model`."""
    with readable(path):
        return AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, trust_remote_code=False
        )


def end_tokens(path: Path) -> list[int] | None:
    """The ids with which a text, a turn or a message ends, as the file's metadata has them.

    transformers reads the first kind alone.
    """
    metadata, _ = read_gguf_metadata(path, ())
    found = (metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom"))
    return list(dict.fromkeys(int(i) for i in found if i is not None)) or None


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
            f"'{path}' is not a GGUF file (it begins with {start!r}); delete it and fetch it "
            "again, or name a folder with a safetensors checkpoint."
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


# --- The numbers of a configuration, before a model is made of them.
#
# A layer is an object even on the device `meta`, and some configurations make a list of all layers:
# absurd numbers would fill the memory before anybody compares them with the weights.

MOST = {  # by name, the first that fits; the largest models there are stay far below
    re.compile(r"position|context|window"): 2**40,
    re.compile(r"hidden|intermediate|embd|embed_|_dim$|d_model|ffn|inner|width"): 2_000_000,
    re.compile(r"layers$|n_layer$|depths?$"): 2_000,
    re.compile(r"heads?($|_kv)|groups?$"): 20_000,
    re.compile(r"experts?($|_)"): 100_000,
    re.compile(r"vocab_size"): 100_000_000,
}


COUNTS = re.compile(  # of these none can be below 0; elsewhere −1 means "none" or "the last"
    r"^(num_|n_)|(hidden|intermediate|vocab|embed|embedding)_size$|^(d_model|d_ff|ffn_dim)$"
    r"|^max_position_embeddings$|^n(layer|head|embd|positions|ctx)$"
)


def check_sizes(where: str, values: Mapping[str, Any]) -> None:
    """Raise `T2LocalError` for a size in a configuration that no model has: 10⁹ layers, or −1.

    Parts such as `text_config` are looked at as well. Places may be counted from the end.
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            check_sizes(where, value)
        most = next((most for pattern, most in MOST.items() if pattern.search(str(name))), None)
        if most is None:
            continue
        least = 0 if COUNTS.search(str(name)) else -most
        for number in value if isinstance(value, list) else [value]:
            if type(number) in (int, float) and not least <= number <= most:
                raise T2LocalError(
                    f"The configuration of '{where}' says {str(name)[:60]} = {number:.4g}, which "
                    "no model has; fetch it again, or choose another model."
                )


# --- Written anew as an ordinary checkpoint, tensor by tensor.
#
# transformers reads all tensors of a GGUF as floats at once: 16 GB for an 8B model that is wanted
# in 4 bits. Here each is dequantised, put into transformers' order and written before the next, and
# the checkpoint is loaded like any other, shard by shard. The floats take their size on the disk
# for as long as loading lasts.

SHARD_BYTES = 8 * 2**20  # tensors are written together up to this size, larger ones alone


def gguf_config(path: Path) -> PreTrainedConfig:
    """The configuration in a `.gguf` file. Raises `T2LocalError` when it cannot be read.

    What `AutoConfig` does, with a look at the numbers before anything is made of them.
    """
    with readable(path):
        values, _ = PreTrainedConfig.get_config_dict(path.parent, gguf_file=path.name)
        values["eos_token_id"] = end_tokens(path)
        check_sizes(path.name, values)
        return CONFIG_MAPPING[values["model_type"]].from_dict(values)


def write_checkpoint(path: Path, folder: Path, dtype: torch.dtype, n_parameters: int) -> None:
    """The model and tokenizer of a `.gguf` file as a safetensors checkpoint in `folder`.

    Raises `T2LocalError` for a file that cannot be read, and where the disk is too small.
    """
    needed, free = n_parameters * dtype.itemsize, shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"Reading '{path.name}' needs {needed / 1e9:.1f} GB in {folder.parent} for a while, "
            f"where {free / 1e9:.1f} GB are free; make room there, or set T2LOCAL_HOME to another "
            "disk."
        )
    with readable(path):
        gguf_config(path).save_pretrained(folder)
        read_gguf_tokenizer(path).save_pretrained(folder)
        shards, waiting, size, names = 0, {}, 0, {}
        for name, tensor in _tensors(path, dtype):
            if waiting and size + tensor.nbytes > SHARD_BYTES:
                shards, waiting, size = _write(folder, shards, waiting, names), {}, 0
            waiting[name], size = tensor, size + tensor.nbytes
        _write(folder, shards, waiting, names)
        index = {"metadata": {}, "weight_map": names}
        text = json.dumps(index, indent=1)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _tensors(path: Path, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """transformers' name and the numbers of each tensor, one at a time; experts' stacks last."""
    reader = GGUFReader(path)
    parsed = load_gguf_checkpoint(path, return_tensors=False)
    architecture = reader.fields["general.architecture"].contents()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=parsed["config"])
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(gguf_config(path), trust_remote_code=False)
    names = get_gguf_hf_weights_map(empty, processor)
    parsed["tensors"] = {}  # where a processor keeps what it puts together of several tensors
    for stored in reader.tensors:
        found = processor.process(
            weights=dequantize(stored.data, stored.tensor_type),
            name=stored.name,
            tensor_key_mapping=names,
            parsed_parameters=parsed,
        )
        if found.name in names:
            numbers = np.require(found.weights, requirements=["C", "W"])
            yield names[found.name], torch.from_numpy(numbers).to(dtype)
        del found
    for name, numbers in parsed["tensors"].items():
        yield name, numbers.to(dtype)


def _write(folder: Path, shards: int, tensors: dict[str, Tensor], names: dict[str, str]) -> int:
    """Write one more shard, note in `names` where its tensors are; the number of shards."""
    file = f"model-{shards + 1:05d}.safetensors"
    try:
        save_file(tensors, folder / file, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise DiskFull(f"'{folder}' cannot be written ({error}); make room there.") from error
    names.update(dict.fromkeys(tensors, file))
    return shards + 1
