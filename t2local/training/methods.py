"""What is trained, as one flat vector, and how it is put in force around a forward.

The loop, the policies and the checkpoints know only this: SVF (paper, section 3.1) trains the `z`
of all matrices; LoRA, the paper's baseline, is in `training.lora`.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

import torch

from t2local.adapt.applier import holding
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, Z
from t2local.svf.targets import depth_of
from t2local.training.config import LORA, TrainConfig


class Method(Protocol):
    """`flat`: all trained numbers `[P]`, float32. Where it asks for a gradient it receives one."""

    def start(self) -> torch.Tensor:
        """The numbers of the base model, from which training starts."""

    def holding(self, flat: torch.Tensor) -> Around:
        """How to hold `flat` over many forwards; read again after the optimiser has moved it."""

    def change(self, flat: torch.Tensor) -> Mapping[str, float]:
        """Matrix name -> how far it is from the base model's, 0 at the start."""


class SVFMethod:
    """`flat` is the `z` of all matrices `[Σr]`; `change` is the rms of `z − 1`."""

    def __init__(self, loaded: LoadedModel, svf: SVFModel) -> None:
        self.loaded, self.svf = loaded, svf

    def start(self) -> torch.Tensor:
        return torch.cat(list(self.svf.identity().values()))

    def holding(self, flat: torch.Tensor) -> Around:
        return holding(self.loaded, self.svf, self.z(flat))

    def change(self, flat: torch.Tensor) -> Mapping[str, float]:
        return {n: float((z - 1).square().mean().sqrt()) for n, z in self.z(flat).items()}

    def z(self, flat: torch.Tensor) -> Z:
        """Views of `flat`, by matrix name."""
        rows = flat.split(list(self.svf.ranks.values()))
        return dict(zip(self.svf.matrix_names, rows, strict=True))


def method_for(loaded: LoadedModel, svf: SVFModel, config: TrainConfig) -> Method:
    """The method that the configuration names."""
    if config.method == LORA:
        from t2local.training.lora import LoRAMethod  # PEFT alone takes 60 MB of memory

        return LoRAMethod(loaded, svf, config.lora_rank, config.lora_alpha, config.seed)
    return SVFMethod(loaded, svf)


def change_by_layer(change: Mapping[str, float]) -> tuple[float, ...]:
    """Root mean square over the matrices of each layer, in order."""
    layers: dict[int, list[float]] = defaultdict(list)
    for name, size in change.items():
        layers[depth_of(name)].append(size)
    return tuple(_rms(layers[depth]) for depth in sorted(layers))


def overall_change(change: Mapping[str, float]) -> float:
    """Root mean square over all matrices."""
    return _rms(list(change.values()))


def _rms(values: list[float]) -> float:
    return (sum(v * v for v in values) / len(values)) ** 0.5
