"""The loaded model and putting another one in its place; fetching models from the Hub.

Both are jobs. The old model is freed before the new one is read, so that both never need memory at
once; when the new one fails, the old one is loaded again. Whoever works with the model for longer
than one answer announces it (`Uses`); whoever else holds it is asked to let go.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from t2local.adapt.two_pass import Steering, Workshop
from t2local.engine import loading as choices
from t2local.engine.job_record import DOWNLOAD, LOADING, JobStatus, new_id
from t2local.engine.jobs import Job, Jobs, Work
from t2local.engine.loading import Choice, Opened, opening
from t2local.engine.requests import EngineStatus
from t2local.engine.shelf import Shelf
from t2local.errors import Cancelled, T2LocalError
from t2local.models.fit.memory import free_memory
from t2local.models.load.hub import fetching
from t2local.models.load.loader import EMBEDDED, LoadedModel, local_path
from t2local.models.storage import BASES, QUANTIZATIONS, asked_for
from t2local.progress import FAILED as JOB_FAILED
from t2local.progress import FINISHED, INTERRUPTED, CancelToken, FetchProgress, Progress
from t2local.svf import SVFModel

# --- Who works with the model, so that it is not taken away meanwhile.
#
# A search, an evaluation, a dry run announce themselves in `Uses` for as long as they last:
# another model is refused. Answers, previews and the like are over soon and are in `Moments`:
# another model ends them and waits.


class Uses:
    """Announced from any thread."""

    def __init__(self) -> None:
        # Reentrant, as a dropped generator may be closed, and its use end, in any thread anywhere.
        self._lock = threading.RLock()  # around `_running`
        self._running: Counter[str] = Counter()

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """`what` uses the model inside the block: "An evaluation". Fetch the model inside."""
        with self._lock:
            self._running[what] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[what] -= 1

    @contextmanager
    def nobody(self) -> Iterator[None]:
        """Nobody begins inside the block, and nobody was at work before it.

        Raises `T2LocalError` where somebody is.
        """
        with self._lock:
            for what in +self._running:
                raise T2LocalError(
                    f"{what} is using the model; stop it or wait until it is done, then load "
                    "another model."
                )
            yield


@dataclass(eq=False)
class Running:
    """A running answer: its wheel, its stop button, and what it has said."""

    workshop: Workshop
    steering: Steering = field(default_factory=Steering)
    cancel: CancelToken = field(default_factory=CancelToken)
    said: str = ""


class Moments:
    """Whatever uses the model for a moment, the running answers among it: one for each asker.

    From any thread. An asker is a chat's id, or a word of a command's own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # around the two below; reentrant, as in `Uses`
        self._by_asker: dict[str, Running] = {}
        self._using: set[object] = set()

    @contextmanager
    def moment(self) -> Iterator[None]:
        """The model is used inside the block, which `end` waits for. Fetch the model inside."""
        mine = object()
        with self._changed:
            self._using.add(mine)
        try:
            yield
        finally:
            with self._changed:
                self._using.discard(mine)
                self._changed.notify_all()

    @contextmanager
    def of(
        self, asker: str, workshop: Workshop, cancel: CancelToken | None = None
    ) -> Iterator[Running]:
        """The asker's answer inside the block, itself a moment; one it had is told to stop.

        `cancel`: the answer's stop button, where the asker has one.
        """
        running = Running(workshop, cancel=cancel or CancelToken())
        with self.moment():
            with self._changed:
                before = self._by_asker.get(asker)
                self._by_asker[asker] = running
            if before is not None:
                before.cancel.cancel()
            try:
                yield running
            finally:
                with self._changed:
                    if self._by_asker.get(asker) is running:
                        del self._by_asker[asker]

    def running(self, asker: str) -> Running | None:
        """The asker's answer, None while it has none."""
        return self._by_asker.get(asker)

    def end(self, timeout_s: float) -> None:
        """Stop all answers and wait until nothing uses the model, at most `timeout_s`."""
        with self._changed:
            for running in list(self._by_asker.values()):
                running.cancel.cancel()
            self._changed.wait_for(lambda: not self._using, timeout_s)


LOADING_FAILED = "Loading failed"


class LoadWork(Work):
    """Putting a model in the slot. No record is kept: a start needs no disk to write on."""

    kind = LOADING
    keeps_events = False

    def __init__(self, slot: "ModelSlot", choice: Choice, otherwise: Choice | None) -> None:
        super().__init__(f"loading-{time.time_ns()}", choice.asked)
        self._slot, self._choice, self._otherwise = slot, choice, otherwise

    def run(self, job: Job) -> Generator[Progress, None, str]:
        return self._slot.replacing(self._choice, self._otherwise, job.cancel)


