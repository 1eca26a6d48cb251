"""An engine whose forwards are looked at: the `z` in force, the logits, and who holds the lock."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from t2local.adapt.applier import Applier
from t2local.adapt.context import fit
from t2local.engine.engine import Engine
from t2local.engine.loading import Previews
from t2local.errors import T2LocalError
from t2local.experts import Expert
from t2local.models.decode.generate import PrefixCache
from t2local.svf import Mixture, compose

RED = "red"  # the expert that is adopted again and again, each time with another z
VERSIONS = 4
SHORT = 100  # every such forward finds no memory
GUARDED = {
    Applier: (
        "using", "settle", "settle_if_repeated", "take_over", "quick", "release",
    ),
    PrefixCache: ("put", "take", "clear"),
}  # fmt: skip


class Watch(threading.local):
    """What this thread asked for, and what its forwards were."""

    expected: str | Mixture | None = None  # "reader" in pass 1
    oldest = 0  # of the RED that an answer may have
    version: int | None = None
    logits: list[tuple[Mixture, int | None, torch.Tensor]] | None = None


class Watched:
    """An engine whose forwards are looked at, and where each touch without the lock is a fault."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine, self.here = engine, Watch()
        opened = engine._ready()
        self.loaded, self.svf = opened.loaded, opened.svf
        usable = opened.shelf.usable
        self.fixed = {name: usable[name].z for name in ("math", "code", "reader")}
        self.versions = [self._random_z(100 + i) for i in range(VERSIONS)]
        self.adopted = self.adopting = 0  # counts; version of the n-th is n % VERSIONS
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()
        self.to_check: list[tuple[tuple, list]] = []
        self.forwards = 0  # counted under the model's lock
        self._rebuilt: dict[tuple, torch.Tensor] = {}
        for cls, names in GUARDED.items():
            for name in names:
                monkeypatch.setattr(cls, name, self._guarded(cls, name))
        monkeypatch.setattr(Previews, "_likeliest", self._telling(Previews._likeliest))
        self.hooks = [
            self.loaded.model.register_forward_pre_hook(self._look),
            self.loaded.model.register_forward_hook(self._note),
            self.loaded.model.model.layers[-1].mlp.register_forward_pre_hook(self._may_be_short),
        ]

    def adopt(self) -> None:
        """The next version of RED, as a finished run gives it."""
        self.adopting += 1
        z = self.versions[self.adopting % VERSIONS]
        self.engine.adopt(Expert(RED, self.loaded.name, self.svf.fingerprint(z), z))
        self.adopted += 1

    def z_of(self, expected: str | Mixture, version: int | None):
        """The z of what was asked for, made from the experts as they were written."""
        mixture = Mixture({expected: 1.0}) if isinstance(expected, str) else expected
        red = {} if version is None else {RED: self.versions[version]}
        return compose({**self.fixed, **red}, mixture)

    @contextmanager
    def asking(self, expected: str | Mixture) -> Iterator[Watch]:
        """This thread asks for it inside the block."""
        here = self.here
        here.oldest, here.version, here.logits = self.adopted, None, []
        here.expected = expected
        try:
            yield here
        finally:
            here.expected = None

    @contextmanager
    def maybe_short(self, what: str) -> Iterator[None]:
        """Memory may run out inside the block, which is counted; no other error passes."""
        try:
            yield
        except T2LocalError as error:
            if "needed more than this machine's memory" not in str(error):
                raise
            self.done[f"short {what}"] += 1

    def prompt(self, ask) -> tuple[int, ...]:
        """The tokens that a model reads before it answers."""
        return tuple(fit(self.loaded, ask, 1).ids)

    def _random_z(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        ranks = self.svf.ranks.items()
        return {n: 1 + 0.3 * torch.randn(r, generator=generator) for n, r in ranks}

    def _guarded(self, cls: type, name: str) -> Callable:
        method = getattr(cls, name)

        def guarded(*given, **named):
            if self.svf.lock._owner != threading.get_ident():
                self.faults.append(f"{cls.__name__}.{name} without the lock")
            return method(*given, **named)

        return guarded

    def _telling(self, likeliest: Callable) -> Callable:
        def telling(previews, workshop, ids, mixture, *rest):
            self.here.expected = mixture
            return likeliest(previews, workshop, ids, mixture, *rest)

        return telling

    def _may_be_short(self, *_) -> None:
        if self.here.expected is None:
            return
        self.forwards += 1
        if self.forwards % SHORT == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def _look(self, *_) -> None:
        """Before a forward: the z in force is what this thread asked for."""
        here = self.here
        if here.expected is None:
            return
        if self.svf.lock._owner != threading.get_ident():
            self.faults.append("a forward without the lock")
        versions: list[int | None] = [here.version]
        trained = isinstance(here.expected, Mixture) and RED in here.expected.alpha
        if trained and here.version is None:
            versions = [n % VERSIONS for n in range(here.oldest, self.adopting + 1)]
        found = [v for v in versions if self._in_force(here.expected, v)]
        if not found:
            self.faults.append(f"another z than that of {here.expected}, versions {versions}")
        elif trained:
            here.version = found[0]

    def _in_force(self, expected: str | Mixture, version: int | None) -> bool:
        force, z = self.svf._in_force, self.z_of(expected, version)
        if force.matrices:
            key = (str(expected), version)
            if key not in self._rebuilt:
                self._rebuilt[key] = flat(self.svf.rebuild(z))
            return torch.allclose(flat(force.matrices), self._rebuilt[key], atol=1e-6)
        rows = {n: d.reshape(-1, d.shape[-1]) for n, d in force.deltas.items()}  # [B, r]
        changes = {name: row[0] for name, row in rows.items()}
        if any(row[1:].any() for row in rows.values()):  # beside it answers the base model
            return False
        if not changes or changes.keys() != z.keys():
            return not changes and not z
        wanted = flat({name: row - 1 for name, row in z.items()})
        return torch.allclose(flat(changes), wanted, atol=1e-6)

    def _note(self, _model, _given, output) -> None:
        here = self.here
        if isinstance(here.expected, Mixture):
            here.logits.append((here.expected, here.version, output.logits[0, -1].detach().clone()))

    def check_logits(self) -> int:
        """Every answer's logits equal those of the same tokens read alone; how many there were."""
        alone: dict[tuple, torch.Tensor] = {}
        compared = 0
        for prompt, steps in self.to_check:
            tokens = [int(logits.argmax()) for *_, logits in steps]
            ids = (*prompt, *tokens[:-1])
            for place, (mixture, version, logits) in enumerate(steps, len(prompt) - 1):
                version = version if RED in mixture.alpha else None
                key = (ids, str(mixture), version)
                if key not in alone:
                    with torch.no_grad(), self.svf.using(self.z_of(mixture, version)):
                        alone[key] = self.loaded.model(torch.tensor([ids])).logits[0]
                assert torch.allclose(logits, alone[key][place], atol=2e-3), (mixture, version)
                compared += 1
        return compared


def flat(rows) -> torch.Tensor:
    """All numbers of a `z`, or of matrices, whatever the order of their names."""
    return torch.cat([rows[name].detach().reshape(-1) for name in sorted(rows)])
