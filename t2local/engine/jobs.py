"""Long work in the background: one kind of job for all of it.

Training, a search, an evaluation, a download, loading a model, an answer: each is a `Work`, a
generator of events. A job goes on when the page is closed, any tab finds it again by its id, and
`stop`, `pause` and `resume` mean the same for all. Jobs of one lane wait for each other; the model
itself is shared with chats forward by forward, through its fair lock (`svf.model`). A restarted
server lists what was cut off and takes it up again (`resume`), as far as its kind can.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from t2local import paths
from t2local.engine.job_record import KINDS, JobStatus, Kind, Record
from t2local.errors import Cancelled, T2LocalError
from t2local.locks import Lock
from t2local.models.fit.memory import free_memory
from t2local.progress import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    PAUSED,
    QUEUED,
    LongWork,
    Progress,
    check_next,
)

MOST_LISTED = 100
ENDED_KEPT = 20  # jobs of this process, with all that they told
RECORD_EVERY_S = 5.0  # how far a job is, for whoever looks after a crash
AT_ONCE_S = 0.2
LONG_S = 1.0  # shorter work keeps little, and looking for it takes a part of a second
LEAVES_S = 5.0  # for the last step and the record of a job that has ended
LEFT = "Left when another model was loaded; resume it on its own model."


class Work:
    """One piece of long work. A kind of job is a subclass that says what is done.

    `settings`: what `resume` makes it from again, as JSON values; None for what leaves no record of
    its own here (a training run has its folder, an answer its chat). `lane`: jobs of one lane run
    one after another.
    """

    kind: Kind
    settings: Mapping[str, Any] | None = None
    keeps_events = True  # else only the latest
    stopping = "Stopping …"  # a sentence for the time until it has stopped

    def __init__(self, id: str, name: str, steps: int = 0, lane: str = "") -> None:
        self.id, self.name, self.steps = id, name, steps
        self.lane = lane or self.kind.name

    def run(self, job: "Job") -> Generator[Any, None, str]:
        """The work itself: events as they come, a closing sentence in the end.

        Raises `T2LocalError`, and `Cancelled` once `job.cancel` says so.
        """
        raise NotImplementedError

    def figures(self, event: Any, seconds: float) -> Mapping[str, Any]:
        """What an event that took `seconds` changes in the `JobStatus`."""
        if isinstance(event, Progress):
            return {"step": event.done, "steps": event.total, "message": event.stage}
        return {}

    def line(self, event: Any) -> Mapping[str, Any] | None:
        """An event as JSON for the job's record; None for one that need not be kept."""
        return None

    def stopped(self, status: JobStatus) -> str:
        """A sentence for work that was stopped before its end."""
        return "Stopped."


class Job(LongWork):
    """A work of this process. `events`: what it told, or the latest alone."""

    def __init__(self, work: Work, changed: threading.Condition) -> None:
        status = JobStatus(
            work.id, work.kind.name, work.name, QUEUED, steps=work.steps, started_s=time.time()
        )
        super().__init__(work.name, status, changed)
        self.work = work
        self.events: list[Any] = []
        self.count = 0  # of all events so far
        self._lock: Lock | None = None
        self._recorded_s = time.monotonic()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begin its record, which is this process's alone until `leave`. Raises `T2LocalError`."""
        record = Record.of(self.work.id)
        lock = record.lock
        if not lock.acquire(AT_ONCE_S):
            raise T2LocalError(
                f"{self.work.kind.label} '{self.name}' is at work in another t2local that uses the "
                "same folder; stop it there first."
            )
        try:
            record.begin(self.status, settings)
        except BaseException:
            lock.release()
            raise
        self._lock = lock

    def leave(self) -> None:
        """Any process may take it up from here."""
        if self._lock is not None:
            self._lock.release()

    def record(self, every_s: float = 0.0) -> None:
        """Write where it stands, if it was not within `every_s`; where that fails, the log says."""
        if self.work.settings is None or time.monotonic() - self._recorded_s < every_s:
            return
        self._recorded_s = time.monotonic()
        try:
            Record.of(self.work.id).write(self.status, self.work.settings)
        except Exception:  # whatever a disk that is going says: the lane goes on
            logging.getLogger(__name__).exception("%s is not recorded", self.work.id)

    def take(self, event: Any, seconds: float) -> None:
        with self.changed:
            if not self.work.keeps_events:
                self.events.clear()
            self.events.append(event)
            self.count += 1
            self.tell(**self.work.figures(event, seconds))


