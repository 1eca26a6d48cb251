"""Downloads of models, as jobs: the page may be reloaded or closed meanwhile.

One download a model at a time; a stopped, cut-off or broken one keeps what has arrived and goes on
when it is started again. Nothing is known here of what is loaded.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from t2local.engine.job_record import DOWNLOAD, JobStatus, new_id
from t2local.engine.jobs import Job, Jobs, Work
from t2local.models.load.hub import FetchProgress, fetching
from t2local.progress import FAILED as JOB_FAILED
from t2local.progress import FINISHED, INTERRUPTED, Progress

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
