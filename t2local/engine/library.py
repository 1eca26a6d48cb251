"""What the Experts page asks for: rename, copy, delete, bring back, take in, share, compare.

Every change is on disk first (`experts.library`) and then offered to the answers that begin after
it; an answer in progress goes on with the experts it began with. Knows nothing of gradio.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from t2local.experts import Deleted, Expert, Library
from t2local.experts.comparison import Comparison, compare
from t2local.experts.expert import free_name, is_taken
from t2local.experts.store import check_fits
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel


@dataclass
class LibraryDesk:
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
