"""What is evaluated: a model, and the experts that are on the shelf for it.

A frozen value.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch

from t2local.adapt.dispatch import Available
from t2local.experts import Expert
from t2local.experts.expert import CLASSIFIER, SKILL
from t2local.models.load.loader import LoadedModel
from t2local.svf import Mixture, SVFModel, Z, compose


@dataclass(frozen=True)
class Subject:
    """`experts`: the usable ones, by name."""

    loaded: LoadedModel
    svf: SVFModel
    experts: Mapping[str, Expert]

    @property
    def skills(self) -> tuple[str, ...]:
        return tuple(name for name, e in self.experts.items() if e.kind == SKILL)

    @property
    def available(self) -> Available:
        """What strategies choose among."""
        readers = (e for e in self.experts.values() if e.kind == CLASSIFIER)
        if (reader := next(readers, None)) is None:
            return Available(self.skills, self.skills)
        return Available(self.skills, self.skills, reader.name, reader.labels)

    def size(self, name: str) -> int:
        """How many numbers an expert has."""
        return self.experts[name].size

    @cached_property
    def unsound(self) -> frozenset[str]:
        """Experts that are not made of finite numbers."""
        return frozenset(
            name
            for name, expert in self.experts.items()
            if not all(bool(torch.isfinite(row).all()) for row in expert.z.values())
        )

    def broken(self, mixture: Mixture) -> str:
        """The first expert of a mixture that is not made of finite numbers, else ""."""
        return next((name for name in mixture.experts if name in self.unsound), "")

    def z_of(self, mixture: Mixture) -> Z:
        """`{}` for the base model, else `[r]` a matrix on the model's device."""
        sigma = self.svf.singular_values
        z = compose({name: self.experts[name].z for name in mixture.experts}, mixture)
        return {name: row.to(sigma[name].device) for name, row in z.items()}

    def rows(self, mixtures: Sequence[Mixture]) -> Z:
        """`[B, r]` a matrix: a row for each mixture."""
        zs = [self.z_of(mixture) for mixture in mixtures]
        names = dict.fromkeys(name for z in zs for name in z)
        ones = {n: torch.ones_like(self.svf.singular_values[n]) for n in names}
        return {name: torch.stack([z.get(name, ones[name]) for z in zs]) for name in names}

    def digest(self, name: str) -> str:
        """A retrained expert keeps its name, not its digest."""
        digest = hashlib.sha256(name.encode())
        for matrix, row in sorted(self.experts[name].z.items()):
            digest.update(matrix.encode() + row.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:24]

    def mixture_key(self, mixture: Mixture) -> list:
        values = json.loads(json.dumps(asdict(mixture)))
        return [values, [self.digest(name) for name in sorted(mixture.experts)]]

    def model_key(self) -> list:
        loaded = self.loaded
        return [loaded.name, self.svf.fingerprint(), loaded.quantization, str(loaded.dtype)]
