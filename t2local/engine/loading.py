"""From a choice to a model that answers: weights, bases, experts, mixer, a warm classifier.

`Choice` says which model, how, and why this one; `sizing` what it would take on this machine.
`Opened` is all there is of a loaded model; whoever drops it (and the answers begun with it) frees
the memory.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path

import torch

from t2local import paths
from t2local.adapt.applier import Applier, GraphMixtures, RoundedSteps, adapting, may_rebuild
from t2local.adapt.context import check_length, check_messages, fit
from t2local.adapt.two_pass import WORTH_ROUNDING, Workshop, peek
from t2local.engine.requests import EngineStatus, NextTokens
from t2local.engine.shelf import Shelf
from t2local.errors import T2LocalError
from t2local.experts import Expert
from t2local.models.decode import cuda_graphs
from t2local.models.decode.compiled_steps import rounding_problem
from t2local.models.decode.generate import PrefixCache
from t2local.models.decode.out_of_memory import ANSWER, Work, out_of_memory_told
from t2local.models.fit.anatomy import Anatomy, anatomy_of
from t2local.models.fit.automatic import Fit, judged, preferred_plans
from t2local.models.fit.estimate import REBUILT_COPIES, ROUND_BYTES, Estimate, Plan, estimate
from t2local.models.fit.memory import Machine, held_bytes, return_freed_memory
from t2local.models.groups.linear import compiling_problem
from t2local.models.load.hub import LocalModel, local_models
from t2local.models.load.loader import (
    LoadedModel,
    basis_for,
    choose_quantization,
    compiled,
    load_model,
)
from t2local.models.storage import AUTO, BASES, GGUF, kinds_for
from t2local.progress import CancelToken, Progress
from t2local.svf import Mixture, SVFModel
from t2local.untrusted import read_document, typed

# --- The likeliest next tokens, base beside adapted, after the words so far.
#
# Reads the chat under each `z`; the base model's keys and values are kept between two moves of a
# slider, those of another `z` never serve.

PREVIEW = Work("The preview of the next word", ANSWER.remedy)
MOST_S = 4.0  # that a preview takes; a slider may be moved again before
ANSWER_TOKENS = 1  # room that the preview leaves in the context

Messages = Sequence[Mapping[str, str]]


class Previews:
    """`bars` for any session; two caches serve all, base and the last mixture."""

    def __init__(self) -> None:
        self._kept = PrefixCache(capacity=2)  # as the workshop's: its lock is held around it

    def bars(
        self, workshop: Workshop, messages: Messages, said: str, mixture: Mixture, k: int
    ) -> NextTokens:
        """The `k` likeliest tokens after `messages` and what the running answer has `said`.

        Raises `T2LocalError` when memory runs out, `TooLong` for what cannot be read in a moment.
        """
        started = time.perf_counter()
        messages, goes_on = so_far(messages, said)
        check_messages(messages)
        check_length(workshop.loaded, messages, ANSWER_TOKENS)
        ids = fit(workshop.loaded, messages, ANSWER_TOKENS, goes_on).ids
        with out_of_memory_told(workshop.loaded, lambda: self._forget(workshop), PREVIEW):
            until_s = time.monotonic() + MOST_S
            base = self._likeliest(workshop, ids, Mixture(), k, until_s)
            adapted = base
            if not mixture.is_base:
                adapted = self._likeliest(workshop, ids, mixture, k, until_s)
        return NextTokens(base, adapted, seconds=time.perf_counter() - started)

    def _forget(self, workshop: Workshop) -> None:
        with workshop.lock():
            self._kept.clear()
            workshop.forget()

    @torch.no_grad()
    def _likeliest(
        self, workshop: Workshop, ids: list[int], mixture: Mixture, k: int, until_s: float
    ) -> tuple[tuple[str, float], ...]:
        probabilities = peek(workshop, mixture, ids, self._kept, until_s)
        values, tokens = probabilities.topk(min(k, len(probabilities)))
        texts = [workshop.loaded.tokenizer.decode([token]) for token in tokens.tolist()]
        return tuple(zip(texts, values.tolist(), strict=True))


def so_far(messages: Messages, said: str) -> tuple[Messages, bool]:
    """The chat with the running answer's words; whether its last message goes on."""
    if said and messages[-1]["role"] == "assistant":
        last = {"role": "assistant", "content": messages[-1]["content"] + said}
        return (*messages[:-1], last), True
    if said:
        return (*messages, {"role": "assistant", "content": said}), True
    return messages, bool(messages) and messages[-1]["role"] == "assistant"


# --- Which model is loaded, how, and why this one: asked for, chosen last time, or the default.
#
# The last model that was chosen in the page is one small file in the user's data; a damaged one
# counts as none.

