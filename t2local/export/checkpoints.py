"""An expert for other programs: merged into its base model, or as a LoRA adapter.

The folder is written under a temporary name and renamed, so that it comes to be all at once.
"""

import copy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from t2local import paths
from t2local.errors import DiskFull, T2LocalError
from t2local.experts import Expert
from t2local.models.chat_format import render_chat
from t2local.models.load.load_errors import quiet_transformers
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, Z
from t2local.svf.basis import is_conv1d
from t2local.svf.layer import SVFLinear, weight_as_used

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


# --- As a LoRA adapter that PEFT, vLLM and llama.cpp's converter read.
#
# Says how far such an approximation is from the expert, in logits.

# --- How far an approximation of an expert is from the expert, in logits.
#
# Measured on a few fixed prompts, at every position, all of the vocabulary.

PROMPTS = (
    "Tom has 3 boxes with 12 pencils each and gives 7 pencils away. How many are left?",
    "Which part of a plant takes in most of the water it needs?",
    "Write a function to count the vowels in a string.",
    "Hello, how are you today?",
)


@dataclass(frozen=True)
class LogitErrors:
    """Norms of the difference: `relative` to the expert's logits, `of_change` to what it changes.

    `of_change` is 0 for the expert itself and 1 for the base model.
    """

    relative: float
    of_change: float


@torch.no_grad()
def logit_errors(loaded: LoadedModel, svf: SVFModel, expert: Z, approximation: Z) -> LogitErrors:
    """Of the model under `approximation` against the model under `expert`, both `z`."""
    off = size = change = 0.0
    for prompt in PROMPTS:
        ids = torch.tensor([render_chat(loaded.tokenizer, [{"role": "user", "content": prompt}])])
        base, exact, near = (
            _logits(loaded, svf, z, ids.to(loaded.model.device))
            for z in ({}, expert, approximation)
        )
        off += float((near - exact).square().sum())
        size += float(exact.square().sum())
        change += float((exact - base).square().sum())
    return LogitErrors((off / size) ** 0.5, (off / change) ** 0.5 if change else 0.0)


def _logits(loaded: LoadedModel, svf: SVFModel, z: Z, ids: torch.Tensor) -> torch.Tensor:
    with svf.using(z):
        return loaded.model(input_ids=ids, use_cache=False).logits.double()  # [1, T, vocabulary]


if TYPE_CHECKING:
    from peft import LoraConfig

RANK = 16
PREFIX = "base_model.model."  # of the names in a PEFT checkpoint
FLOAT_BYTES = 4


@dataclass(frozen=True)
class ExportedLoRA:
    """`energy_kept`: share of Σ (σ(z − 1))²; `error_of_delta_w`: |ΔW − BA| / |ΔW| (Frobenius)."""

    folder: Path
    rank: int
    size_bytes: int
    energy_kept: float
    error_of_delta_w: float
    logits: LogitErrors


def export_lora(
    loaded: LoadedModel,
    svf: SVFModel,
    expert: Expert,
    folder: Path,
    rank: int | None = RANK,
    energy: float | None = None,
) -> ExportedLoRA:
    """Write `expert` as an adapter of this rank, or of the smallest that keeps this energy.

    `rank` None: as many as the largest matrix has, so nothing is lost. Raises `T2LocalError`:
    a rank below 1, an energy outside 0 to 1, an expert that changes nothing, what `new_folder` may.
    """
    if rank is not None and rank < 1:
        raise T2LocalError(f"The rank is {rank}; it must be 1 or more, or full.")
    changes = _energies(svf, expert.z)
    total = float(sum(row.sum() for row in changes.values()))
    if total == 0:
        raise T2LocalError(f"Expert '{expert.name}' changes nothing, so there is no adapter of it.")
    longest = max(len(row) for row in changes.values())
    if energy is not None:
        rank = rank_for(changes, energy)
    rank = longest if rank is None else min(rank, longest)
    kept = {name: _strongest(row, rank) for name, row in changes.items()}
    lost = 1 - float(sum(changes[name][at].sum() for name, at in kept.items())) / total
    near = {name: _only(expert.z[name], at) for name, at in kept.items()}
    errors = logit_errors(loaded, svf, expert.z, near)
    layers = {name: svf.model.get_submodule(name) for name in kept}
    lost = max(lost, 0.0)
    needed = FLOAT_BYTES * rank * sum(_sides(layer.base) for layer in layers.values())
    with new_folder(folder, needed) as temporary:
        tensors = {}
        for name, layer in layers.items():
            a, b = _factors(layer, expert.z[name], kept[name], rank)
            tensors[f"{PREFIX}{name}.lora_A.weight"] = a
            tensors[f"{PREFIX}{name}.lora_B.weight"] = b
        save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        _config(loaded, layers, rank).save_pretrained(temporary)
        card = _adapter_card(expert, rank, lost, errors)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.iterdir())
    return ExportedLoRA(folder, rank, size, 1 - lost, lost**0.5, errors)


