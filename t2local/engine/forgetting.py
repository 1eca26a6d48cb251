"""What one of the user's experts does to the tasks of others, measured after its training.

A run measures it at its end unless it was told not to (`Plan.forgetting`); here it is done at any
time, in the background, and written on the expert's card.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from t2local.engine.job_record import FORGETTING, new_id
from t2local.engine.jobs import Job, Work
from t2local.engine.model_slot import OnModel, check_model
from t2local.engine.shelf import Keeping
from t2local.errors import T2LocalError
from t2local.experts import Expert, Library
from t2local.models.decode.out_of_memory import Work as Worded
from t2local.models.decode.out_of_memory import out_of_memory_told
from t2local.progress import CancelToken, Progress
from t2local.training.runner import measured_forgetting
from t2local.training.validation import Forgetting, as_card, in_words

WORDS = Worded("This measurement", "close other programs")


class ForgottenWork(Work):
    """One expert, from the first task of others to its card."""

    kind = FORGETTING
    keeps_events = False

    def __init__(self, id: str, name: str, forgotten: "Forgotten") -> None:
        super().__init__(id, name)
        self._forgotten = forgotten
        self.settings = {"model": forgotten.model()[0].slug, "expert": name}

    def run(self, job: Job) -> Generator[Progress, None, str]:
        measured = yield from self._forgotten.measure(self.name, job.cancel)
        return "; ".join(map(in_words, measured)) or "There are no other tasks yet."


@dataclass(frozen=True)
class Forgotten(OnModel):
    """Measures the experts of the loaded model."""

    library: Keeping

    def __post_init__(self) -> None:
        self.jobs.register(FORGETTING, self._again)

    def start(self, name: str) -> str:
        """Begin in the background and give the job's id. Raises `T2LocalError`."""
        self._own(name)
        if any(s.kind == FORGETTING.name and s.name == name for s in self.jobs.live()):
            raise T2LocalError(f"'{name}' is being measured already; the tab Jobs shows how far.")
        return self.jobs.start(ForgottenWork(new_id(name), name, self))

    def _again(self, id: str, settings: Mapping[str, Any]) -> ForgottenWork:
        check_model("measurement", settings, self.model()[0])
        return ForgottenWork(id, str(settings.get("expert", "")), self)

    def measure(
        self, name: str, cancel: CancelToken | None = None
    ) -> Generator[Progress, None, tuple[Forgetting, ...]]:
        """Measure and keep it on the card. Raises `T2LocalError`, `Cancelled`."""
        with self.uses.of("A measurement of what is forgotten"):
            expert, (loaded, svf) = self._own(name), self.model()
            with out_of_memory_told(loaded, self.forget, WORDS):
                found = yield from measured_forgetting(loaded, svf, expert, cancel)
            if cancel is not None:
                cancel.raise_if_cancelled()
            self.library.keep_forgetting(expert, as_card(found))
        return found

    def _own(self, name: str) -> Expert:
        """Raises `T2LocalError` for a shipped expert, and for one that is not there."""
        library = Library(self.model()[0].slug)
        library.check_own(name, "measured")
        return library.load(name)
