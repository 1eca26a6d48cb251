"""Experts still in training, offered to the chat as they were after some step. Never on disk."""

import threading
from collections.abc import Callable, Collection

from t2local.engine.jobs import BUSY, Jobs
from t2local.experts import Expert


class Drafts:
    """At most one a run: the newest that somebody asked for. From any thread."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()  # around `_by_run`; runs are asked without it
        self._by_run: dict[str, Expert] = {}

    def take(self, run: str) -> Expert:
        """What a run in progress is now. Raises `T2LocalError` where there is no such `z`."""
        draft = self._jobs.snapshot(run)
        with self._lock:
            self._by_run[run] = draft
        return draft

    def clear(self) -> None:
        """Forget all: another model is loaded."""
        with self._lock:
            self._by_run.clear()

    def drop(self, expert: str) -> None:
        """The finished expert takes its drafts' place."""
        self._keep(lambda run: self._jobs.status(run).expert != expert)

    def besides(self, names: Collection[str]) -> list[Expert]:
        """Drafts of runs that go on; an expert of the same name comes first."""
        self._keep(lambda run: self._jobs.status(run).stage in BUSY)
        with self._lock:
            return [draft for draft in self._by_run.values() if draft.name not in names]

    def _keep(self, wanted: Callable[[str], bool]) -> None:
        with self._lock:
            runs = list(self._by_run)
        over = [run for run in runs if not wanted(run)]
        with self._lock:
            for run in over:
                self._by_run.pop(run, None)