class ModelSlot:
    """`let_go`: called between two models, until nobody holds the old one."""

    def __init__(self, choice: Choice, jobs: Jobs, uses: Uses, let_go: Callable[[], None]) -> None:
        self.choice = choice
        self.status = EngineStatus("Starting")
        self._jobs, self._uses, self._let_go = jobs, uses, let_go
        self._opened: Opened | None = None
        self._lock = threading.RLock()  # around `_opened`
        self._job = ""  # of the last loading in the background
        self._serial = 0

    # --- the model there is

    @property
    def opened(self) -> Opened | None:
        return self._opened

    def ready(self) -> Opened:
        """Raises `T2LocalError` while there is none."""
        opened = self._opened
        if opened is None:
            found = self.status.error or f"{self.status.stage}, {self.status.fraction:.0%}"
            raise T2LocalError(f"The model is not ready yet ({found}); wait until it is loaded.")
        return opened

    def restock(self, make: Callable[[Opened], Opened]) -> Opened:
        """Put `make(opened)` in the place of what is opened. `T2LocalError` where nothing is."""
        with self._lock:
            opened = self._opened = make(self.ready())
        return opened

    # --- loading

    def loading(self) -> Generator[Progress, None, None]:
        """Load the first model, yielding progress. Raises `T2LocalError`."""
        self._hold((yield from opening(self.choice)))

    def start(self) -> None:
        """Load the first model in the background; `status` tells how far it is, or why it failed.

        One that was only chosen last time may be gone by now: the default is loaded instead.
        """
        otherwise = choices.default() if self.choice.why == choices.LAST else None
        self._begin(self.choice, otherwise)

    def switch(self, choice: Choice) -> None:
        """Load another model in the background, in the place of this one.

        Raises `T2LocalError` at once, and changes nothing, for what cannot be loaded or while the
        model is in use.
        """
        check(choice)
        with self._lock:
            if self._jobs.live(LOADING):
                raise T2LocalError(
                    f"'{self.choice.asked}' is being loaded; cancel that, or wait until it is done."
                )
            with self._uses.nobody():
                before, self._opened = self._opened, None
                self.status = EngineStatus("Making room")
            self._begin(choice, before.choice if before else None)

    def cancel(self) -> None:
        """Stop loading after its current step; the model from before comes back."""
        if self._jobs.find(self._job):
            self._jobs.stop(self._job)

    def _begin(self, choice: Choice, otherwise: Choice | None) -> None:
        self.choice = choice
        self._job = self._jobs.start(LoadWork(self, choice, otherwise))

    def replacing(
        self, choice: Choice, otherwise: Choice | None, cancel: CancelToken
    ) -> Generator[Progress, None, str]:
        """Load `choice`, or where that fails `otherwise`; a sentence in the end.

        Raises `T2LocalError` where `choice` is not loaded, whatever stands in its place.
        """
        try:
            self._let_go()
            free_memory()
            problem = yield from self._trying(choice, cancel)
        except Exception as error:
            found = f"'{choice.asked}' cannot be loaded ({type(error).__name__}: {error})"
            self.status = EngineStatus(LOADING_FAILED, error=f"{found}; start the program again.")
            raise
        if problem is None:
            self._remember(choice)
            return f"'{self.status.model_name}' is loaded."
        free_memory()  # outside the `except` that would still hold what was read so far
        if otherwise is None:
            self.status = EngineStatus(LOADING_FAILED, error=problem)
            raise T2LocalError(problem)
        self.choice = otherwise
        self._let_go()  # whoever looked forward to the new one looks back
        again = yield from self._trying(otherwise, CancelToken())
        if again is not None:
            self.status = EngineStatus(LOADING_FAILED, error=again, note=problem)
            raise T2LocalError(f"{problem} {again}")
        note = f"{problem} '{self.status.model_name}' is loaded instead."
        self.status = replace(self.status, note=note)
        raise T2LocalError(note)

    def _trying(self, choice: Choice, cancel: CancelToken) -> Generator[Progress, None, str | None]:
        """Load now; None, or the sentence that says why it failed."""
        try:
            work = opening(choice, cancel)
            while True:
                progress = next(work)
                self._tell(progress)
                yield progress
        except StopIteration as end:
            self._hold(end.value)
        except Cancelled:
            return f"Loading '{choice.asked}' was cancelled."
        except T2LocalError as error:
            return str(error)
        except Exception as error:
            logging.getLogger(__name__).exception("loading %s failed", choice.source)
            return (
                f"Loading '{choice.source}' failed unexpectedly "
                f"({type(error).__name__}: {error}); the terminal shows where."
            )
        return None

    def _tell(self, progress: Progress) -> None:
        self.status = EngineStatus(progress.stage, progress.fraction)

    def _hold(self, opened: Opened) -> None:
        with self._lock:
            self._opened = opened
            self.status = opened.status(self._serial)
            self._serial += 1

    def _remember(self, choice: Choice) -> None:
        """What a person chose in the page; a command's `--model` is for that command."""
        if choice.why != choices.HERE:
            return
        try:
            choices.remember(choice)
        except T2LocalError as error:
            self.status = replace(self.status, note=str(error))


