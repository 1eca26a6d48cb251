"""A PEFT LoRA adapter from a folder, to be put in force as `LoRAMethod` does while it trains.

So that LoRA, the paper's baseline, is evaluated beside experts on a model that stays untouched.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from t2local.errors import T2LocalError
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.training.lora import PREFIX, LoRAMethod

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
NOT_PLAIN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class LoRAAdapter:
    """`numbers`: how many were trained; `sha256`: of all of them."""

    method: LoRAMethod
    flat: torch.Tensor
    sha256: str

    @property
    def numbers(self) -> int:
        return self.flat.numel()

    def holding(self) -> Around:
        return self.method.holding(self.flat)


def read_adapter(loaded: LoadedModel, svf: SVFModel, folder: Path) -> LoRAAdapter:
    """Raises `T2LocalError`: no adapter, damaged, of other matrices or another model's shapes."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise T2LocalError(
            f"'{folder}' holds no LoRA adapter that can be read ({error}); name a folder with "
            f"{CONFIG} and {TENSORS}, such as a LoRA run's 'adapter'."
        ) from error
    _check_kind(folder, config, tensors, svf, loaded.name)
    method = LoRAMethod(loaded, svf, rank, alpha, seed=0)
    parts, start = [], method.start()
    for name, layer in method.layers.items():
        for part, matrix in zip("AB", _shapes(layer), strict=True):
            tensor = tensors[f"{PREFIX}{name}.lora_{part}.weight"]
            if tensor.shape != matrix:
                raise T2LocalError(
                    f"'{folder}' has {list(tensor.shape)} numbers for '{name}', and {loaded.name} "
                    f"needs {list(matrix)}; use an adapter that was trained on this model."
                )
            parts.append(tensor.float().flatten())
    flat = torch.cat(parts).to(start)
    return LoRAAdapter(method, flat, hashlib.sha256(flat.cpu().numpy().tobytes()).hexdigest())


def _check_kind(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    svf: SVFModel,
    model_name: str,
) -> None:
    wanted = {f"{PREFIX}{name}.lora_{part}.weight" for name in svf.matrix_names for part in "AB"}
    special = [name for name in NOT_PLAIN if config.get(name)]
    if tensors.keys() != wanted or special:
        found = ", ".join(special) or f"{len(tensors) // 2} matrices"
        raise T2LocalError(
            f"'{folder}' is an adapter with {found}; {model_name} is evaluated with plain LoRA on "
            f"its {len(svf.matrix_names)} adapted matrices; train one with `--method lora`."
        )


def _shapes(layer) -> tuple[torch.Size, torch.Size]:
    return tuple(getattr(layer, f"lora_{part}")["default"].weight.shape for part in "AB")
