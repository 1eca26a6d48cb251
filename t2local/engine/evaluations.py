"""What the Evaluate page and the command `evaluate` ask for: strategies by name on tasks.

Runs in its caller's thread and holds the model for one forward at a time, so that chats go on
beside it. Knows nothing of gradio.
"""

import difflib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

from t2local.adapt.answer_stream import BASE, FEW_SHOT
from t2local.adapt.dispatch import STRATEGIES, asking_strategies
from t2local.engine.engine import Engine
from t2local.engine.model_slot import Uses
from t2local.engine.shelf import Shelf
from t2local.errors import T2LocalError
from t2local.evaluation.benchmark_tasks import question_set
from t2local.evaluation.measure import Event, evaluate
from t2local.evaluation.questions import QuestionSet
from t2local.evaluation.tally import Evaluation
from t2local.evaluation.variants import HARD, ORACLE, Held, Subject, Variant, asking, base, mixed
from t2local.experts.mixture_file import MixtureFile, MixtureStore, read_mixture
from t2local.models.decode.out_of_memory import Work, out_of_memory_told
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import Mixture, SVFModel

MEASUREMENT = Work(
    "This measurement", "shorten the answers (`--max-new-tokens`) or measure shorter questions"
)
LORA = "lora"


@dataclass(frozen=True)
class EvaluationPlan:
    """`tasks`: names or files. `strategies`: as `EvaluatingDesk.names`, `few-shot:FILE`,
    `lora:FOLDER`. `limit`: questions of each task, drawn by `seed`; None is all of them.

    `written`: choices are answered in words. `reward`: how a file's answers are scored.
    """

    tasks: tuple[str, ...]
    strategies: tuple[str, ...]
    limit: int | None = None
    seed: int = 0
    written: bool = False
    reward: str = ""
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        for what, given in (("task", self.tasks), ("strategy", self.strategies)):
            if not any(name.strip() for name in given):
                raise T2LocalError(f"No {what} was given; choose one or more.")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise T2LocalError(f"{self.max_new_tokens} new tokens cannot be; choose 1 or more.")


@dataclass(frozen=True)
class EvaluatingDesk:
    """`model`, `shelf`: of this moment; an error where the model is not ready."""

    model: Callable[[], tuple[LoadedModel, SVFModel]]
    shelf: Callable[[], Shelf]
    uses: Uses = field(default_factory=Uses)
    forget: Callable[[], None] = lambda: None  # gives back what chats keep, when memory runs out

    @classmethod
    def of(cls, engine: Engine) -> "EvaluatingDesk":
        """The desk of an engine's model, which may still be loading."""
        adapting = engine.adapting
        return cls(adapting.model, adapting.shelf, engine.uses, adapting.forget)

    def names(self) -> list[str]:
        """The strategies that can be named here, files and folders aside."""
        subject = self._subject()
        if not subject.skills:
            return [BASE]
        available = replace(subject.available, kept=self._store().names())
        asking = [name for s in asking_strategies() for name in s.names(available)]
        asked = [way for name in asking for way in (name, f"{name}:{HARD}")]
        kept = STRATEGIES[FEW_SHOT].names(available)
        return [BASE, *subject.skills, *asked, *kept, ORACLE]

    def run(
        self, plan: EvaluationPlan, cancel: CancelToken | None = None
    ) -> Generator[Event, None, Evaluation]:
        """All variants on all tasks; see `evaluation.run`. Raises `T2LocalError`, `Cancelled`."""
        with self.uses.of("A measurement on the page Evaluate"):
            loaded, _ = self.model()
            with out_of_memory_told(loaded, self.forget, MEASUREMENT):
                return (yield from self._run(plan, cancel))

    def _run(
        self, plan: EvaluationPlan, cancel: CancelToken | None
    ) -> Generator[Event, None, Evaluation]:
        subject = self._subject()
        names = list(dict.fromkeys(name.strip() for name in plan.strategies if name.strip()))
        oracle = ORACLE in names
        names = [name for name in names if name != ORACLE]
        if oracle and not set(names) & {*subject.skills}:
            names = list(dict.fromkeys([BASE, *names, *subject.skills]))
        variants = [self._variant(subject, name) for name in names]
        tasks = tuple(dict.fromkeys(name.strip() for name in plan.tasks if name.strip()))
        sets = [self._questions(name, plan) for name in tasks]
        return (yield from evaluate(subject, sets, variants, oracle, plan.max_new_tokens, cancel))

    def _questions(self, name: str, plan: EvaluationPlan) -> QuestionSet:
        return question_set(name, plan.limit, plan.seed, plan.written, plan.reward)

    def _variant(self, subject: Subject, name: str) -> Variant:
        """Raises `T2LocalError` for what is no strategy, naming the nearest."""
        kind, _, rest = name.partition(":")
        if name == BASE:
            return base(subject)
        if name in subject.skills:
            return mixed(subject, name, Mixture({name: 1.0}))
        if kind in STRATEGIES and STRATEGIES[kind].asks and rest in ("", HARD):
            return asking(subject, name)
        if kind == FEW_SHOT and rest:
            file = self._mixture(subject, rest)
            shots = tuple(map(str, file.task.get("shot_prompts", ())))
            return mixed(subject, name, file.mixture, shots)
        if kind == LORA and rest:
            return self._lora(subject, name, Path(rest).expanduser())
        known = [*self.names(), f"{FEW_SHOT}:mixture.json", f"{LORA}:FOLDER"]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose among {', '.join(known)}."
        raise T2LocalError(f"There is no strategy and no expert '{name}'; {hint}")

    def _mixture(self, subject: Subject, name: str) -> MixtureFile:
        """A file's, or the one kept under this name."""
        path = Path(name).expanduser()
        file = read_mixture(path) if path.suffix == ".json" else self._store().load(name)
        file.check(subject.loaded.name, subject.skills)
        return file

    def _lora(self, subject: Subject, name: str, folder: Path) -> Variant:
        from t2local.training.lora import read_adapter

        adapter = read_adapter(subject.loaded, subject.svf, folder)
        return Held(name, [LORA, adapter.sha256], adapter.numbers, adapter.holding)

    def _subject(self) -> Subject:
        loaded, svf = self.model()
        return Subject(loaded, svf, self.shelf().usable)

    def _store(self) -> MixtureStore:
        loaded, _ = self.model()
        return MixtureStore(loaded.slug)
