"""Putting a mixture in force: which `z`, and the fastest exact way to apply it.

A mixture that changes is applied by the branch (a millisecond to change). One that is used again
and again on a float model, like the classifier expert's, is rebuilt once into matrices and then
costs nothing a token. Departure from the reference code: it rebuilds for every change.
Knows experts by name, nothing of prompts. Not thread-safe: whoever owns the model holds a lock.
"""

import itertools
import json
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import torch

from t2local.errors import T2LocalError
from t2local.models.generate import Around
from t2local.models.load import LoadedModel
from t2local.svf import Mixture, SVFModel, Z, compose

BASE_KEY = "base"
REBUILD_BYTES = 2 * 2**30  # a model up to this size may keep rebuilt copies beside it


def may_rebuild(loaded: LoadedModel) -> bool:
    """Whether rebuilt matrices are exact here (a float model) and small enough to keep."""
    return loaded.quantization == "none" and loaded.resident_bytes <= REBUILD_BYTES


def holding(loaded: LoadedModel, svf: SVFModel, z: Z) -> Around:
    """How to hold an unchanging `z` `[r]` over many forwards: rebuilt where that is allowed.

    Gradients reach a `z` that asks for them either way.
    """
    if not may_rebuild(loaded):
        return lambda: svf.using(z)
    matrices = svf.rebuild(z)
    trained = z if any(row.requires_grad for row in z.values()) else None
    return lambda: svf.using_rebuilt(matrices, trained)


_GENERATIONS = itertools.count()


class Adapter:
    """Experts by name on one model. `rebuild_limit`: rebuilt copies kept (0: never rebuild).

    `mixable`: the experts that people may mix (None: all); a classifier only decides.
    """

    def __init__(
        self,
        svf: SVFModel,
        experts: Mapping[str, Z],
        rebuild_limit: int = 0,
        mixable: Collection[str] | None = None,
    ) -> None:
        self.svf = svf
        self._mixable = tuple(experts if mixable is None else mixable)
        self._generation = next(_GENERATIONS)  # a retrained expert keeps its name, not its z
        self.experts = {name: self._on_device(z) for name, z in experts.items()}
        self._limit = rebuild_limit
        self._rebuilt: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()
        self._last: tuple[str, Z] = (BASE_KEY, {})
        self._last_applied = BASE_KEY

    def check(self, mixture: Mixture) -> None:
        """Raise `T2LocalError` when the mixture names an expert that is not there."""
        for name in mixture.experts:
            if name not in self._mixable:
                known = ", ".join(sorted(self._mixable)) or "none"
                raise T2LocalError(
                    f"There is no expert '{name}' for this model; choose among: {known}."
                )

    def key(self, mixture: Mixture) -> str:
        """Equal only for mixtures that give the same `z`; what KV caches are kept under."""
        if mixture.is_base:
            return BASE_KEY
        alpha = {name: a for name, a in sorted(mixture.alpha.items()) if a != 0.0}
        own = {m: dict(part) for m, part in sorted(mixture.by_matrix.items())}
        return json.dumps([self._generation, alpha, mixture.strength, asdict(mixture.gains), own])

    def z_of(self, mixture: Mixture) -> Z:
        """The composed `z`, `{}` for the base model; the last one is remembered."""
        last, key = self._last, self.key(mixture)
        if last[0] != key:
            last = self._last = (key, compose(self.experts, mixture))
        return last[1]

    @contextmanager
    def using(self, mixture: Mixture, beside_base: bool = False) -> Iterator[None]:
        """Adapt the model inside the block; `beside_base`: row 0 adapted, row 1 the base model."""
        key = self.key(mixture)
        if beside_base:
            with self.svf.using(self._beside_base(self.z_of(mixture))):
                yield
        elif key in self._rebuilt:
            self._rebuilt.move_to_end(key)
            with self.svf.using_rebuilt(self._rebuilt[key]):
                yield
        else:
            with self.svf.using(self.z_of(mixture)):
                yield

    def settle(self, mixture: Mixture) -> None:
        """Say that `mixture` stays as it is for many tokens: rebuild it if that is allowed."""
        key = self.key(mixture)
        if key == BASE_KEY or key in self._rebuilt or not self._limit:
            return
        self._rebuilt[key] = self.svf.rebuild(self.z_of(mixture))
        while len(self._rebuilt) > self._limit:
            self._rebuilt.popitem(last=False)

    def settle_if_repeated(self, mixture: Mixture) -> None:
        """`settle` a mixture that also served the answer before this one."""
        key = self.key(mixture)
        if key == self._last_applied:
            self.settle(mixture)
        self._last_applied = key

    def _beside_base(self, z: Z) -> Z:
        return {name: torch.stack([row, torch.ones_like(row)]) for name, row in z.items()}

    def _on_device(self, z: Z) -> Z:
        sigma = self.svf.singular_values
        return {name: row.to(sigma[name].device) for name, row in z.items()}