@dataclass(frozen=True)
class Elsewhere:
    """Records of jobs that another module keeps.

    `status`: by id, None for an id that is none of these; raises `T2LocalError` for a damaged one.
    `statuses`: of the newest ones.
    """

    status: Callable[[str], JobStatus | None]
    statuses: Callable[[], Sequence[JobStatus]]


class Jobs:
    """All jobs of the process, and the records of earlier ones.

    `_changed` guards the table of jobs, the lanes and every job's stage; work itself runs outside
    it, and no other lock of this process is taken under it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._lanes: dict[str, deque[Job]] = {}  # those with a worker
        self._at_work: set[Job] = set()
        self._makers: dict[str, Callable[[str, Mapping[str, Any]], Work]] = {}
        self._elsewhere: dict[str, Elsewhere] = {}

    def register(
        self,
        kind: Kind,
        make: Callable[[str, Mapping[str, Any]], Work],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """`make`: a work from an id and its settings, for `resume`. `elsewhere`: where jobs of this
        kind have their record, if not here.
        """
        self._makers[kind.name] = make
        if elsewhere is not None:
            self._elsewhere[kind.name] = elsewhere

    # --- starting and stopping

    def start(self, work: Work) -> str:
        """Queue a work and give its id.

        Raises `T2LocalError` when its record cannot be written, and while another process has it.
        """
        with self._changed:
            job = Job(work, self._changed)
            if work.settings is not None:
                job.begin(work.settings)
            self._jobs.pop(work.id, None)  # resumed, it goes to the end of its lane
            self._jobs[work.id] = job
            if work.lane in self._lanes:
                self._lanes[work.lane].append(job)
            else:
                self._lanes[work.lane] = deque([job])
                threading.Thread(
                    target=self._serve, args=(work.lane,), daemon=True, name=f"lane {work.lane}"
                ).start()
        return work.id

    def resume(self, id: str) -> None:
        """Let a paused job go on, or take up one that failed, was stopped or cut off.

        One that waits its turn or is at work goes on as it is. Raises `T2LocalError` for one that
        is stopping, finished or unknown, or that does not leave its worker.
        """
        with self._changed:
            left = self._changed.wait_for(lambda: self._lives(id) or self._has_left(id), LEAVES_S)
            if self._lives(id):
                self._jobs[id].resume()
                return
            status = self.status(id)
            kind = KINDS[status.kind]
            if not left:
                raise T2LocalError(
                    f"{kind.label} '{status.name}' is still in its last step; resume it once that "
                    "is over."
                )
            if not kind.resumes:
                raise T2LocalError(
                    f"{kind.label} '{status.name}' cannot be taken up again; start it anew in the "
                    f"tab {kind.tab}."
                )
            check_next(status.name, status.stage, QUEUED)
            folder = Record.of(id).folder
            settings = Record(folder).read()[1] if folder.is_dir() else {}
            self.start(self._makers[status.kind](id, settings))

    def _lives(self, id: str) -> bool:
        job = self._jobs.get(id)
        return job is not None and job.status.live

    def _has_left(self, id: str) -> bool:
        """Whether no worker is still about to write down how it ended, which the table forgets."""
        return not any(job.work.id == id for job in self._at_work)

    def pause(self, id: str) -> None:
        """Hold a job after its current step; its model is free for the chat meanwhile.

        Nothing happens to a job that has ended: it ended while somebody reached for the button.
        Raises `T2LocalError` for one that was cut off or never was.
        """
        with self._changed:
            if job := self._reached(id):
                job.pause("Paused: resume it to go on.")

    def stop(self, id: str) -> None:
        """End a job after its current step; one that has ended is left alone, as by `pause`.

        One that waits its turn ends at once, and can be taken up later.
        """
        with self._changed:
            job = self._reached(id)
            if job is not None and job.waits:
                job.cancel.cancel()
                job.end(INTERRUPTED, message=job.work.stopped(job.status), eta_s=None)
                job.record()
                job.leave()
            elif job is not None:
                job.stop(job.work.stopping)

    def let_go(self, timeout_s: float) -> None:
        """The model goes: what uses it is left as it is on disk, to be taken up on it again.

        One may still be in its last step, which is waited for.
        """
        with self._changed:
            jobs = list(self._jobs.values())
            left = [job for job in jobs if job.status.live and job.work.kind.uses_model]
            for job in left:
                job.tell(stage=INTERRUPTED, message=LEFT, eta_s=None)
                if job not in self._at_work:
                    job.record()
                    job.leave()
                if job.work.settings is None:
                    del self._jobs[job.work.id]  # its own record says all there is
            self._changed.wait_for(lambda: not self._at_work & set(left), timeout_s)

    def _reached(self, id: str) -> "Job | None":
        """The job that a person reaches for; None where it has ended. `_changed` is held."""
        job = self._jobs.get(id)
        if job is not None:
            return job
        status = self.status(id)
        if status.stage != FINISHED:
            raise T2LocalError(f"'{status.name}' is not running; resume it first.")
        return None

    # --- looking

    def find(self, id: str) -> Job | None:
        """The job of this process with this id."""
        with self._changed:
            return self._jobs.get(id)

    def status(self, id: str) -> JobStatus:
        """Raises `T2LocalError` for an unknown or damaged job."""
        with self._changed:
            job = self._jobs.get(id)
            if job is not None:
                return self._status(job)
        record = Record.of(id)  # refuses what cannot be an id before anybody looks for it
        for elsewhere in self._elsewhere.values():
            if status := elsewhere.status(id):
                return status
        return record.read()[0]

    def live(self, kind: Kind | None = None) -> list[JobStatus]:
        """Queued, running, paused and stopping jobs, the oldest first."""
        with self._changed:
            jobs = list(self._jobs.values())
            found = [self._status(job) for job in jobs if job.status.live]
        return [status for status in found if kind is None or status.kind == kind.name]

    def history(self, kind: Kind | None = None, most: int = MOST_LISTED) -> list[JobStatus]:
        """All jobs that are known, the newest first, live ones and earlier processes' included."""
        found = {status.id: status for status in self._recorded(kind, most)}
        for name, elsewhere in self._elsewhere.items():
            if kind is None or kind.name == name:
                found |= {status.id: status for status in elsewhere.statuses()}
        with self._changed:
            found |= {id: self._status(job) for id, job in self._jobs.items()}
        chosen = [s for s in found.values() if kind is None or s.kind == kind.name]
        return sorted(chosen, key=lambda status: status.started_s, reverse=True)[:most]

    def newest(self, kind: Kind, report: Callable[[str], Any]) -> str | None:
        """The newest job of a kind of which `report` can be made; damaged ones are passed over."""
        for status in self.history(kind):
            with contextlib.suppress(T2LocalError):
                report(status.id)
                return status.id
        return None

    def busy(self) -> list[JobStatus]:
        """Jobs that are using the model or about to; paused ones aside."""
        return [s for s in self.live() if KINDS[s.kind].uses_model and s.stage != PAUSED]

    def follow(self, id: str, beat_s: float | None = None) -> Iterator[Any]:
        """The latest event of a running job, whenever there is a newer one, until it has ended.

        Events may be passed over by a slow listener. `beat_s`: after so long without an event None
        is yielded, for a listener that can only leave between two. Ends at once for an unknown job.
        """
        job, seen = self.find(id), 0
        while job is not None:
            with self._changed:
                told = self._changed.wait_for(
                    lambda: job.count > seen or not job.status.live,  # noqa: B023
                    beat_s,
                )
                if told and job.count == seen:
                    return
                event = job.events[-1] if told else None
                seen = job.count
            yield event

    def wait(self, id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until a job has ended and its end is on disk (or the time is over): its status."""
        job = self.find(id)
        if job is not None:
            with self._changed:
                over = lambda: not job.status.live and job not in self._at_work  # noqa: E731
                self._changed.wait_for(over, timeout_s)
        return self.status(id)

    def _status(self, job: Job) -> JobStatus:
        """With how many are ahead of it in its lane. `_changed` is held."""
        status = job.status
        if status.stage != QUEUED:
            return status
        mates = [j for j in self._jobs.values() if j.work.lane == job.work.lane]
        ahead = sum(mate.status.live for mate in mates[: mates.index(job)])
        return replace(status, message=f"{ahead} ahead of it." if ahead else "")

    def _recorded(self, kind: Kind | None, most: int) -> list[JobStatus]:
        """The newest readable records of a kind."""
        statuses: list[JobStatus] = []
        for path in sorted(paths.jobs_dir().glob("*/job.json"), reverse=True):
            try:
                status = Record(path.parent).read()[0]
            except T2LocalError:
                continue
            if kind is None or status.kind == kind.name:
                statuses.append(status)
            if len(statuses) == most:
                break
        return statuses

    # --- the workers

    def _serve(self, lane: str) -> None:
        """One job of a lane after another; the worker ends with the last one."""
        while job := self._next(lane):
            began = time.monotonic()
            try:
                self._serve_one(job)
            finally:
                job.leave()
                with self._changed:
                    self._at_work.discard(job)
                    self._forget_ended()
                    self._changed.notify_all()
            if job.work.kind.uses_model and time.monotonic() - began >= LONG_S:
                del job
                free_memory()  # what it kept, which nobody asks for any more

    def _forget_ended(self) -> None:
        """Keep what the last ones told; older ones have their record. `_changed` is held."""
        ended = [j for j in self._jobs.values() if not j.status.live and j not in self._at_work]
        for job in ended[: max(0, len(ended) - ENDED_KEPT)]:
            del self._jobs[job.work.id]

    def _serve_one(self, job: Job) -> None:
        try:
            if not job.take_up():
                return  # whoever ended it wrote that down; by now it may be taken up anew
            self._drive(job)
        except Cancelled:
            job.end(INTERRUPTED, message=job.work.stopped(job.status), eta_s=None)
        except T2LocalError as error:
            job.end(FAILED, message=str(error), eta_s=None)
        except Exception as error:
            job.end(FAILED, message=f"{type(error).__name__}: {error}", eta_s=None)
            logging.getLogger(__name__).exception("%s %s failed", job.work.kind.name, job.name)
        job.record()

    def _next(self, lane: str) -> Job | None:
        with self._changed:
            if not self._lanes[lane]:
                del self._lanes[lane]
                return None
            job = self._lanes[lane].popleft()
            self._at_work.add(job)
            return job

    def _drive(self, job: Job) -> None:
        work, record = job.work.run(job), Record.of(job.work.id)
        try:
            while job.goes_on():
                began = time.monotonic()
                try:
                    event = next(work)
                except StopIteration as end:
                    job.end(FINISHED, message=end.value or "", eta_s=None)
                    return
                line = job.work.line(event) if job.work.settings is not None else None
                if line is not None:
                    record.append(line)
                job.take(event, time.monotonic() - began)
                job.record(RECORD_EVERY_S)
        finally:
            work.close()