def check(choice: Choice) -> None:
    """Raise `T2LocalError` for what can be seen to be wrong before anything is freed."""
    for what, given, known in (
        ("Quantisation", choice.quantize, asked_for(QUANTIZATIONS)),
        ("Basis dtype", choice.basis, asked_for(BASES)),
    ):
        if given not in known:
            raise T2LocalError(f"{what} '{given}' is unknown; choose one of {', '.join(known)}.")
    if choice.source != EMBEDDED:
        local_path(choice.source)


def check_model(what: str, settings: Mapping[str, Any], loaded: LoadedModel) -> None:
    """Raise `T2LocalError` where `settings` name another model than the loaded one."""
    model = settings.get("model")
    if model != loaded.slug:
        raise T2LocalError(
            f"This {what} was begun on '{model}', and '{loaded.name}' is loaded; load that model "
            f"in the tab Models, then resume the {what}."
        )


@dataclass(frozen=True)
class OnModel:
    """What long work needs of the engine. `model`, `shelf`: of this moment.

    `model` raises `T2LocalError` where it is not ready. `forget` gives back what chats keep, when
    memory runs out.
    """

    jobs: Jobs
    model: Callable[[], tuple[LoadedModel, SVFModel]]
    shelf: Callable[[], Shelf]
    uses: Uses
    forget: Callable[[], None]


# --- Downloads of models, as jobs: the page may be reloaded or closed meanwhile.
#
# One download a model at a time; a stopped, cut-off or broken one keeps what has arrived and goes
# on when it is started again.

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
STAGES = {FINISHED: DONE, INTERRUPTED: STOPPED, JOB_FAILED: FAILED}  # else running


@dataclass(frozen=True)
class Download:
    """How far one is. `message`: why it failed, in a sentence."""

    model_id: str
    stage: str = RUNNING
    done_bytes: int = 0
    total_bytes: int = 0  # 0 while the Hub is asked
    bytes_per_s: float = 0.0  # 0 while unknown
    message: str = ""

    @property
    def running(self) -> bool:
        return self.stage == RUNNING


class DownloadWork(Work):
    """Fetching one model."""

    kind = DOWNLOAD
    keeps_events = False

    def __init__(self, id: str, model_id: str) -> None:
        super().__init__(id, model_id, lane=f"download {model_id}")
        self.settings = {"model_id": model_id}

    def run(self, job: Job) -> Generator[Progress, None, str]:
        yield from fetching(self.name, job.cancel)
        return f"'{self.name}' is on this machine."

    def stopped(self, status: JobStatus) -> str:
        return "Stopped; what has arrived is kept, and it goes on from there."


class Downloads:
    """Started and stopped from any thread."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        jobs.register(DOWNLOAD, self._again)

    def of(self, model_id: str) -> Download | None:
        """Where this model's last download stands, None where none was started."""
        status = self._last(model_id)
        if status is None:
            return None
        stage = STAGES.get(status.stage, RUNNING)
        job = self.jobs.find(status.id)
        last = job.events[-1:] if job is not None and stage == RUNNING else []
        speed = next((e.bytes_per_s for e in last if isinstance(e, FetchProgress)), 0.0)
        message = status.message if stage == FAILED else ""
        return Download(model_id, stage, status.step, status.steps, speed, message)

    @property
    def running(self) -> bool:
        return bool(self.jobs.live(DOWNLOAD))

    def start(self, model_id: str) -> None:
        """Begin, or go on with what has arrived; nothing happens while it is running."""
        found = self._last(model_id)
        if found is None or not found.live:
            self.jobs.start(DownloadWork(new_id(model_id), model_id))

    def cancel(self, model_id: str) -> None:
        found = self._last(model_id)
        if found is not None and found.live:
            self.jobs.stop(found.id)

    def _again(self, id: str, settings: Mapping[str, Any]) -> DownloadWork:
        return DownloadWork(id, settings["model_id"])

    def _last(self, model_id: str) -> JobStatus | None:
        found = self.jobs.history(DOWNLOAD)
        return next((status for status in found if status.name == model_id), None)
