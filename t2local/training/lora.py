"""LoRA by PEFT, the paper's baseline (rank 16, alpha 32), through the same loop as SVF.

PEFT's layers are made around the base layers in a tree of their own and stand in for them only
inside `holding`: the model itself is never touched, so chat, base values and SVF go on beside. An
adapter read from a folder is put in force in the same way.
Departure from the paper: no dropout, which would make a resumed run differ.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from t2local import paths
from t2local.errors import T2LocalError
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.models.storage import QUANTIZATIONS
from t2local.svf import SVFModel
from t2local.untrusted import read_document, typed

ADAPTER = "default"
PREFIX = "base_model.model."  # of the names in a PEFT checkpoint
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
NOT_PLAIN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")  # more than plain LoRA


def lora_config(
    rank: int, alpha: float, matrices: list[str] | str, base_model: str | None = None
) -> LoraConfig:
    """Plain LoRA without dropout on `matrices`: their names, or PEFT's word for a set of them."""
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=matrices,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
    )


class LoRAMethod:
    """`flat`: every A `[rank, n]` and B `[m, rank]` in a row; `change` is |ΔW| / |W| (Frobenius).

    The same matrices as SVF adapts.
    """

    def __init__(
        self, loaded: LoadedModel, svf: SVFModel, rank: int, alpha: float, seed: int
    ) -> None:
        self.loaded, self.svf = loaded, svf
        self.config = lora_config(rank, alpha, list(svf.matrix_names), loaded.name)
        with torch.random.fork_rng():  # PEFT draws the first A from the global generator
            torch.manual_seed(seed)
            tree = inject_adapter_in_model(self.config, self._tree(), ADAPTER)
        self.layers = {name: tree.get_submodule(name) for name in svf.matrix_names}
        assert all(isinstance(layer, LoraLayer) for layer in self.layers.values())
        self._norms = {n: float(s.norm()) for n, s in svf.singular_values.items()}
        self._start = torch.cat([p.detach().float().flatten() for p in self._parameters()])

    def start(self) -> torch.Tensor:
        return self._start.clone()

    def holding(self, flat: torch.Tensor) -> Around:
        self._point_at(flat)
        return lambda: self.svf.using_instead(self.layers)

    def change(self, flat: torch.Tensor) -> Mapping[str, float]:
        self._point_at(flat.detach())
        return {name: self._size(layer) / self._norms[name] for name, layer in self.layers.items()}

    def save(self, flat: torch.Tensor, folder: Path) -> None:
        """Write a PEFT adapter that `PeftModel.from_pretrained` loads. Raises `T2LocalError`."""
        self._point_at(flat.detach())
        tensors = {
            f"{PREFIX}{name}.lora_{part}.weight": matrix.detach().cpu().contiguous().clone()
            for name, layer in self.layers.items()
            for part, matrix in zip("AB", _matrices(layer), strict=True)
        }
        values = self.config.to_dict() | {"inference_mode": True}
        text = json.dumps(values, indent=1, default=_plain)
        with paths.atomic_write(folder / "adapter_config.json") as temporary:
            temporary.write_text(text, encoding="utf-8")
        with paths.atomic_write(folder / "adapter_model.safetensors") as temporary:
            temporary.write_bytes(save(tensors, metadata={"format": "pt"}))

    def _tree(self) -> nn.Module:
        """The base layers under their names in an otherwise empty module, for PEFT to wrap."""
        root = nn.Module()
        held = QUANTIZATIONS[self.loaded.quantization].bitsandbytes
        root.is_loaded_in_4bit = "load_in_4bit" in held
        root.is_loaded_in_8bit = "load_in_8bit" in held
        root.hf_device_map = {"": self.loaded.device}  # grouped layers have no parameter to ask
        for name, layer in self.svf.base_layers.items():
            parent = root
            *above, leaf = name.split(".")
            for part in above:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(leaf, layer)
        return root

    def _parameters(self) -> list[nn.Parameter]:
        return [matrix for layer in self.layers.values() for matrix in _matrices(layer)]

    def _point_at(self, flat: torch.Tensor) -> None:
        """Let PEFT's parameters be views of `flat`, and their gradients views of its gradient."""
        if flat.requires_grad and flat.grad is None:
            flat.grad = torch.zeros_like(flat)
        start = 0
        for parameter in self._parameters():
            part = slice(start, start + parameter.numel())
            parameter.data = flat.detach()[part].view(parameter.shape)
            parameter.requires_grad_(flat.requires_grad)
            parameter.grad = flat.grad[part].view(parameter.shape) if flat.requires_grad else None
            start = part.stop
        assert start == flat.numel(), (start, flat.numel())

    @staticmethod
    def _size(layer: LoraLayer) -> float:
        """|scaling · B A|, by the small Gram matrices."""
        a, b = (matrix.detach() for matrix in _matrices(layer))
        square = ((a @ a.T) * (b.T @ b)).sum().clamp(min=0)
        return layer.scaling[ADAPTER] * float(square.sqrt())


def _matrices(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


def _plain(value):
    return sorted(value) if isinstance(value, set) else str(value)


# --- An adapter from a folder, to be evaluated beside experts.


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
        config = read_document(folder / CONFIG, once=False)  # PEFT takes it too
        tensors = load_file(folder / TENSORS)
        rank = typed(int, config.get("r"), "r")
        alpha = typed(float, config.get("lora_alpha"), "lora_alpha")
    except (OSError, ValueError, SafetensorError) as error:
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
