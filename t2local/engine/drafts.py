"""Experts still in training, offered to the chat as they were after some step. Never on disk."""

from collections.abc import Collection

from t2local.engine.jobs import BUSY, Jobs
from t2local.experts import Expert


class Drafts:
    """At most one a run: the newest that somebody asked for."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._by_run: dict[str, Expert] = {}

    def take(self, run: str) -> Expert:
        """What a run in progress is now. Raises `T2LocalError` where there is no such `z`."""
        draft = self._by_run[run] = self._jobs.snapshot(run)
        return draft

    def clear(self) -> None:
        """Forget all: another model is loaded."""
        self._by_run = {}

    def drop(self, expert: str) -> None:
        """The finished expert takes its drafts' place."""
        finished = [run for run in self._by_run if self._jobs.status(run).expert == expert]
        for run in finished:
            del self._by_run[run]

    def besides(self, names: Collection[str]) -> list[Expert]:
        """Drafts of runs that go on; an expert of the same name comes first."""
        live = {r: d for r, d in self._by_run.items() if self._jobs.status(r).stage in BUSY}
        self._by_run = live
        return [draft for draft in live.values() if draft.name not in names]
