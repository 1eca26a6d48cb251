"""The automatic choice of quantisation, basis and targets for the memory there is.

And the catalogue as this machine sees it: how each model fits, which are here, which to begin with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from t2local.models.fit.anatomy import TARGETS, Anatomy, anatomy_of
from t2local.models.fit.catalogue import Entry, entries, find
from t2local.models.fit.estimate import GB, Estimate, Plan, bases_bytes, estimate
from t2local.models.fit.memory import Machine
from t2local.models.load.hub import LocalModel, local_models
from t2local.models.storage import AUTO, BASES, GGUF, INT4, INT8, QUANTIZATIONS, leanest

ROUNDED_ABOVE_PARAMETERS = 2_000_000_000  # on a GPU; smaller models fit in 16 bits
BF16_ABOVE_PARAMETERS = 3_000_000_000  # on the CPU; smaller ones stay float32
SHORT_CONTEXT = 2048
QUICK_ON_CPU_PARAMETERS = 650_000_000  # bigger ones answer slower than one reads


@dataclass(frozen=True)
class Fit:
    """A plan's verdict for some memory. `advice`: what to change, "" where it fits well."""

    estimate: Estimate
    memory_bytes: int
    advice: str = ""

    @property
    def verdict(self) -> str:
        return self.estimate.verdict(self.memory_bytes)

    @property
    def words(self) -> str:
        """ "4-bit weights, int8 bases, all matrices, 8,192 tokens", for a person."""
        return f"{self.estimate.plan.words}, {self.estimate.context:,} tokens"


def compute_dtype(device: str, n_parameters: int) -> str:
    """bfloat16 on a GPU and for big models on the CPU, else float32."""
    big = n_parameters > BF16_ABOVE_PARAMETERS
    return "bfloat16" if device == "cuda" or big else "float32"


def best_fit(
    parts: Anatomy,
    memory_bytes: int,
    device: str = "cuda",
    context: int | None = None,
    quantization: str = AUTO,
    basis: str = AUTO,
) -> Fit:
    """The best plan that fits into `memory_bytes`, comfortably if one does, for `context` tokens.

    `quantization`, `basis`: "auto", or what was asked for. Where no plan fits, one for a shorter
    context; where that does not either, the smallest one with the verdict "does not fit" and what
    to do instead.
    """
    plans = list(preferred_plans(parts, device, quantization, basis))
    found = [estimate(parts, plan, context) for plan in plans]
    if found[0].context > SHORT_CONTEXT:
        found += [estimate(parts, plan, SHORT_CONTEXT) for plan in plans]
    for verdict in ("fits", "tight"):
        for candidate in found:
            if candidate.verdict(memory_bytes) == verdict:
                return judged(parts, candidate, memory_bytes)
    smallest = min(found, key=lambda candidate: candidate.total_bytes)
    return judged(parts, smallest, memory_bytes)


def preferred_plans(
    parts: Anatomy, device: str, quantization: str = AUTO, basis: str = AUTO
) -> Iterator[Plan]:
    """The plans that are worth taking on `device`, best first."""
    may_float = device == "cpu" or parts.parameters <= ROUNDED_ABOVE_PARAMETERS
    dtype = compute_dtype(device, parts.parameters)
    automatic = (k for k in QUANTIZATIONS.values() if k.automatic and (k.bits or may_float))
    kinds = [kind.name for kind in automatic] if quantization == AUTO else [quantization]
    if device == "cpu" and parts.grouped_bytes and quantization in (AUTO, GGUF):
        kinds, basis = [GGUF], INT8 if basis == AUTO else basis
    for kind in kinds:
        for targets in TARGETS:
            for stored in basis_order(device, dtype) if basis == AUTO else (basis,):
                yield Plan(kind, stored, targets, dtype, device)


def basis_order(device: str, dtype: str) -> tuple[str, ...]:
    """The basis dtypes to try: int8 on a GPU, on the CPU from the model's own dtype down."""
    if device == "cuda":
        return (INT8,)
    names = [name for name, held in BASES.items() if held.automatic]
    return tuple(names[0 if dtype == "float32" else 1 :])


