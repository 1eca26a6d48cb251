"""Experts still in training, offered to the chat as they were after some step. Never on disk.

Also those that a run has made and that wait to be adopted.
"""

import threading
from collections.abc import Callable, Collection

from t2local import paths
from t2local.engine.training import Training
from t2local.experts import Expert
from t2local.progress import BUSY
from t2local.training.runs import Run


class Drafts:
    """At most one a run: the newest that somebody asked for. From any thread."""

    def __init__(self, training: Training) -> None:
        self._training, self._jobs = training, training.jobs
        self._lock = threading.Lock()  # around `_by_run`; runs are asked without it
        self._by_run: dict[str, Expert] = {}

    def take(self, run: str) -> Expert:
        """What a run in progress is now. Raises `T2LocalError` where there is no such `z`."""
        draft = self._training.snapshot(run)
        with self._lock:
            self._by_run[run] = draft
        return draft

    def clear(self) -> None:
        """Forget all: another model is loaded."""
        with self._lock:
            self._by_run.clear()

    def drop(self, expert: str) -> None:
        """The finished expert takes its drafts' place."""
        self._keep(lambda run: self._jobs.status(run).name != expert)

    def besides(self, names: Collection[str]) -> list[Expert]:
        """Drafts of runs that go on; an expert of the same name comes first."""
        self._keep(self._waits)
        with self._lock:
            return [draft for draft in self._by_run.values() if draft.name not in names]

    def _waits(self, run: str) -> bool:
        """Whether a run goes on, or what it made waits to be adopted."""
        offered = Run(paths.runs_dir() / run).offered
        return self._jobs.status(run).stage in BUSY or offered.is_file()

    def _keep(self, wanted: Callable[[str], bool]) -> None:
        with self._lock:
            runs = list(self._by_run)
        over = [run for run in runs if not wanted(run)]
        with self._lock:
            for run in over:
                self._by_run.pop(run, None)
