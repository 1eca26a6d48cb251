"""What the Adapt page and the command `adapt` ask for: searches over a file's rows, kept mixtures.

The page's searches are jobs: they go on when it is closed, and any tab finds them with their
settings and results. The model is held for one forward at a time, so that chats go on beside a
search. Its state is in the user's data: the same request goes on where it was left.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.adapt.cem import LEAST_SHOTS, MOST_SHOTS, CEMConfig
from t2local.adapt.dispatch import FEW_SHOT
from t2local.adapt.few_shot import Found, Generation, draw_shots, search
from t2local.engine.job_record import SEARCH, JobStatus, Record, new_id
from t2local.engine.jobs import Job, Work
from t2local.engine.model_slot import OnModel, check_model
from t2local.errors import T2LocalError
from t2local.experts.library import (
    MixtureFile,
    MixtureStore,
    read_mixture,
    write_mixture,
)
from t2local.models.decode.out_of_memory import Work as Worded
from t2local.models.decode.out_of_memory import out_of_memory_told
from t2local.progress import FINISHED, CancelToken
from t2local.svf import Mixture
from t2local.tasks.files import ExampleFile
from t2local.tasks.rewards import parts_of
from t2local.tasks.rows import Example
from t2local.tasks.uploads import CHOICE, and_bad, keep_file, read_upload, with_choices
from t2local.untrusted import typed

WORDS = Worded("This search", "shorten its answers (`--max-new-tokens`) or give it shorter rows")


@dataclass(frozen=True)
class SearchPlan:
    """What a search is told. `source`: a file of examples; `name`: of the mixture to be."""

    name: str
    source: str
    reward: str
    config: CEMConfig

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SearchPlan":
        """Raises `ValueError`, and `T2LocalError` for a configuration that cannot be."""
        return typed(cls, values)

    def examples(self) -> list[Example]:
        """Raises `T2LocalError` for a file that cannot be read, or too few or many rows."""
        return few_examples(self.source, self.reward)


@dataclass(frozen=True)
class SearchReport:
    """A search as a page shows it. `found`: its mixture, None before the end."""

    status: JobStatus
    plan: SearchPlan
    generations: tuple[Generation, ...]
    found: MixtureFile | None


class SearchWork(Work):
    """One search, from its first generation to its mixture in the job's folder."""

    kind = SEARCH

    def __init__(self, id: str, plan: SearchPlan, searches: "Searches") -> None:
        super().__init__(id, plan.name, plan.config.generations)
        self.plan, self._searches = plan, searches
        self.settings = {"model": searches.model()[0].slug, "plan": plan.as_json()}

    def run(self, job: Job) -> Generator[Generation, None, str]:
        plan = self.plan
        rows = plan.examples()
        found = yield from self._searches.search(rows, plan.reward, plan.config, job.cancel)
        file = self._searches.file_of(found, plan.reward, plan.config)
        write_mixture(file, mixture_path(self.id))
        return f"The best mixture has {100 * found.accuracy:.0f} % of the examples right."

    def figures(self, event: Generation, seconds: float) -> dict[str, Any]:
        left = event.total - event.number
        return {"step": event.number, "steps": event.total, "eta_s": left * seconds or None}

    def line(self, event: Generation) -> dict[str, Any]:
        return asdict(event)

    def stopped(self, status: JobStatus) -> str:
        return f"Stopped after generation {status.step}; Search goes on from there."