ASKED = "asked for with --model"
FROM_ENVIRONMENT = "named by T2LOCAL_MODEL"
LAST = "chosen last time"
DEFAULT = "comes with the app"
HERE = "chosen in this page"
EXACT = "exact"


@dataclass(frozen=True)
class Choice:
    """A model and how to hold it, in the words of the command line. `why`: one of the above."""

    source: str
    quantize: str = AUTO
    basis: str = AUTO
    targets: str = "all"
    why: str = HERE
    precision: str = AUTO  # "exact": answers in float32 only, no 8-bit copies

    @property
    def asked(self) -> str:
        """What a person calls it: the id, or a path's last part."""
        path = paths.named(self.source)
        return path.name if path.is_absolute() or path.exists() else self.source


def at_start(model: str | None = None, quantize: str = AUTO, basis: str = AUTO) -> Choice:
    """What the page opens with: `model`, else `T2LOCAL_MODEL`, else the last choice, else embedded.

    `quantize` and `basis` count before those of the last choice where they are not "auto".
    """
    if model:
        return Choice(model, quantize, basis, why=ASKED)
    if os.environ.get("T2LOCAL_MODEL"):
        return Choice(paths.default_model(), quantize, basis, why=FROM_ENVIRONMENT)
    last = last_choice()
    if last is None:
        return default(quantize, basis)
    given = {"quantize": quantize, "basis": basis}
    return replace(last, **{name: value for name, value in given.items() if value != AUTO})


def default(quantize: str = AUTO, basis: str = AUTO) -> Choice:
    """The embedded model, whatever was chosen before."""
    return Choice("embedded", quantize, basis, why=DEFAULT)


def remember(choice: Choice) -> None:
    """Open with this model next time. Raises `T2LocalError` when the disk does not take it."""
    with paths.atomic_write(_file()) as temporary:
        temporary.write_text(json.dumps(asdict(choice), indent=1), encoding="utf-8")


def last_choice() -> Choice | None:
    """What was remembered, None where nothing readable is."""
    try:
        choice = typed(Choice, read_document(_file()) | {"why": LAST})
        paths.named(choice.source)
        return choice
    except (OSError, ValueError, T2LocalError):
        return None


def _file() -> Path:
    return paths.home() / "model.json"


@dataclass(frozen=True)
class Opened:
    """A loaded model with its bases, experts and caches."""

    choice: Choice
    loaded: LoadedModel
    svf: SVFModel
    shelf: Shelf
    workshop: Workshop
    previews: Previews = field(default_factory=Previews)

    @property
    def reader(self) -> Mixture | None:
        """The classifier alone, as pass 1 uses it."""
        return Mixture({self.shelf.classifier: 1.0}) if self.shelf.classifier else None

    def restocked(self, besides: Callable[[Collection[str]], list[Expert]]) -> "Opened":
        """The same model with the expert files there are now.

        `besides`: the drafts to offer beside experts of these names. A classifier that is still
        the same stays warm.
        """
        shelf = Shelf.read(self.loaded, self.svf)
        shelf = shelf.with_drafts(besides(shelf.usable))
        applier = _adapter(self.choice, self.loaded, self.svf, shelf)
        with self.svf.lock:
            applier.take_over(self.workshop.applier)
        workshop = replace(
            self.workshop,
            applier=applier,
            warnings=shelf.warnings,
            choosers=shelf.choosers,
            available=shelf.available,
        )
        return replace(self, shelf=shelf, workshop=workshop)

    def warm_up(self) -> None:
        """Rebuild the classifier's matrices where that is allowed, and fit what tells prints apart.

        Pass 1 then costs neither.
        """
        if self.workshop.available.prints is not None:
            self.workshop.available.prints.fit()
        if self.reader is not None:
            with self.svf.lock:
                self.workshop.applier.settle(self.reader)

    def status(self, serial: int) -> EngineStatus:
        """What the page shows of it. `serial`: how many models were opened before."""
        loaded, choice, copies = self.loaded, self.choice, self.workshop.applier.copies_bytes
        return EngineStatus(
            "Ready",
            1.0,
            ready=True,
            model_name=loaded.name,
            dtype=loaded.dtype,
            quantization=loaded.quantization,
            resident_bytes=loaded.resident_bytes + self.svf.basis_bytes + copies,
            device=loaded.device,
            context_length=loaded.context_length,
            basis_bytes=self.svf.basis_bytes,
            copies_bytes=copies,
            basis=self.svf.basis_dtype,
            targets=choice.targets,
            sees=loaded.pictures is not None,
            base=loaded.is_base,
            source=choice.source,
            why=choice.why,
            remarks=loaded.notes,
            serial=serial,
        )

    def now(self, status: EngineStatus) -> EngineStatus:
        """`status` with the memory that its copies, and all of it, take at this moment."""
        copies = self.workshop.applier.copies_bytes
        resident = status.resident_bytes - status.copies_bytes + copies
        held = held_bytes(self.loaded.device)
        return replace(status, resident_bytes=resident, copies_bytes=copies, memory_bytes=held)

    def decoding(self) -> str:
        """How answers are written here, with the reason; on a GPU a step is captured for trial."""
        applier, why = self.workshop.applier, cuda_graphs.why_not(self.loaded)
        if not why:
            with self.svf.lock:
                why = applier.capture_problem()
        elif not self.loaded.device.startswith("cuda"):
            why = applier.rounding_problem or _why_not_rounded(self.choice, self.loaded)
            why = "" if applier.compiles else why
        if why:
            return f"plain steps ({why})"
        if applier.compiles:
            return "compiled steps, from the weights as the file has them"
        if applier.rounds:
            return f"compiled steps, answers of {WORTH_ROUNDING} tokens and more from 8-bit weights"
        return "captured steps (CUDA graphs); base beside adapted by plain ones"


