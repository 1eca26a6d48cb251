"""What is kept of a job: its kind, its status, and its record on disk.

A record is a folder below the user's `jobs`: `job.json` (status and settings), `events.jsonl` (one
event a line), and whatever files came of it. A record that says "running" was cut off, unless
another process holds its lock.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.errors import T2LocalError
from t2local.locks import Lock
from t2local.progress import BUSY, INTERRUPTED, NEXT
from t2local.untrusted import read_document, read_lines, typed

ELSEWHERE = "At work in another t2local that uses the same folder."
CUT_OFF = "Cut off when the program ended; resume it to go on."


@dataclass(frozen=True)
class Kind:
    """A kind of long work. `label`: what a person calls it; `tab`: where it is started and shown.

    `uses_model`: the model is not taken away while it is at work (an answer ends when it goes).
    """

    name: str
    label: str
    tab: str
    uses_model: bool = True
    resumes: bool = True  # what was stopped or cut off can be taken up again


TRAINING = Kind("training", "Training", "Train")
SEARCH = Kind("search", "Search", "Adapt")
EVALUATION = Kind("evaluation", "Evaluation", "Evaluate")
DOWNLOAD = Kind("download", "Download", "Models", uses_model=False)
LOADING = Kind("loading", "Loading", "Models", uses_model=False, resumes=False)
LABELLING = Kind("labelling", "Labelling", "Label")
FORGETTING = Kind("forgetting", "What is forgotten", "Experts")
BLIND_PAIR = Kind("blind-pair", "Blind pair", "Arena", resumes=False)
ANSWER = Kind("answer", "Answer", "Chat", uses_model=False, resumes=False)
KINDS = {
    kind.name: kind
    for kind in (
        TRAINING,
        SEARCH,
        EVALUATION,
        LABELLING,
        FORGETTING,
        DOWNLOAD,
        LOADING,
        BLIND_PAIR,
        ANSWER,
    )
}


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands. `name`: what it makes or works on; `message`: a sentence for a person.

    `step` of `steps` (0 while unknown) in the kind's own unit: steps, generations, answers, bytes.
    `eta_s`: seconds until it is done, None while unknown. `started_s`: since 1970.
    """

    id: str
    kind: str
    name: str
    stage: str
    step: int = 0
    steps: int = 0
    message: str = ""
    eta_s: float | None = None
    started_s: float = 0.0

    @property
    def live(self) -> bool:
        return self.stage in BUSY

    @property
    def fraction(self) -> float:
        return min(1.0, self.step / self.steps) if self.steps else 0.0


@dataclass(frozen=True)
class _File:
    """`job.json`."""

    status: JobStatus
    settings: Mapping[str, Any]


class Record:
    """What is on disk of one job: `job.json`, one event a line in `events.jsonl`, results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, id: str) -> "Record":
        """Raises `T2LocalError` for what cannot be an id, such as a path out of the folder."""
        if not isinstance(id, str) or not id or paths.slug(id) != id:
            raise T2LocalError(f"There is no job '{id}'; choose one from the list.")
        return cls(paths.jobs_dir() / id)

    @property
    def lock(self) -> Lock:
        """Held by whoever has the job in its queue or at work."""
        return Lock(self.folder / ".lock")

    def begin(self, status: JobStatus, settings: Mapping[str, Any]) -> None:
        """Written before the first step; what an earlier try left is dropped."""
        self.write(status, settings)
        self._events.unlink(missing_ok=True)

    def write(self, status: JobStatus, settings: Mapping[str, Any]) -> None:
        with paths.atomic_write(self.folder / "job.json") as temporary:
            values = {"status": asdict(status), "settings": dict(settings)}
            temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")

    def append(self, event: Mapping[str, Any]) -> None:
        with paths.saving(self._events), paths.appending(self._events) as file:
            file.write((json.dumps(event) + "\n").encode())

    def read(self) -> tuple[JobStatus, dict[str, Any]]:
        """The status and the settings. Raises `T2LocalError` when they are damaged or missing."""
        try:
            file = typed(_File, read_document(self.folder / "job.json"))
            status, settings = file.status, dict(file.settings)
            if status.kind not in KINDS or status.stage not in NEXT:
                raise ValueError("it has no kind or stage that is known")
            if status.id != self.folder.name:
                raise ValueError("it is another job's")
        except (OSError, ValueError) as error:
            raise T2LocalError(
                f"The record of job '{self.folder.name}' cannot be read ({error}); start it again."
            ) from error
        if status.live:
            message = ELSEWHERE if self.lock.taken else CUT_OFF
            status = replace(status, stage=INTERRUPTED, message=message, eta_s=None)
        return status, settings

    def unreadable(self, error: Exception) -> T2LocalError:
        """What to raise where a file of the record says something else than was written."""
        return T2LocalError(
            f"The record of job '{self.folder.name}' cannot be read ({error}); start it again."
        )

    def events(self) -> Iterator[Any]:
        """The events so far; a line cut off by a crash is passed over.

        Raises `T2LocalError` where their file is none.
        """
        try:
            yield from read_lines(self._events)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise self.unreadable(error) from error

    @property
    def _events(self) -> Path:
        return self.folder / "events.jsonl"


def new_id(name: str) -> str:
    """An id that sorts by time: `20260101-120000-name`, with a number where it is taken.

    Its folder is made, so that no other process takes it too. Raises `T2LocalError`.
    """
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{paths.slug(name)[:60]}"
    with paths.saving(paths.jobs_dir() / stem):
        return paths.fresh_folder(paths.jobs_dir(), stem).name
