"""Engine: owns the model and its experts; every page, command and API goes through it.

A session is one browser tab or one command; its running answer, wheel and stop button are its own.
The model (`svf.lock`) is held for one step of one answer at a time. Knows nothing of gradio.
"""

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

import torch

from t2local import paths
from t2local.adapt import two_pass
from t2local.adapt.adapter import Adapter, may_rebuild
from t2local.adapt.context import check_messages
from t2local.adapt.dispatch import LABELS
from t2local.adapt.events import ADAPTED_ROW, Dispatch, Token
from t2local.adapt.two_pass import Steering, Strategy, Workshop
from t2local.engine.adapting import AdaptingDesk
from t2local.engine.chats import ChatStore
from t2local.engine.drafts import Drafts
from t2local.engine.jobs import Jobs
from t2local.engine.library import LibraryDesk
from t2local.engine.preview import Previews
from t2local.engine.requests import (
    BASE,
    CLASSIFIER,
    MANUAL,
    PROMPT,
    ChatRequest,
    EngineStatus,
    ExpertInfo,
    NextTokens,
    Spectrum,
)
from t2local.engine.shelf import Shelf, expert_info
from t2local.engine.training_desk import TrainingDesk
from t2local.errors import T2LocalError
from t2local.experts import Expert, ExpertStore
from t2local.models.load import LoadedModel, load_model
from t2local.models.prefix_cache import PrefixCache
from t2local.progress import CancelToken, Progress, drain
from t2local.svf import Mixture, SVFModel, attaching

REBUILT_COPIES = 2  # the classifier's, and the mixture used again and again


@dataclass
class _Session:
    """A running answer: its wheel, its stop button, and what it has said."""

    workshop: Workshop
    steering: Steering = field(default_factory=Steering)
    cancel: CancelToken = field(default_factory=CancelToken)
    said: str = ""