@dataclass(frozen=True)
class Searches(OnModel):
    """Searches of the loaded model."""

    def __post_init__(self) -> None:
        self.jobs.register(SEARCH, self._again)

    # --- in the background

    def start(self, plan: SearchPlan) -> str:
        """Begin a search and give its id. Raises `T2LocalError` for examples that cannot serve."""
        plan.examples()  # too few rows are told now, not from the job
        plan = replace(plan, source=str(keep_file(plan.source)))
        return self.jobs.start(self._work(plan, new_id(plan.name)))

    def _work(self, plan: SearchPlan, id: str) -> SearchWork:
        return SearchWork(id, plan, self)

    def _again(self, id: str, settings: Mapping[str, Any]) -> SearchWork:
        """A search to be taken up. Raises `T2LocalError` for one of another model."""
        check_model("search", settings, self.model()[0])
        return self._work(_plan(id, settings), id)

    def report(self, id: str) -> SearchReport:
        """All there is to show of a search. Raises `T2LocalError` for an unknown one."""
        job = self.jobs.find(id)
        if job is not None:
            status, plan, seen = self.jobs.status(id), job.work.plan, tuple(job.events)
        else:
            record = Record.of(id)
            status, settings = record.read()
            plan = _plan(id, settings)
            try:
                seen = tuple(typed(Generation, values) for values in record.events())
            except ValueError as error:
                raise record.unreadable(error) from error
        path = mixture_path(id)
        done = status.stage == FINISHED and path.is_file()
        return SearchReport(status, plan, seen, read_mixture(path) if done else None)

    # --- in the caller's thread

    def search(
        self,
        examples: Sequence[Example],
        reward: str,
        config: CEMConfig,
        cancel: CancelToken | None = None,
    ) -> Generator[Generation, None, Found]:
        """Search a mixture of the skills there are. Raises `T2LocalError`, `Cancelled`."""
        with self.uses.of("A search on the page Adapt"):
            loaded, svf = self.model()
            shelf = self.shelf()
            experts = {name: shelf.usable[name].z for name in shelf.skills}
            shots = draw_shots(examples, config)
            found = search(
                loaded, svf, experts, shots, reward, config, paths.home() / "searches", cancel
            )
            with out_of_memory_told(loaded, self.forget, WORDS):
                return (yield from found)

    def file_of(self, found: Found, reward: str, config: CEMConfig) -> MixtureFile:
        """What a search found as a file, with what it was found for."""
        loaded, _ = self.model()
        task = {
            "reward": reward,
            "shots": found.shots,
            "shots_sha256": found.shots_sha256,
            "shot_prompts": list(found.shot_prompts),
            "accuracy": found.accuracy,
            "log_likelihood": found.log_likelihood,
            "evaluations": found.evaluations,
            "sharing": config.sharing,
            "objective": config.objective,
            "seed": config.seed,
        }
        return MixtureFile(found.mixture, loaded.name, task)

    def keep(self, name: str, file: MixtureFile) -> Path:
        """Keep a mixture under a name for the chat. `T2LocalError` for an impossible name."""
        return self._store().save(name, file)

    def mixture(self, name: str) -> Mixture:
        """A kept mixture, checked against the model and its experts. `T2LocalError`."""
        loaded, _ = self.model()
        file = self._store().load(name)
        file.check(loaded.name, self.shelf().skills)
        return file.mixture

    def kept(self) -> list[str]:
        """The names of kept mixtures; each is a strategy `few-shot:NAME`."""
        return self._store().names()

    def resolved(self, strategy: str, mixture: Mixture) -> Mixture:
        """The mixture that `strategy` answers with: for `few-shot:NAME` the kept one at the
        strength of `mixture` (and with its gains, where it has some), else `mixture` itself.

        Raises `T2LocalError` for an unknown name.
        """
        kind, _, name = strategy.partition(":")
        if kind != FEW_SHOT or not name:
            return mixture
        kept = self.mixture(name)
        gains = kept.gains if mixture.gains.neutral else mixture.gains
        return replace(kept, strength=kept.strength * mixture.strength, gains=gains)

    def _store(self) -> MixtureStore:
        loaded, _ = self.model()
        return MixtureStore(loaded.slug)


def _plan(id: str, settings: Mapping[str, Any]) -> SearchPlan:
    try:
        return SearchPlan.from_json(settings.get("plan"))
    except (ValueError, T2LocalError) as error:
        raise Record.of(id).unreadable(error) from error


def few_examples(path: str, reward: str) -> list[Example]:
    """A file's usable rows, ready for `reward`.

    Raises `T2LocalError` where they are fewer than a search needs, or more than it takes.
    """
    file = read_upload(Path(path))
    check_few(file)
    rows = list(file.examples)
    listed = CHOICE in {name for _, name in parts_of(reward)} if reward else False
    return with_choices(rows) if listed else rows


def check_few(file: ExampleFile) -> None:
    """Raise `T2LocalError` for fewer examples than a search needs, or more than it takes."""
    rows = file.examples
    if not LEAST_SHOTS <= len(rows) <= MOST_SHOTS:
        raise T2LocalError(
            f"There are {len(rows)} usable examples; a search takes {LEAST_SHOTS} to {MOST_SHOTS}: "
            + (
                f"add some{and_bad(file.bad_rows)}."
                if len(rows) < LEAST_SHOTS
                else "keep those that differ most."
            )
        )


def mixture_path(id: str) -> Path:
    """Where a search leaves its mixture."""
    return Record.of(id).folder / "mixture.json"