def opening(choice: Choice, cancel: CancelToken | None = None) -> Generator[Progress, None, Opened]:
    """Load the model, attach SVF and read the experts.

    Raises `T2LocalError` for whatever stands in the way, `Cancelled`.
    """
    loaded = yield from load_model(choice.source, choice.quantize, cancel)
    basis = basis_for(loaded, choice.basis, choice.targets)
    loaded, svf = yield from adapting(loaded, choice.targets, basis, cancel)
    shelf = Shelf.read(loaded, svf)
    if not _why_not_to_round(choice, loaded):
        yield from compiled(cancel=cancel)
    workshop = Workshop(
        loaded,
        _adapter(choice, loaded, svf, shelf),
        PrefixCache(),
        lambda: svf.lock,
        shelf.warnings,
        shelf.choosers,
        shelf.available,
    )
    opened = Opened(choice, loaded, svf, shelf, workshop)
    if opened.reader is not None or shelf.prints is not None:
        yield Progress("Warming up", 0, 1)
        opened.warm_up()
    return_freed_memory()  # of parsing the tokenizer and the bases
    return opened


def _adapter(choice: Choice, loaded: LoadedModel, svf: SVFModel, shelf: Shelf) -> Applier:
    earlier = {version.alias: version.expert.z for version in shelf.earlier}
    experts = {name: expert.z for name, expert in shelf.usable.items()} | earlier
    copies = REBUILT_COPIES if may_rebuild(loaded) else 0
    in_8_bits = None if _why_not_rounded(choice, loaded) else RoundedSteps(loaded, svf)
    steps = cuda_graphs.GraphSteps(loaded) if not cuda_graphs.why_not(loaded) else None
    mixtures = GraphMixtures(svf, steps) if steps else None
    mixable = (*shelf.mixable, *earlier)
    return Applier(svf, experts, copies, mixable, in_8_bits, mixtures, loaded.steps)


def _why_not_rounded(choice: Choice, loaded: LoadedModel) -> str:
    """Why answers are not written from 8-bit weights, in a few words; "" where they are."""
    return _why_not_to_round(choice, loaded) or compiling_problem()


def _why_not_to_round(choice: Choice, loaded: LoadedModel) -> str:
    if choice.precision == EXACT:
        return "exact answers were asked for"
    if why := rounding_problem(loaded):
        return why
    if not may_rebuild(loaded):
        return "the model is too large for copies beside it"
    return "so small a model is fast enough" if loaded.resident_bytes < ROUND_BYTES else ""


# --- What a model would take on this machine, before anything of it is loaded or fetched.
#
# Puts `models.fit` together for one model and a person's wishes. Pure but for reading a
# configuration.

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
        own_bits = self.machine.device == "cpu" and self.parts.grouped_bytes
        automatic = GGUF if own_bits else choose_quantization(AUTO, self.parts.parameters)
        same = wish.quantize == AUTO and automatic == self.plan.quantization
        return AUTO if same else self.plan.quantization


def sizing(source: str, machine: Machine, wish: Wish | None = None) -> Sizing:
    """The best plan that obeys `wish`. Raises `T2LocalError` as `anatomy_of`."""
    wish = wish or Wish()
    parts = anatomy_of(source)
    fit = _best(parts, machine, wish)
    found = fit.estimate
    ways = product(kinds_for(bool(parts.grouped_bytes)), BASES)
    plans = [replace(found.plan, quantization=kind, basis=basis) for kind, basis in ways]
    table = tuple(estimate(parts, plan, found.context) for plan in plans)
    return Sizing(source, parts, machine, fit, table)


def on_disk(source: str) -> LocalModel | None:
    """The model as it lies on this machine, None where it has to be fetched first."""
    path = paths.named(source)
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