class Engine:
    """See the module. `quantize`, `basis` and `targets` are those of the command line."""

    def __init__(
        self,
        model: str | None = None,
        quantize: str = "auto",
        basis: str = "auto",
        targets: str = "all",
    ) -> None:
        self.chats = ChatStore()
        self._source, self._quantize = model or paths.default_model(), quantize
        self._basis, self._targets = basis, targets
        self._status = EngineStatus("Starting")
        self._workshop: Workshop | None = None
        self._svf: SVFModel | None = None
        self._shelf = Shelf()
        self._previews = Previews()
        self._sessions: dict[str, _Session] = {}
        self.jobs = Jobs(self._trained_model, self.adopt)
        self._drafts = Drafts(self.jobs)
        loading = {"model": self._source, "quantization": quantize, "basis": basis}
        self.desk = TrainingDesk(self.jobs, self._trained_model, loading)
        self.library = LibraryDesk(self._trained_model, self.restock, self.desk.names_in_training)
        self.adapting = AdaptingDesk(self._trained_model, lambda: self._shelf)
        self._restocking = threading.Lock()  # answers see experts and adapter of one moment

    # --- loading

    @property
    def status(self) -> EngineStatus:
        return self._status

    def start(self) -> None:
        """Load in the background; `status` tells how far it is, or why it failed."""
        threading.Thread(target=self._load_in_background, daemon=True, name="load").start()

    def loading(self) -> Generator[Progress, None, None]:
        """Load the model, attach SVF and read the experts, yielding progress.

        Raises `T2LocalError` for whatever stands in the way.
        """
        loaded = yield from load_model(self._source, self._quantize)
        folder = paths.basis_dir() / loaded.slug
        svf = yield from attaching(loaded.model, self._targets, self._basis, folder)
        with svf.lock:
            self._svf, self._shelf = svf, Shelf.read(loaded, svf)
            self._workshop = Workshop(
                loaded,
                self._adapter(loaded, svf),
                PrefixCache(),
                lambda: svf.lock,
                self._shelf.warnings,
            )
        if self._shelf.classifier is not None:
            yield Progress("Warming up", 0, 1)
            with svf.lock:
                self._workshop.adapter.settle(Mixture({self._shelf.classifier: 1.0}))
        self._status = EngineStatus(
            "Ready",
            1.0,
            ready=True,
            model_name=loaded.name,
            dtype=loaded.dtype,
            quantization=loaded.quantization,
            resident_bytes=loaded.resident_bytes + svf.basis_bytes,
            device=loaded.device,
            context_length=loaded.context_length,
        )

    def load(self, on_progress=None) -> "Engine":
        """Load now and wait. Raises `T2LocalError`."""
        drain(self.loading(), on_progress)
        return self

    def _load_in_background(self) -> None:
        try:
            for progress in self.loading():
                self._status = EngineStatus(progress.stage, progress.fraction)
        except T2LocalError as error:
            self._status = EngineStatus("Loading failed", error=str(error))
        except Exception as error:
            self._status = EngineStatus(
                "Loading failed",
                error=f"Loading '{self._source}' failed unexpectedly "
                f"({type(error).__name__}: {error}); the terminal shows where.",
            )
            raise

    def _adapter(self, loaded: LoadedModel, svf: SVFModel) -> Adapter:
        experts = {name: expert.z for name, expert in self._shelf.usable.items()}
        copies = REBUILT_COPIES if may_rebuild(loaded) else 0
        return Adapter(svf, experts, copies, self._shelf.mixable)

    def adopt(self, expert: Expert) -> None:
        """Save a new expert and offer it to every later answer."""
        ExpertStore(self._ready().loaded.slug).save(expert)
        self._drafts.drop(expert.name)
        self.restock()

    def draft(self, run: str) -> str:
        """Offer the current z of a run in progress to the chat, and give its name there."""
        draft = self._drafts.take(run)
        self.restock()
        return draft.name

    def restock(self) -> None:
        """Read the expert files again for every later answer; running ones keep what they have."""
        with self._restocking:
            workshop = self._ready()
            shelf = Shelf.read(workshop.loaded, self._svf)
            self._shelf = shelf.with_drafts(self._drafts.besides(shelf.usable))
            adapter = self._adapter(workshop.loaded, self._svf)
            warnings = self._shelf.warnings
            self._workshop = replace(workshop, adapter=adapter, warnings=warnings)

    def _trained_model(self) -> tuple[LoadedModel, SVFModel]:
        return self._ready().loaded, self._svf

    def _ready(self) -> Workshop:
        if self._workshop is None:
            found = self._status.error or f"{self._status.stage}, {self._status.fraction:.0%}"
            raise T2LocalError(f"The model is not ready yet ({found}); wait until it is loaded.")
        return self._workshop

    def _stock(self) -> tuple[Workshop, Shelf]:
        """Both of one moment, whatever becomes of the experts meanwhile."""
        with self._restocking:
            return self._ready(), self._shelf

    # --- what there is

    def experts(self) -> list[ExpertInfo]:
        """Every expert file for this model, unusable ones with the reason as their warning."""
        return [expert_info(entry) for entry in self._shelf.entries]

    def strategies(self) -> list[str]:
        """The strategies that are possible with the experts there are, best first."""
        asked = [CLASSIFIER] if self._shelf.classifier else []
        asked += [PROMPT] if self._shelf.skills else []
        found = self.adapting.strategies() if self._shelf.skills else []
        return [*asked, *found, *([MANUAL] if self._shelf.mixable else []), BASE]

    def matrix_names(self) -> list[str]:
        self._ready()
        return list(self._svf.matrix_names)

    def deltas(self, mixture: Mixture) -> dict[str, float]:
        """Matrix name -> rms of `z − 1` under a mixture: the heat map."""
        z = self._checked(mixture).z_of(mixture)
        rms = {name: float((row - 1).square().mean().sqrt()) for name, row in z.items()}
        return {name: rms.get(name, 0.0) for name in self._svf.matrix_names}

    def spectrum(self, matrix_name: str, mixture: Mixture) -> Spectrum:
        """σ and z of one matrix. Raises `T2LocalError` for a name that is not adapted."""
        self._ready()
        sigma = self._svf.singular_values.get(matrix_name)
        if sigma is None:
            raise T2LocalError(
                f"'{matrix_name}' is not an adapted matrix of this model; choose one such as "
                f"'{self._svf.matrix_names[0]}'."
            )
        z = self._checked(mixture).z_of(mixture).get(matrix_name, torch.ones_like(sigma))
        return Spectrum(tuple(sigma.tolist()), tuple(z.tolist()))

    def _checked(self, mixture: Mixture) -> Adapter:
        adapter = self._ready().adapter
        adapter.check(mixture)
        return adapter

    # --- answering

    def answer(self, session: str, request: ChatRequest) -> Iterator[two_pass.Event]:
        """Both passes for the last message; events as in `adapt.events`.

        Starting an answer stops the one this session had running. Raises `T2LocalError`.
        """
        workshop, shelf = self._stock()
        self.stop(session)
        running = self._sessions[session] = _Session(workshop)
        strategy = self._strategy(request, shelf)
        try:
            for event in two_pass.answer(
                workshop,
                request.messages,
                strategy,
                shelf.skills,
                request.sampling,
                running.steering,
                running.cancel,
                request.compare,
                request.continue_last,
            ):
                if isinstance(event, Token) and event.row == ADAPTED_ROW:
                    running.said += event.text
                yield event
        finally:
            if self._sessions.get(session) is running:
                del self._sessions[session]

    def dispatch(self, request: ChatRequest) -> Dispatch:
        """Pass 1 alone for the last user message."""
        check_messages(request.messages)
        question = [m["content"] for m in request.messages if m["role"] == "user"][-1]
        workshop, shelf = self._stock()
        return two_pass.dispatch(workshop, question, self._strategy(request, shelf), shelf.skills)

    def steer(self, session: str, mixture: Mixture) -> None:
        """Turn the wheel of this session's running answer; nothing happens when it is idle."""
        running = self._sessions.get(session)
        if running is None:
            self._checked(mixture)
            return
        running.workshop.adapter.check(mixture)
        running.steering.steer(mixture)

    def stop(self, session: str) -> None:
        """End this session's answer after its current token; its `Done` still comes."""
        if running := self._sessions.get(session):
            running.cancel.cancel()

    def next_tokens(
        self, session: str, request: ChatRequest, mixture: Mixture, k: int = 10
    ) -> NextTokens:
        """The `k` likeliest next tokens of base and adapted model after the words so far."""
        self._checked(mixture)
        running = self._sessions.get(session)
        said = running.said if running else ""
        return self._previews.bars(self._ready(), request.messages, said, mixture, k)

    def _strategy(self, request: ChatRequest, shelf: Shelf) -> Strategy:
        controls, classifier = request.controls, shelf.usable.get(shelf.classifier)
        return Strategy(
            controls.strategy,
            self.adapting.resolved(controls.strategy, controls.mixture),
            controls.soft,
            controls.threshold,
            controls.override,
            classifier.name if classifier else None,
            classifier.labels if classifier else LABELS,
        )
