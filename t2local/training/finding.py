"""Whether the strategy *similarity* finds a new expert: measured on prompts that no print has seen.

Its own are held-out prompts of its run; others' are prompts of the other tasks, and everyday
messages. Each is read by the base model alone, as pass 1 reads it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from t2local.adapt.dispatch import OTHER, SIMILARITY, Controls, decide
from t2local.adapt.similarity import Discriminant
from t2local.errors import T2LocalError
from t2local.experts.expert import SKILL, Expert
from t2local.experts.prompt_print import FEWEST_PROMPTS, PromptPrint, sampled
from t2local.experts.store import ExpertStore
from t2local.models.decode.embedding import embed
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.tasks.datasets import DECIDING, HELD_OUT, Dataset, everyday_messages
from t2local.tasks.rows import Example
from t2local.training.validation import OtherTask

TRIED = 4  # prompts, to learn how fast they are read
MOST_OWN, MOST_OTHERS = 30, 60  # prompts; a second of the embedded model reads some eight


@dataclass(frozen=True)
class Found:
    """`own` of `of_own` held-out prompts were given to the expert, `taken` of others' too."""

    own: int
    of_own: int
    taken: int
    of_others: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> "Found | None":
        """What an expert's card says under `found`; None where it does not, or garbles it."""
        values = card.get("found")
        if not isinstance(values, Mapping) or set(values) != {
            "own",
            "of_own",
            "taken",
            "of_others",
        }:
            return None
        return cls(**values) if all(type(value) is int for value in values.values()) else None


def found_by_similarity(
    loaded: LoadedModel,
    expert: Expert,
    others: PromptPrint,
    source: Dataset,
    tasks: Sequence[OtherTask],
    around: Callable[[], AbstractContextManager],
) -> Found | None:
    """`expert` beside all printed experts of this model; None where every prompt was trained on.

    `others`: the print of everyday messages. `around()`: puts the base model in force.
    """
    assert expert.prompt_print is not None, expert.name
    if source.leave_one_out:
        return None
    told = Discriminant({**_prints(loaded, expert), OTHER: others.embeddings})
    own = [row.turns for row in sampled(source.held_out, most=MOST_OWN)]
    foreign = _others(tasks, expert.name)
    given = told.probabilities(embed(loaded, [*own, *foreign], around))
    chosen = [_chosen(each, told.labels[:-1]) == expert.name for each in given]
    return Found(sum(chosen[: len(own)]), len(own), sum(chosen[len(own) :]), len(foreign))


def printed_rows(source: Dataset) -> list[Example]:
    """The rows of an expert's prompt print, in its order: what the expert was trained on tells."""
    trained_on = [*source.train, *source.validation]
    return sampled(list({example.group: example for example in trained_on}.values()))


def print_seconds(loaded: LoadedModel, svf: SVFModel, source: Dataset) -> float:
    """How long a new expert's print and the look for it take, from a few prompts.

    0.0 where there will be none.
    """
    printed = [row.turns for row in printed_rows(source)]
    if len(printed) < FEWEST_PROMPTS:
        return 0.0
    read = len(printed)
    if not source.leave_one_out:
        read += min(MOST_OWN, len(source.held_out)) + MOST_OTHERS
    if ExpertStore(loaded.slug).print_of_others(loaded) is None:
        read += len(everyday_messages("train"))
    started = time.perf_counter()
    try:
        embed(loaded, printed[:TRIED], lambda: svf.using({}))
    except T2LocalError:  # a model whose states cannot be read
        return 0.0
    return read * (time.perf_counter() - started) / TRIED


def _prints(loaded: LoadedModel, expert: Expert) -> dict[str, Any]:
    """The embeddings of all printed skills, with `expert` among them."""
    files = ExpertStore(loaded.slug).files()
    experts = {f.expert.name: f.expert for f in files if f.expert and f.expert.kind == SKILL}
    experts[expert.name] = expert
    prints = {name: e.prompt_print for name, e in experts.items()}
    return {name: p.embeddings for name, p in prints.items() if p and p.fits(loaded)}


def _others(tasks: Sequence[OtherTask], own: str) -> list[Sequence[Mapping[str, Any]]]:
    """Prompts that are not for the expert: as many of each task, and of everyday messages."""
    asked = [[row.turns for row in task.rows] for task in tasks if task.name not in (own, DECIDING)]
    everyday = [({"role": "user", "content": text},) for text in everyday_messages(HELD_OUT)]
    sources = [*asked, everyday]
    return [chat for rows in sources for chat in sampled(rows, most=MOST_OTHERS // len(sources))]


def _chosen(probabilities: Mapping[str, float], skills: Sequence[str]) -> str:
    """Whose message it is by the page's own rule, "" for the base model's."""
    decision = decide(Controls(SIMILARITY), probabilities, skills)
    return decision.chosen if decision.mixture.alpha else ""
