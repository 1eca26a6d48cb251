"""What was measured so far, on disk: a cell is computed once and read back ever after.

A cell is a JSON object (and a tensor, where it is what training found) under a hash of all that it
depends on, so a proof that was cut off goes on where it was, and two processes may share the work.
Knows nothing of models.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from t2local import paths
from t2local.evaluation.tally import key_of

Cell = dict[str, Any]


@dataclass(frozen=True)
class Book:
    """`about`: what all cells depend on (model, dtype, ...), as JSON values."""

    folder: Path
    about: tuple[Any, ...]

    def cell(self, parts: tuple[Any, ...], make: Callable[[], Cell]) -> Cell:
        """The cell that `parts` (JSON values) name, made if it is not there or damaged."""
        path = self._path(parts, "json")
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            made = make()
        with paths.atomic_write(path) as temporary:
            temporary.write_text(json.dumps(made), encoding="utf-8")
        return made

    def tensor(
        self, parts: tuple[Any, ...], make: Callable[[], tuple[torch.Tensor, Cell]]
    ) -> tuple[torch.Tensor, Cell]:
        """As `cell`, with a tensor beside it."""
        path = self._path(parts, "safetensors")
        made: list[torch.Tensor] = []

        def both() -> Cell:
            flat, about = make()
            with paths.atomic_write(path) as temporary:
                temporary.write_bytes(save({"flat": flat.detach().cpu()}))
            made.append(flat)
            return about

        if not path.is_file():
            self._path(parts, "json").unlink(missing_ok=True)
        about = self.cell(parts, both)
        try:
            return (made[0] if made else load(path.read_bytes())["flat"]), about
        except (OSError, SafetensorError, KeyError):
            path.unlink(missing_ok=True)
            return self.tensor(parts, make)

    def _path(self, parts: tuple[Any, ...], suffix: str) -> Path:
        return self.folder / f"{key_of(*self.about, *parts)}.{suffix}"
