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
from dataclasses import dataclass, replace

from t2local.errors import T2LocalError
from t2local.experts import Expert
from t2local.models.load.loader import LoadedModel
from t2local.progress import (
    BUSY,
    FAILED,
    FINISHED,
    INTERRUPTED,
    PAUSED,
    QUEUED,
    RUNNING,
    STOPPING,
    LongWork,
    Progress,
    check_next,
)
from t2local.svf import SVFModel
from t2local.training.config import SVF
from t2local.training.forecast import Forecast
from t2local.training.methods import SVFMethod
from t2local.training.recipe import lessons, make_expert
from t2local.training.reports import Checkpoint, Held, StepReport, TrainState
from t2local.training.runner import running
from t2local.training.runs import Plan, Run


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


class _Job(LongWork):
    """A run of this process. `state`: after its last step."""

    def __init__(self, run: Run, plan: Plan, changed: threading.Condition) -> None:
        status = JobStatus(run.name, plan.name, QUEUED, steps=plan.config.steps)
        super().__init__(plan.name, status, changed)
        self.run, self.forecast = run, Forecast()
        self.state: TrainState | None = None


class Jobs:
    """`model`: gives the loaded model and its SVF; `finished`: is called with each new expert.

    `_changed` guards the table of jobs, the job at work and every job's stage. Neither `model` nor
    `finished` is called under it.
    """

    def __init__(
        self,
        model: Callable[[], tuple[LoadedModel, SVFModel]],
        finished: Callable[[Expert], None],
    ) -> None:
        self._model, self._finished = model, finished
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._queue: queue.Queue[_Job] = queue.Queue()
        self._at_work: _Job | None = None
        self._worker: threading.Thread | None = None

    def start(self, plan: Plan) -> str:
        """Queue a new run and give its name. Raises `T2LocalError` for data that cannot serve."""
        lessons(plan)  # bad rows are told now, not from the queue
        run = Run.create(plan)
        with self._changed:
            self._enqueue(run)
        return run.name

    def resume(self, name: str) -> None:
        """Let a paused run go on, or take up one that failed or was cut off.

        One that waits its turn or is at work goes on as it is. Raises `T2LocalError` for one that
        is stopping or finished.
        """
        with self._changed:
            job = self._jobs.get(name)
            if job is not None and job.status.stage in BUSY:
                job.resume()
                return
            run = Run.open(name)
            now = job.status.stage if job else FINISHED if run.finished else INTERRUPTED
            check_next(run.plan().name, now, QUEUED)
            self._enqueue(run)

    def pause(self, name: str) -> None:
        """Hold a run after its current step; its model is free for the chat meanwhile.

        Nothing happens to a run that has ended: it ended while somebody reached for the button.
        Raises `T2LocalError` for one that was cut off or never was.
        """
        with self._changed:
            if not self._is_over(name):
                self._find(name).pause("Paused: resume it to go on.")

    def stop(self, name: str) -> None:
        """End a run after its current step; its best checkpoint becomes the expert.

        A run that has ended is left alone, as by `pause`. Raises `T2LocalError` likewise.
        """
        with self._changed:
            if not self._is_over(name):
                self._find(name).stop("Stopping: the best checkpoint is kept.")

    def busy(self) -> list[str]:
        """Experts of the runs that are at work or about to be; paused ones aside."""
        with self._changed:
            found = [job.status for job in self._jobs.values()]
        return [status.expert for status in found if status.stage in (QUEUED, RUNNING, STOPPING)]

    def let_go(self, timeout_s: float) -> None:
        """Leave paused runs as they are on disk: they can be taken up on the same model again.

        One may still be in its last step, which is waited for.
        """
        with self._changed:
            left = [job for job in self._jobs.values() if job.status.stage == PAUSED]
            for job in left:
                job.tell(stage=INTERRUPTED)
                del self._jobs[job.run.name]  # its folder says all there is
            self._changed.wait_for(lambda: self._at_work not in left, timeout_s)

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
        with self._changed:
            jobs = dict(self._jobs)
        if name not in jobs:
            return status_on_disk(Run.open(name))
        status = jobs[name].status
        if status.stage != QUEUED:
            return status
        before = list(jobs.values())[: list(jobs).index(name)]
        ahead = sum(job.status.stage in BUSY for job in before)
        return replace(status, message=f"{ahead} ahead of it." if ahead else "")

    def _find(self, name: str) -> _Job:
        with self._changed:
            if name not in self._jobs:
                raise T2LocalError(f"Run '{name}' is not running; resume it first.")
            return self._jobs[name]

    def _is_over(self, name: str) -> bool:
        """Finished before this process began; what it has run itself knows its own stage."""
        return name not in self._jobs and Run.open(name).finished

    def _enqueue(self, run: Run) -> None:
        self._jobs.pop(run.name, None)  # resumed, it goes to the end of the queue
        job = self._jobs[run.name] = _Job(run, run.plan(), self._changed)
        self._queue.put(job)
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._work, daemon=True, name="train")
            self._worker.start()

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            with self._changed:
                self._at_work = job
            try:
                if job.take_up():
                    self._drive(job)
            except T2LocalError as error:
                job.end(FAILED, message=str(error))
            except Exception as error:
                job.end(FAILED, message=f"{type(error).__name__}: {error}")
                logging.getLogger(__name__).exception("run %s failed", job.run.name)
            with self._changed:
                self._at_work = None
                self._changed.notify_all()

    def _drive(self, job: _Job) -> None:
        """One run from where it stands to its expert."""
        loaded, svf = self._model()
        job.state = job.run.state()
        step = job.state.step if job.state else 0
        job.tell(step=step, message="Trying the base model")
        work = running(job.run, loaded, svf, self._finished, job.cancel)
        while job.goes_on():
            started = time.monotonic()
            try:
                event = next(work)
            except StopIteration as end:
                trained = end.value
                break
            job.forecast.listen(event, time.monotonic() - started)
            self._listen(job, event)
        else:
            work.close()
            return
        name = trained.expert.name if trained.expert else job.status.expert
        ready = f"'{name}' is ready."
        if trained.expert is None:
            ready = f"'{name}' is measured; its adapter lies in the run's folder."
        job.end(FINISHED, expert=name, message=ready, eta_s=None)

    def _listen(self, job: _Job, event) -> None:
        figures = {"eta_s": job.forecast.remaining_s}
        if isinstance(event, StepReport):
            figures |= {"step": event.step, "message": ""}
        elif isinstance(event, Checkpoint):
            job.state = event.state
        elif isinstance(event, Held):
            job.pause(f"Paused. {event.reason}")
        elif isinstance(event, Progress):
            figures["message"] = event.stage
        job.tell(**figures)


def status_on_disk(run: Run) -> JobStatus:
    """What a run's folder says of it when no worker drives it."""
    plan, state = run.plan(), run.state()
    step = state.step if state else 0
    if run.finished:
        name = run.result().get("expert") or plan.name  # another one where that was taken
        return JobStatus(run.name, name, FINISHED, step, plan.config.steps)
    message = f"Cut off after step {step}: resume it to go on."
    return JobStatus(run.name, plan.name, INTERRUPTED, step, plan.config.steps, message)
