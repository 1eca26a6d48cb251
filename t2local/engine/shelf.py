"""The experts of the loaded model: which can be used, and keeping them.

`Shelf` is a frozen value made from the expert files and the attached model. What the Experts page
changes is on disk first (`experts.library`) and then offered to the answers that begin after it.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from t2local.adapt.choosing import Labels
from t2local.adapt.dispatch import OTHER, Available
from t2local.adapt.similarity import Discriminant
from t2local.engine.requests import ExpertInfo
from t2local.errors import T2LocalError
from t2local.experts import Deleted, Expert, Library
from t2local.experts.comparison import Comparison, compare
from t2local.experts.expert import CLASSIFIER, SKILL, free_name, is_taken
from t2local.experts.prompt_print import PromptPrint
from t2local.experts.store import ExpertStore, Stored, check_fits, read_expert
from t2local.experts.transfer import taken_over
from t2local.experts.versions import Versions
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.training.recipe import prompt_print
from t2local.training.runner import rows_behind

MOST_EARLIER = 3  # versions of an expert that can be compared with it
DRAFT = "A run in progress, as it was after this step; gone when the run has finished."


@dataclass(frozen=True)
class Entry:
    """`warning`: why the expert is refused (`usable` False) or used with care; else ""."""

    stored: Stored
    usable: bool
    warning: str


@dataclass(frozen=True)
class Earlier:
    """A version that an expert was before. `alias`: its name in mixtures, no expert has it."""

    expert: Expert
    alias: str
    label: str


@dataclass(frozen=True)
class Shelf:
    """`usable`: name -> expert. `others`: the print of everyday messages, None: not taken yet.

    `earlier`: what own experts were before, to be compared with them and nothing else.
    """

    entries: tuple[Entry, ...] = ()
    usable: Mapping[str, Expert] = field(default_factory=dict)
    others: PromptPrint | None = None
    earlier: tuple[Earlier, ...] = ()

    @classmethod
    def read(cls, loaded: LoadedModel, svf: SVFModel) -> "Shelf":
        """Read all expert files for this model and check each against it."""
        store = ExpertStore(loaded.slug)
        files = [*store.files(), *taken_over(loaded, svf)]
        entries = tuple(_entry(f, loaded, svf) for f in files)
        experts = {e.stored.expert.name: e.stored.expert for e in entries if e.usable}
        others = store.print_of_others(loaded)
        usable = {n: _with_fitting_print(e, loaded) for n, e in experts.items()}
        own = [e.stored.expert.name for e in entries if e.usable and not e.stored.shipped]
        return cls(entries, usable, others, _earlier(store, own, loaded, svf))

    def with_drafts(self, drafts: Sequence[Expert]) -> "Shelf":
        """Experts still in training beside those on disk; they have no file."""
        entries = tuple(
            Entry(Stored(Path(draft.name), draft, False), True, DRAFT) for draft in drafts
        )
        named = {draft.name: draft for draft in drafts}
        return replace(self, entries=(*self.entries, *entries), usable={**self.usable, **named})

    @property
    def skills(self) -> tuple[str, ...]:
        """Experts that pass 1 and a search may choose, by name."""
        return tuple(name for name in self.mixable if name not in self._drafts)

    @property
    def mixable(self) -> tuple[str, ...]:
        """Experts that a person may mix into an answer: skills, and drafts of them."""
        return tuple(name for name, e in self.usable.items() if e.kind == SKILL)

    @property
    def _drafts(self) -> set[str]:
        return {e.stored.expert.name for e in self.entries if e.warning == DRAFT}

    @property
    def warnings(self) -> dict[str, str]:
        """Usable experts that need a word of care (transferred), by name."""
        usable = (e for e in self.entries if e.usable and e.warning)
        return {e.stored.expert.name: e.warning for e in usable}

    @property
    def classifier(self) -> str | None:
        """The expert that decides in pass 1, if there is one."""
        names = (name for name, e in self.usable.items() if e.kind == CLASSIFIER)
        return next(names, None)

    @property
    def printed(self) -> tuple[str, ...]:
        """Skills that have a prompt print."""
        return tuple(name for name in self.skills if self.usable[name].prompt_print)

    @cached_property
    def prints(self) -> Discriminant | None:
        """Tells the printed skills and everyday messages apart; None where that cannot be yet."""
        if self.others is None or not self.printed:
            return None
        rows = {name: self.usable[name].prompt_print.embeddings for name in self.printed}
        return Discriminant({**rows, OTHER: self.others.embeddings})

    @cached_property
    def overlaps(self) -> dict[str, str]:
        """A sentence for each expert whose ground another one covers too."""
        found: dict[str, str] = {}
        for overlap in self.prints.overlaps() if self.prints is not None else ():
            for name, other in ((overlap.expert, overlap.other), (overlap.other, overlap.expert)):
                found.setdefault(
                    name,
                    f"{overlap.share:.0%} of the prompts that '{overlap.expert}' learnt from are "
                    f"like those of '{overlap.other}': by similarity '{name}' shares its messages "
                    f"with '{other}'.",
                )
        return found

    @property
    def choosers(self) -> dict[str, Labels]:
        """Skills that were trained to choose among labels, by name."""
        return {
            name: Labels(expert.labels, _temperature(expert))
            for name, expert in self.usable.items()
            if expert.kind == SKILL and expert.labels
        }

    @property
    def available(self) -> Available:
        """What strategies choose among, kept mixtures aside."""
        shipped = {e.stored.expert.name for e in self.entries if e.usable and e.stored.shipped}
        own = self.prints is not None and not shipped.issuperset(self.printed)
        known = {"prints": self.prints, "own_prints": own}
        if self.classifier is None:
            return Available(self.skills, self.mixable, **known)
        labels = self.usable[self.classifier].labels
        return Available(self.skills, self.mixable, self.classifier, labels, **known)


def _temperature(expert: Expert) -> float:
    """At which its probabilities are those of being right; else of its policy, else 1."""
    config = expert.training.get("config")
    found = expert.training.get("label_temperature")
    if found is None:
        found = config.get("temperature") if isinstance(config, Mapping) else None
    return float(found) if isinstance(found, int | float) and 0.01 <= found <= 100 else 1.0


def _with_fitting_print(expert: Expert, loaded: LoadedModel) -> Expert:
    """Without one that was taken of another model, or by an older t2local at another layer."""
    taken = expert.prompt_print
    return expert if taken is None or taken.fits(loaded) else replace(expert, prompt_print=None)


def _entry(stored: Stored, loaded: LoadedModel, svf: SVFModel) -> Entry:
    if stored.expert is None:
        return Entry(stored, False, stored.problem)
    try:
        return Entry(stored, True, check_fits(stored.expert, svf, loaded.name, loaded.quantization))
    except T2LocalError as error:
        return Entry(stored, False, str(error))


def _earlier(
    store: ExpertStore, names: Sequence[str], loaded: LoadedModel, svf: SVFModel
) -> tuple[Earlier, ...]:
    """The newest versions of some experts, those left out that cannot be read or do not fit."""
    found, versions = [], Versions(store)
    for name in names:
        for version in versions.of(name)[:MOST_EARLIER]:
            try:
                expert = read_expert(version.path)
                check_fits(expert, svf, loaded.name, loaded.quantization)
            except T2LocalError:
                continue
            until = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.replaced))
            alias = f"{name}.{round(version.replaced * 1000)}"
            found.append(Earlier(replace(expert, name=name), alias, f"{name} until {until}"))
    return tuple(found)


def expert_info(entry: Entry, overlap: str = "", prompts: int = 0, versions: int = 0) -> ExpertInfo:
    """What the page shows of an expert. `overlap`: what `Shelf.overlaps` says of it.

    `prompts`: by how many *similarity* finds it. `versions`: earlier ones that are kept.
    """
    expert, path = entry.stored.expert, entry.stored.path
    if expert is None:
        return ExpertInfo(
            path.stem, shipped=entry.stored.shipped, warning=entry.warning, usable=False
        )
    held_out, draft = expert.held_out, entry.warning == DRAFT
    return ExpertInfo(
        name=expert.name,
        description=expert.description,
        kind=expert.kind,
        held_out=held_out.as_dict() if held_out else None,
        shipped=entry.stored.shipped,
        size_bytes=0 if draft else path.stat().st_size,
        warning=entry.warning,
        usable=entry.usable,
        draft=draft,
        forgetting=tuple(measured.as_dict() for measured in expert.forgetting),
        prompts=prompts,
        overlap=overlap,
        versions=versions,
        prefers=bool(expert.training.get("prefers")),
    )


# --- What the Experts page asks for: rename, copy, delete, bring back, take in, share, compare.
#
# Every change is on disk first (`experts.library`) and then offered to the answers that begin
# after it; an answer in progress goes on with the experts it began with.


@dataclass
class Keeping:
    """The experts of the loaded model, one change at a time.

    `changed` is called after each change; `in_training`: names that a run will need. All methods
    raise `T2LocalError` as those of `experts.Library` do, and before the model is loaded.
    """

    model: Callable[[], tuple[LoadedModel, SVFModel]]
    changed: Callable[[], None]
    in_training: Callable[[], Collection[str]]
    _one_at_a_time: threading.RLock = field(default_factory=threading.RLock)

    def rename(self, name: str, new: str) -> str:
        with self._one_at_a_time:
            renamed = self._library().rename(name, new.strip(), self.in_training())
            self.changed()
        return renamed.name

    def duplicate(self, name: str) -> str:
        """The name of the copy."""
        with self._one_at_a_time:
            copy = self._library().duplicate(name, reserved=self.in_training())
            self.changed()
        return copy.name

    def note_prompts(self, name: str) -> int:
        """Take the prompt print of an expert from its run's rows; how many prompts it has."""
        loaded, svf = self.model()
        with self._one_at_a_time:
            library = Library(loaded.slug)
            library.check_own(name, "given a print")
            expert = library.load(name)
            taken = expert.prompt_print
            if taken is None or not taken.fits(loaded):
                taken = prompt_print(loaded, svf, rows_behind(expert), expert.kind)
            if taken is None:
                raise T2LocalError(f"'{name}' has too few prompts to be found by them.")
            library.know_others(loaded, lambda: svf.using({}))
            library.give_print(name, taken)
            self.changed()
        return len(taken)

    def keep_forgetting(self, measured: Expert, card: Sequence[Mapping[str, Any]]) -> None:
        """Write what an expert was measured to do to others' tasks on its card."""
        with self._one_at_a_time:
            self._library().give_forgetting(measured, card)
            self.changed()

    def back(self, name: str) -> None:
        """The version before the present one takes its place, and the other way round."""
        with self._one_at_a_time:
            self._library().back(name)
            self.changed()

    def delete(self, name: str) -> None:
        with self._one_at_a_time:
            self._library().delete(name)
            self.changed()

    def restore(self, name: str) -> str:
        """The name it has now: another one where its own was taken meanwhile."""
        with self._one_at_a_time:
            library, training = self._library(), self.in_training()
            taken = is_taken(name, {*library.own_names(), *training})
            new = free_name(name, {*library.names(), *training}) if taken else None
            back = library.restore(name, new, training)
            self.changed()
        return back

    def deleted(self) -> list[Deleted]:
        """What can be brought back, the last deleted first."""
        return self._library().deleted()

    def import_file(self, path: str | Path, name: str | None = None) -> tuple[str, str]:
        """Take in a shared file that fits the loaded model: the expert's name, and a warning."""
        loaded, svf = self.model()

        def fits(expert: Expert) -> str:
            return check_fits(expert, svf, loaded.name, loaded.quantization)

        with self._one_at_a_time:
            library = self._library()
            expert, warning = library.import_file(Path(path), name, fits, self.in_training())
            if expert.prompt_print is not None and expert.prompt_print.fits(loaded):
                library.know_others(loaded, lambda: svf.using({}))
            self.changed()
        return expert.name, warning

    def share(self, name: str, path: str | Path) -> Path:
        """Write one file to give away; `path`: a file or an existing folder."""
        return self._library().share(name, Path(path))

    def compare(self, names: Sequence[str]) -> Comparison:
        library = self._library()
        return compare([library.load(name) for name in names])

    def _library(self) -> Library:
        loaded, _ = self.model()
        return Library(loaded.slug)
