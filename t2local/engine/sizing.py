"""What a model would take on this machine, before anything of it is loaded or fetched.

Puts `models.anatomy`, `estimate` and `fit` together for one model and a person's wishes. Pure but
for reading a configuration.
"""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from t2local.engine.choice import AUTO
from t2local.models.fit.anatomy import Anatomy, anatomy_of
from t2local.models.fit.automatic import Fit, judged, preferred_plans
from t2local.models.fit.estimate import BASES, Estimate, Plan, estimate
from t2local.models.fit.memory import Machine
from t2local.models.load.hub import LocalModel, local_models
from t2local.models.load.loader import choose_quantization

KINDS = ("none", "int8", "nf4")
VERDICTS = ("fits", "tight")  # worth having, the better first


@dataclass(frozen=True)
class Wish:
    """How somebody wants a model held; "auto" leaves it to this machine's memory."""

    quantize: str = AUTO
    basis: str = AUTO
    targets: str = AUTO
    context: int | None = None  # tokens of a chat


@dataclass(frozen=True)
class Sizing:
    """One model's memory here. `table`: every quantisation × basis for `fit`'s targets."""

    source: str
    parts: Anatomy
    machine: Machine
    fit: Fit
    table: tuple[Estimate, ...]

    @property
    def plan(self) -> Plan:
        return self.fit.estimate.plan

    def quantize(self, wish: Wish) -> str:
        """What to ask `load_model` for: "auto" where it comes to this plan by itself.

        A checkpoint that is stored in 4 bits stays loadable so.
        """
        automatic = choose_quantization(AUTO, self.parts.parameters)
        same = wish.quantize == AUTO and automatic == self.plan.quantization
        return AUTO if same else self.plan.quantization


def sizing(source: str, machine: Machine, wish: Wish | None = None) -> Sizing:
    """The best plan that obeys `wish`. Raises `T2LocalError` as `anatomy_of`."""
    wish = wish or Wish()
    parts = anatomy_of(source)
    fit = _best(parts, machine, wish)
    found = fit.estimate
    ways = product(KINDS, BASES)
    plans = [replace(found.plan, quantization=kind, basis=basis) for kind, basis in ways]
    table = tuple(estimate(parts, plan, found.context) for plan in plans)
    return Sizing(source, parts, machine, fit, table)


def on_disk(source: str) -> LocalModel | None:
    """The model as it lies on this machine, None where it has to be fetched first."""
    path = Path(source).expanduser()
    if path.exists():
        size = path.stat().st_size if path.is_file() else 0
        return LocalModel(source, path.name, "gguf" if path.is_file() else "folder", size, path)
    return next((model for model in local_models() if model.source == source), None)


def _best(parts: Anatomy, machine: Machine, wish: Wish) -> Fit:
    """The first preferred plan that fits; else one that is tight; else the smallest."""
    context = min(wish.context, parts.context_length) if wish.context else None
    preferred = preferred_plans(parts, machine.device, wish.quantize, wish.basis)
    plans = [plan for plan in preferred if wish.targets in (AUTO, plan.targets)]
    found = [estimate(parts, plan, context) for plan in plans]
    for verdict in VERDICTS:
        for candidate in found:
            if candidate.verdict(machine.memory_bytes) == verdict:
                return judged(parts, candidate, machine.memory_bytes)
    smallest = min(found, key=lambda candidate: candidate.total_bytes)
    return judged(parts, smallest, machine.memory_bytes)