def choose_basis(
    parts: Anatomy, free_bytes: int, device: str, dtype: str, targets: str = "all"
) -> str:
    """What `--basis auto` means for a loaded model with `free_bytes` left beside it.

    A basis may take half of what is left; the rest is for KV cache, training and other programs.
    """
    order = basis_order(device, dtype)
    roomy = (b for b in order if bases_bytes(parts, b, targets) <= free_bytes / 2)
    return next(roomy, order[-1])


def judged(parts: Anatomy, found: Estimate, memory_bytes: int) -> Fit:
    """`found` with what would help, where it does not fit well."""
    if found.verdict(memory_bytes) == "fits":
        return Fit(found, memory_bytes)
    return Fit(found, memory_bytes, _advice(parts, found, memory_bytes))


def _advice(parts: Anatomy, found: Estimate, memory_bytes: int) -> str:
    """The first change that makes it fit well, or that nothing here does."""
    lacking = found.total_bytes - memory_bytes
    for words, plan, context in _changes(found):
        changed = estimate(parts, plan, context)
        if changed.verdict(memory_bytes) == "fits":
            return f"{words}: {changed.total_bytes / GB:.1f} GB"
    if lacking <= 0:
        return "close other programs that use this memory, or choose a smaller model"
    return (
        f"choose a smaller model, or spread this one over more memory "
        f"({lacking / GB:.1f} GB are lacking)"
    )


def _changes(found: Estimate) -> Iterator[tuple[str, Plan, int]]:
    """Remedies in words, from the cheapest to the dearest, each on top of the ones before."""
    plan, context = found.plan, found.context
    said, rounded = [], leanest()
    for words, change in (
        (f"{INT8} bases", {"basis": INT8}),
        ("a shorter context", {}),
        (rounded.words(plan.dtype), {"quantization": rounded.name}),
        ("MLP only", {"targets": "mlp"}),
        (f"{INT4} bases", {"basis": INT4}),  # dear: see `BASES`
    ):
        if not change and context > SHORT_CONTEXT:
            context = SHORT_CONTEXT
            said.append(f"a context of {SHORT_CONTEXT:,} tokens")
        elif change and any(getattr(plan, key) != value for key, value in change.items()):
            if change.get("basis") and BASES[change["basis"]].bits >= BASES[plan.basis].bits:
                continue
            plan = Plan(**{**plan.__dict__, **change})
            said.append(words)
        else:
            continue
        yield " and ".join(said), plan, context


# --- The catalogue on this machine.


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
    """The best text model that fits well with every matrix adapted (and is quick on a CPU)."""
    return max(_fitting(found, device) or found[:1], key=lambda o: _rank(o.entry, device))


def better(found: Sequence[Offer], loaded: str, device: str) -> Offer | None:
    """What to offer to somebody who has `loaded`: the best that anybody can fetch, if it is better.

    None for a model that is not of the catalogue: whoever chose that one knows why.
    """
    mine = find(loaded)
    open_to_all = [offer for offer in _fitting(found, device) if not offer.entry.gated]
    if mine is None or not open_to_all:
        return None
    best = max(open_to_all, key=lambda o: _rank(o.entry, device))
    larger = best.entry.parameters >= mine.parameters
    return best if larger and _rank(best.entry, device) > _rank(mine, device) else None


def _fitting(found: Sequence[Offer], device: str) -> list[Offer]:
    return [
        o
        for o in found
        if o.fit.verdict == "fits"
        and o.fit.estimate.plan.targets == "all"
        and o.fit.estimate.context > SHORT_CONTEXT
        and not o.entry.sees_images
        and (device == "cuda" or o.entry.parameters <= QUICK_ON_CPU_PARAMETERS)
    ]


def _rank(entry: Entry, device: str) -> tuple[bool, int]:
    """How good a model is, to compare: the bigger the better.

    On a CPU, where all that are quick are small, one that writes working programs and comes from
    anywhere (Hub or package index) is before the others.
    """
    return device == "cpu" and entry.file is not None, entry.parameters
