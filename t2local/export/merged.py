"""An expert merged into its base model: an ordinary checkpoint of 16 or 32 bits.

The folder is written under a temporary name and renamed, so that it comes to be all at once.
"""

import copy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from t2local import paths
from t2local.errors import DiskFull, T2LocalError
from t2local.experts import Expert
from t2local.models.load.load_errors import quiet_transformers
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.svf.targets import is_conv1d

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DTYPE = "bfloat16"


@dataclass(frozen=True)
class ExportedModel:
    folder: Path
    dtype: str
    size_bytes: int


def export_merged(
    loaded: LoadedModel, svf: SVFModel, expert: Expert, folder: Path, dtype: str = DTYPE
) -> ExportedModel:
    """Write the adapted model as a folder that `from_pretrained` loads.

    Raises `T2LocalError`: a quantised base, an unknown dtype, what `new_folder` may.
    """
    if loaded.quantization != "none":
        raise T2LocalError(
            f"'{expert.name}' cannot be merged into a model in {loaded.quantization}: rounding "
            "adapted matrices to so few bits erases the expert; load the model with "
            "`--quantize none`, or export with `--to lora`, which fits the quantised base."
        )
    if dtype not in DTYPES:
        raise T2LocalError(f"The dtype '{dtype}' is unknown; choose one of {', '.join(DTYPES)}.")
    weights = adapted_weights(svf, expert, DTYPES[dtype])
    distinct = {tensor.data_ptr(): tensor for tensor in weights.values()}
    needed = sum(t.numel() * t.element_size() for t in distinct.values())
    with new_folder(folder, needed) as temporary, quiet_transformers():
        _ordinary(loaded.model, weights).save_pretrained(temporary)
        # As it is: `save_pretrained` refuses what many published checkpoints have in theirs.
        loaded.model.generation_config.to_json_file(temporary / "generation_config.json")
        loaded.tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(_card(expert, dtype), encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.iterdir())
    return ExportedModel(folder, dtype, size)


@torch.no_grad()
def adapted_weights(svf: SVFModel, expert: Expert, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The model's state dict under its own names, with `W'` for `W`, on the CPU.

    Tensors that the model shares (tied embeddings) are shared here too.
    """
    weights, cast, sigma = {}, {}, svf.singular_values
    for key, tensor in svf.model.state_dict().items():
        owner, _, leaf = key.rpartition(".")
        name = owner.removesuffix(".base")
        own_key = f"{name}.{leaf}" if name in svf.ranks else key
        row = expert.z.get(name) if leaf == "weight" else None
        rebuilt = {} if row is None else svf.rebuild({name: row.to(sigma[name].device)})
        if name in rebuilt:  # unless its z is 1
            matrix = rebuilt[name]
            stored = matrix.T if is_conv1d(svf.base_layers[name]) else matrix
            weights[own_key] = stored.to("cpu", dtype).contiguous()
            continue
        at = (tensor.data_ptr(), tensor.shape)
        if at not in cast:
            wanted = dtype if tensor.is_floating_point() else tensor.dtype
            cast[at] = tensor.to("cpu", wanted).contiguous()
        weights[own_key] = cast[at]
    return weights


def _ordinary(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A model of the same class and config that holds `weights`; no memory of its own."""
    with torch.device("meta"):
        plain = type(model)(copy.deepcopy(model.config))
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    return plain


def _card(expert: Expert, dtype: str) -> str:
    return (
        f"# {expert.base_model} with {expert.name}\n\n{expert.description}\n\n"
        f"A singular-value expert (Transformer², arXiv 2501.06252) merged in {dtype}.\n\n"
        f"- license of the expert: {expert.license}; the base model's own holds too\n"
    )


# --- A folder that comes to be all at once: written under a temporary name, then renamed.


@contextmanager
def new_folder(target: Path, needed_bytes: int) -> Iterator[Path]:
    """Give an empty temporary folder beside `target`; rename it if the block succeeds.

    Raises `T2LocalError` where `target` is there already, cannot be written, or space is short;
    nothing half-written stays.
    """
    _check_absent(target)
    temporary = None
    try:
        with paths.saving(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(target.parent).free
            if free < needed_bytes:
                raise DiskFull(
                    f"'{target}' needs {needed_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are "
                    "free; free some space, or choose another folder."
                )
            temporary = Path(
                tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
            )
            yield temporary
            temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
            for file in temporary.iterdir():
                file.chmod(0o644)  # and so are safetensors' files
            _check_absent(target)
            paths.move(temporary, target)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_absent(target: Path) -> None:
    if target.exists():
        raise T2LocalError(
            f"'{target}' is there already and was not touched; choose another --out, or remove it."
        )
