"""The experts of the loaded model: which can be used, which cannot and why.

A frozen value made from the expert files and the attached model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from t2local.adapt.dispatch import Available
from t2local.engine.requests import ExpertInfo
from t2local.errors import T2LocalError
from t2local.experts import Expert
from t2local.experts.expert import CLASSIFIER, SKILL
from t2local.experts.store import ExpertStore, Stored, check_fits
from t2local.experts.transfer import taken_over
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel

DRAFT = "A run in progress, as it was after this step; gone when the run has finished."


@dataclass(frozen=True)
class Entry:
    """`warning`: why the expert is refused (`usable` False) or used with care; else ""."""

    stored: Stored
    usable: bool
    warning: str


@dataclass(frozen=True)
class Shelf:
    """`usable`: name -> expert."""

    entries: tuple[Entry, ...] = ()
    usable: Mapping[str, Expert] = field(default_factory=dict)

    @classmethod
    def read(cls, loaded: LoadedModel, svf: SVFModel) -> "Shelf":
        """Read all expert files for this model and check each against it."""
        files = [*ExpertStore(loaded.slug).files(), *taken_over(loaded, svf)]
        entries = tuple(_entry(f, loaded, svf) for f in files)
        experts = [e.stored.expert for e in entries if e.usable]
        return cls(entries, {expert.name: expert for expert in experts})

    def with_drafts(self, drafts: Sequence[Expert]) -> "Shelf":
        """Experts still in training beside those on disk; they have no file."""
        entries = tuple(
            Entry(Stored(Path(draft.name), draft, False), True, DRAFT) for draft in drafts
        )
        named = {draft.name: draft for draft in drafts}
        return Shelf((*self.entries, *entries), {**self.usable, **named})

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
    def available(self) -> Available:
        """What strategies choose among, kept mixtures aside."""
        if self.classifier is None:
            return Available(self.skills, self.mixable)
        labels = self.usable[self.classifier].labels
        return Available(self.skills, self.mixable, self.classifier, labels)


def _entry(stored: Stored, loaded: LoadedModel, svf: SVFModel) -> Entry:
    if stored.expert is None:
        return Entry(stored, False, stored.problem)
    try:
        return Entry(stored, True, check_fits(stored.expert, svf, loaded.name, loaded.quantization))
    except T2LocalError as error:
        return Entry(stored, False, str(error))


def expert_info(entry: Entry) -> ExpertInfo:
    """What the page shows of an expert."""
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
    )
