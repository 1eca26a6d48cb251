"""The catalogue on this machine: what fits how, what is here already, which one to begin with.

Knows nothing of how it is shown; the command line and the page print the same offers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from t2local.models.fit.automatic import SHORT_CONTEXT, Fit, best_fit
from t2local.models.fit.catalogue import Entry, entries
from t2local.models.local import LocalModel, local_models
from t2local.models.machine import Machine
from t2local.models.sources import anatomy_of

QUICK_ON_CPU_PARAMETERS = 600_000_000  # bigger ones answer slower than one reads


@dataclass(frozen=True)
class Offer:
    """A catalogue model, how it fits, and whether it is here. One offer is suggested."""

    entry: Entry
    fit: Fit
    local: LocalModel | None
    suggested: bool = False


def offers(machine: Machine, context: int | None = None) -> tuple[Offer, ...]:
    """Every model of the catalogue as this machine sees it; about a second at the first call."""
    here = {model.source: model for model in local_models()}
    found = [
        Offer(entry, fit_on(machine, entry.id, context), here.get(entry.id)) for entry in entries()
    ]
    best = suggested(found, machine.device)
    return tuple(replace(o, suggested=o.entry.id == best.entry.id) for o in found)


def fit_on(machine: Machine, source: str, context: int | None = None) -> Fit:
    """The best plan for any model on a machine; raises as `anatomy_of`."""
    return best_fit(anatomy_of(source), machine.memory_bytes, machine.device, context)


def suggested(found: Sequence[Offer], device: str) -> Offer:
    """The biggest text model that fits well with every matrix adapted (and is quick on a CPU)."""
    fitting = [
        o
        for o in found
        if o.fit.verdict == "fits"
        and o.fit.estimate.plan.targets == "all"
        and o.fit.estimate.context > SHORT_CONTEXT
        and not o.entry.sees_images
        and (device == "cuda" or o.entry.parameters <= QUICK_ON_CPU_PARAMETERS)
    ]
    return max(fitting or found[:1], key=lambda o: o.entry.parameters)