def rank_for(changes: Z, energy: float) -> int:
    """The smallest rank, one for all matrices, that keeps the share `energy` of the change.

    `changes`: matrix name -> (σ(z − 1))² `[r]`. Raises `T2LocalError` outside 0 < energy ≤ 1.
    """
    if not 0 < energy <= 1:
        raise T2LocalError(f"The energy to keep is {energy:g}; it must be above 0 and at most 1.")
    longest = max(len(row) for row in changes.values())
    gained = torch.zeros(longest, dtype=torch.float64)
    for row in changes.values():
        gained[: len(row)] += row.sort(descending=True).values
    shares = gained.cumsum(0) / gained.sum()
    enough = (shares >= energy - 1e-12).nonzero()
    return int(enough[0]) + 1 if len(enough) else longest


def _energies(svf: SVFModel, z: Z) -> Z:
    """(σ(z − 1))² `[r]` float64 on the CPU, of the matrices that change at all."""
    sigma = svf.singular_values
    squares = {
        name: (sigma[name].cpu().double() * (row.cpu().double() - 1)).square()
        for name, row in z.items()
    }
    return {name: row for name, row in squares.items() if row.any()}


def _strongest(row: torch.Tensor, rank: int) -> torch.Tensor:
    """The places `[≤ rank]` of the largest entries that are not 0."""
    places = row.argsort(descending=True)[:rank]
    return places[row[places] > 0]


def _only(row: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """`z` `[r]` with every number 1 but the kept ones."""
    near = torch.ones_like(row)
    near[kept] = row[kept]
    return near


def _sides(layer: nn.Module) -> int:
    """m + n of a linear layer, quantised or not."""
    return sum(layer.weight.shape) if is_conv1d(layer) else layer.out_features + layer.in_features


@torch.no_grad()
def _factors(
    layer: SVFLinear, row: torch.Tensor, kept: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A `[rank, n]` and B `[m, rank]`, float32 on the CPU, zeros beyond the kept directions."""
    weight = weight_as_used(layer.base).float()  # [m, n]
    vectors = layer.basis.dense()[kept.to(weight.device)]  # [k, r]
    change = (row[kept].float() - 1).to(weight.device)[:, None]  # [k, 1]
    if layer.basis.side == "in":
        a, b = vectors, (vectors @ weight.T * change).T
    else:
        a, b = change * (vectors @ weight), vectors.T
    whole_a = torch.zeros(rank, weight.shape[1])
    whole_b = torch.zeros(weight.shape[0], rank)
    whole_a[: len(kept)], whole_b[:, : len(kept)] = a.cpu(), b.cpu()
    return whole_a, whole_b


def _config(loaded: LoadedModel, layers: dict[str, SVFLinear], rank: int) -> "LoraConfig":
    from peft import LoraConfig  # PEFT alone takes 60 MB of memory: not at every start

    return LoraConfig(
        r=rank,
        lora_alpha=rank,  # a scaling of 1: the factors are ΔW itself
        lora_dropout=0.0,
        target_modules=list(layers),
        fan_in_fan_out=any(is_conv1d(layer.base) for layer in layers.values()),
        task_type="CAUSAL_LM",
        base_model_name_or_path=loaded.model.config.name_or_path or loaded.name,
        inference_mode=True,
    )


def _adapter_card(expert: Expert, rank: int, lost: float, errors: LogitErrors) -> str:
    return (
        f"---\nlibrary_name: peft\n---\n# {expert.name}\n\n{expert.description}\n\n"
        f"LoRA of rank {rank} made from a singular-value expert of {expert.base_model} "
        "(Transformer², arXiv 2501.06252).\n\n"
        f"- relative error of ΔW: {lost**0.5:.2e}\n"
        f"- relative error of logits: {errors.relative:.2e} "
        f"({errors.of_change:.2e} of the expert's change)\n"
        f"- license: {expert.license}\n"
    )
