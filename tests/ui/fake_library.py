"""A library without a model or files: it changes the list of experts that a fake engine shows."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from t2local.engine.requests import ExpertInfo
from t2local.errors import T2LocalError
from t2local.experts import Deleted, Expert
from t2local.experts.comparison import Comparison, compare

MATRICES = [f"model.layers.{layer}.mlp.up_proj" for layer in range(30)]


class FakeLibrary:
    """`shipped`: what there is at first; later ones are the user's own."""

    def __init__(self, shipped: Callable[[], list[ExpertInfo]]) -> None:
        self.shipped, self.own, self.trash = shipped, {}, []
        self.shared: list[str] = []

    def all(self) -> list[ExpertInfo]:
        return [*self.shipped(), *self.own.values()]

    def rename(self, name: str, new: str) -> str:
        if new in {expert.name for expert in self.all()}:
            raise T2LocalError(f"There is an expert '{new}' already; choose another name.")
        self.own[new] = replace(_found(self.own, name), name=new)
        del self.own[name]
        return new

    def duplicate(self, name: str) -> str:
        original = _found({expert.name: expert for expert in self.all()}, name)
        copy = f"{name}-copy"
        self.own[copy] = replace(original, name=copy, shipped=False)
        return copy

    def note_prompts(self, name: str) -> int:
        self.own[name] = replace(_found(self.own, name), prompts=64)
        return 64

    def back(self, name: str) -> None:
        self.own[name] = replace(_found(self.own, name), versions=1)

    def delete(self, name: str) -> None:
        self.trash.insert(0, _found(self.own, name))
        del self.own[name]

    def restore(self, name: str) -> str:
        found = _found({expert.name: expert for expert in self.trash}, name)
        self.trash.remove(found)
        self.own[name] = found
        return name

    def deleted(self) -> list[Deleted]:
        return [Deleted(expert.name, Path(expert.name), time.time()) for expert in self.trash]

    def import_file(self, path: str, name: str | None = None) -> tuple[str, str]:
        name = name or Path(path).stem
        self.own[name] = ExpertInfo(name, "Given by a friend.", shipped=False, size_bytes=400_000)
        return name, ""

    def share(self, name: str, path: Path) -> Path:
        _found({expert.name: expert for expert in self.all()}, name)
        target = Path(path) / f"{name}.safetensors"
        target.write_bytes(name.encode())
        return target

    def compare(self, names: list[str]) -> Comparison:
        return compare([_expert(name, seed) for seed, name in enumerate(names)])


def _found(experts: dict[str, ExpertInfo], name: str) -> ExpertInfo:
    if name not in experts:
        raise T2LocalError(f"There is no expert '{name}'; choose another.")
    return experts[name]


def _expert(name: str, seed: int) -> Expert:
    generator = torch.Generator().manual_seed(seed)
    z = {m: 1 + 0.02 * torch.randn(64, generator=generator) for m in MATRICES}
    curve = [0.02 * step - 0.4 + 0.1 * seed for step in range(40)]
    held_out = {"n": 240, "base": 0.467, "trained": 0.593, "ci95_difference": [0.06, 0.19]}
    training = {"curve": curve, "held_out": held_out, "steps": 40, "rows": {"train": 500}}
    return Expert(name, "SmolLM2-135M-Instruct", "svf1-0", z, reward="choice", training=training)
