"""Training runs in the background: a queue, one worker, pause, stop, and what became of each run.

A run's record is its folder on disk (`training.runs`); this module only drives it, so a restarted
server finds every run again and goes on with one that was cut off. The trainer shares the loaded
model with the chat, one forward at a time.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from t2local.errors import T2LocalError
from t2local.experts import Expert
from t2local.models.load import LoadedModel
from t2local.progress import CancelToken, Progress
from t2local.svf import SVFModel
from t2local.training.conduct import conduct
from t2local.training.config import SVF
from t2local.training.forecast import Forecast
from t2local.training.methods import SVFMethod
from t2local.training.recipe import lessons, make_expert
from t2local.training.reports import Checkpoint, Held, StepReport, TrainState
from t2local.training.runs import Plan, Run

QUEUED, RUNNING, PAUSED, STOPPING = "queued", "running", "paused", "stopping"
FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
BUSY = (QUEUED, RUNNING, PAUSED, STOPPING)


@dataclass(frozen=True)
class JobStatus:
    """Where a run stands. `message`: a sentence for a person.

    `eta_s`: seconds until its expert is there, None while unknown.
    """

    run: str
    expert: str
    stage: str
    step: int = 0
    steps: int = 0
    message: str = ""
    eta_s: float | None = None


@dataclass
class _Job:
    run: Run
    status: JobStatus
    cancel: CancelToken = field(default_factory=CancelToken)
    go_on: threading.Event = field(default_factory=threading.Event)
    forecast: Forecast = field(default_factory=Forecast)
    state: TrainState | None = None  # after the last step
    left: bool = False  # its model goes: what is on disk stays


class Jobs:
    """`model`: gives the loaded model and its SVF; `finished`: is called with each new expert."""

    def __init__(
        self,
        model: Callable[[], tuple[LoadedModel, SVFModel]],
        finished: Callable[[Expert], None],
    ) -> None:
        self._model, self._finished = model, finished
        self._jobs: dict[str, _Job] = {}
        self._queue: queue.Queue[str] = queue.Queue()
        self._worker: threading.Thread | None = None

    def start(self, plan: Plan) -> str:
        """Queue a new run and give its name. Raises `T2LocalError` for data that cannot serve."""
        lessons(plan)  # bad rows are told now, not from the queue
        return self._enqueue(Run.create(plan))

    def resume(self, name: str) -> None:
        """Let a paused run go on, or take up one that was cut off. Raises `T2LocalError`."""
        job = self._jobs.get(name)
        if job is None or job.status.stage in (FAILED, INTERRUPTED):
            self._enqueue(Run.open(name))
        else:
            self._tell(job, stage=RUNNING, message="")
            job.go_on.set()

    def pause(self, name: str) -> None:
        """Hold a run after its current step; its model is free for the chat meanwhile."""
        job = self._find(name)
        job.go_on.clear()
        self._tell(job, stage=PAUSED, message="Paused: resume it to go on.")

    def stop(self, name: str) -> None:
        """End a run after its current step; its best checkpoint becomes the expert."""
        job = self._find(name)
        job.cancel.cancel()
        job.go_on.set()
        self._tell(job, stage=STOPPING, message="Stopping: the best checkpoint is kept.")

    def busy(self) -> list[str]:
        """Experts of the runs that are at work or about to be; paused ones aside."""
        busy = (QUEUED, RUNNING, STOPPING)
        return [j.status.expert for j in self._jobs.values() if j.status.stage in busy]

    def let_go(self, timeout_s: float) -> None:
        """Leave paused runs as they are on disk: they can be taken up on the same model again."""
        for job in list(self._jobs.values()):
            if job.status.stage == PAUSED:
                job.left = True
                job.go_on.set()
        deadline = time.monotonic() + timeout_s  # one may still be in its last step
        while any(job.left for job in list(self._jobs.values())) and time.monotonic() < deadline:
            time.sleep(0.02)

    def snapshot(self, name: str) -> Expert:
        """The `z` of a run in progress, as an expert called after its step.

        Raises `T2LocalError`: not running, before the first step, or no `z` at all (LoRA).
        """
        job, plan = self._find(name), Run.open(name).plan()
        if plan.config.method != SVF:
            raise T2LocalError(
                f"'{plan.name}' trains a LoRA adapter, which is no z and cannot be mixed; "
                "its answers beside the base model's are shown with the run."
            )
        if job.state is None or job.state.step == 0:
            raise T2LocalError(f"'{plan.name}' has taken no step yet; wait for the first one.")
        loaded, svf = self._model()
        z = SVFMethod(loaded, svf).z(job.state.flat)
        named = replace(plan, name=f"{plan.name}-step-{job.state.step}")
        return make_expert(loaded, svf, z, named)

    def status(self, name: str) -> JobStatus:
        """Raises `T2LocalError` for an unknown run."""
        if name not in self._jobs:
            return status_on_disk(Run.open(name))
        status = self._jobs[name].status
        if status.stage != QUEUED:
            return status
        before = list(self._jobs).index(name)
        ahead = sum(job.status.stage in BUSY for job in list(self._jobs.values())[:before])
        return replace(status, message=f"{ahead} ahead of it." if ahead else "")

    def _find(self, name: str) -> _Job:
        if name not in self._jobs:
            raise T2LocalError(f"Run '{name}' is not running; resume it first.")
        return self._jobs[name]

    def _enqueue(self, run: Run) -> str:
        plan = run.plan()
        status = JobStatus(run.name, plan.name, QUEUED, steps=plan.config.steps)
        self._jobs.pop(run.name, None)  # resumed, it goes to the end of the queue
        job = self._jobs[run.name] = _Job(run, status)
        job.go_on.set()
        self._queue.put(run.name)
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._work, daemon=True, name="train")
            self._worker.start()
        return run.name

    def _work(self) -> None:
        while True:
            job = self._jobs[self._queue.get()]
            try:
                self._drive(job)
            except T2LocalError as error:
                self._tell(job, stage=FAILED, message=str(error))
            except Exception as error:
                self._tell(job, stage=FAILED, message=f"{type(error).__name__}: {error}")
                logging.getLogger(__name__).exception("run %s failed", job.run.name)

    def _drive(self, job: _Job) -> None:
        """One run from where it stands to its expert."""
        loaded, svf = self._model()
        job.state = job.run.state()
        step = job.state.step if job.state else 0
        self._tell(job, stage=RUNNING, step=step, message="Trying the base model")
        work = conduct(job.run, loaded, svf, self._finished, job.cancel)
        while True:
            started = time.monotonic()
            try:
                event = next(work)
            except StopIteration as end:
                trained = end.value
                break
            job.forecast.listen(event, time.monotonic() - started)
            self._listen(job, event)
            job.go_on.wait()
            if job.left:
                work.close()
                del self._jobs[job.run.name]  # its folder says all there is
                return
        name = trained.expert.name if trained.expert else job.status.expert
        ready = f"'{name}' is ready."
        if trained.expert is None:
            ready = f"'{name}' is measured; its adapter lies in the run's folder."
        self._tell(job, stage=FINISHED, expert=name, message=ready, eta_s=None)

    def _listen(self, job: _Job, event) -> None:
        if isinstance(event, StepReport):
            self._tell(job, step=event.step, message="")
        elif isinstance(event, Checkpoint):
            job.state = event.state
        elif isinstance(event, Held):
            job.go_on.clear()
            self._tell(job, stage=PAUSED, message=f"Paused. {event.reason}")
        elif isinstance(event, Progress):
            self._tell(job, message=event.stage)
        self._tell(job, eta_s=job.forecast.remaining_s)

    def _tell(self, job: _Job, **changes) -> None:
        job.status = replace(job.status, **changes)


def status_on_disk(run: Run) -> JobStatus:
    """What a run's folder says of it when no worker drives it."""
    plan, state = run.plan(), run.state()
    step = state.step if state else 0
    if run.finished:
        name = run.result().get("expert") or plan.name  # another one where that was taken
        return JobStatus(run.name, name, FINISHED, step, plan.config.steps)
    message = f"Cut off after step {step}: resume it to go on."
    return JobStatus(run.name, plan.name, INTERRUPTED, step, plan.config.steps, message)
