"""Keeping experts: rename, duplicate, delete and bring back, share as one file, take in a file.

Also a mixture as one expert, `z' = 1 + Σ α_k (z_k − 1)`, for programs that know no mixtures.
"""

import functools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import Expert, check_free, free_name, stamped
from t2local.experts.mixture_file import read_mixture
from t2local.experts.store import ExpertStore, Stored, read_expert, write_expert
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, compose

SUFFIX = ".safetensors"
TRASH_KEPT = 30  # the newest deleted experts; older ones are gone for good


def _alone(change: Callable[..., Any]) -> Callable[..., Any]:
    """A change during which nobody else changes an expert, in this process or another."""

    @functools.wraps(change)
    def alone(library: "Library", *args: Any, **kwargs: Any) -> Any:
        with library.changing():
            return change(library, *args, **kwargs)

    return alone


@dataclass(frozen=True)
class Deleted:
    """An expert in the trash. `when`: seconds since 1970."""

    name: str
    path: Path
    when: float


class Library(ExpertStore):
    """The experts of one base model, and what may be done with them.

    Each method raises `T2LocalError` for an unknown or impossible name, one that is taken, a
    shipped expert that would change, or a disk that cannot be written.
    """

    def __init__(self, model_slug: str) -> None:
        super().__init__(model_slug)
        self.model_slug = model_slug
        self.trash_folder = self.own_folder / ".trash"

    @_alone
    def add(self, expert: Expert) -> Path:
        """Save a new expert; another of its name is not replaced."""
        check_free(expert.name, self.names())
        return self.save(expert)

    @_alone
    def rename(self, name: str, new: str, reserved: Collection[str] = ()) -> Expert:
        """`reserved`: further names that are taken, such as those in training."""
        stored = self._own(name, "renamed")
        if new == name:
            return self._readable(stored)
        others = {other for other in self.names() if other not in (name, stored.path.stem)}
        check_free(new, {*others, *reserved})
        renamed = replace(self._readable(stored), name=new)
        target = self.save(renamed)
        if not target.samefile(stored.path):  # `Math` for `math` is one file on some disks
            self._gone(stored.path)
        return renamed

    @_alone
    def duplicate(
        self, name: str, new: str | None = None, reserved: Collection[str] = ()
    ) -> Expert:
        """A copy among the user's own experts, `name-copy` unless `new` is given."""
        expert, taken = self._readable(self.find(name)), {*self.names(), *reserved}
        new = new or free_name(f"{name}-copy", taken)
        check_free(new, taken)
        copy = replace(expert, name=new)
        self.save(copy)
        return copy

    @_alone
    def delete(self, name: str) -> Deleted:
        """Into the trash, from which `restore` brings it back; works for a damaged file too."""
        path = self._own(name, "deleted").path
        target = self.trash_folder / f"{paths.slug(name)}.{time.time_ns()}{SUFFIX}"
        with paths.saving(target):
            paths.make_folder(target.parent)
            paths.move(path, target)
        for old in self.deleted()[TRASH_KEPT:]:
            self._gone(old.path)
        return _deleted(target)

    def deleted(self) -> list[Deleted]:
        """What the trash holds, the newest first."""
        found = [_deleted(path) for path in self.trash_folder.glob(f"*.*{SUFFIX}")]
        return sorted(found, key=lambda deleted: -deleted.when)

    @_alone
    def restore(self, name: str, new: str | None = None, reserved: Collection[str] = ()) -> str:
        """Bring back the expert of this name that was deleted last, as `new` if given."""
        found = next((deleted for deleted in self.deleted() if deleted.name == name), None)
        if found is None:
            known = ", ".join(dict.fromkeys(d.name for d in self.deleted())) or "nothing"
            raise T2LocalError(f"No expert '{name}' was deleted; the trash holds: {known}.")
        if new:
            check_free(new, {*self.names(), *reserved})
            self.save(replace(read_expert(found.path), name=new))
            self._gone(found.path)
            return new
        check_free(name, {*self.own_names(), *reserved})
        target = self.own_folder / f"{name}{SUFFIX}"
        with paths.saving(target):
            paths.move(found.path, target)
        return name

    @_alone
    def import_file(
        self,
        path: Path,
        name: str | None = None,
        check: Callable[[Expert], str] | None = None,
        reserved: Collection[str] = (),
    ) -> tuple[Expert, str]:
        """Take in a shared expert file under its own or another `name`; the expert and a warning.

        `check`: refuses an expert that does not fit the loaded model, or gives a warning.
        """
        expert = read_expert(Path(path))
        expert = replace(expert, name=name or expert.name)
        if paths.slug(expert.base_model) != self.model_slug:
            raise T2LocalError(
                f"Expert '{expert.name}' was trained on {expert.base_model}, but these are the "
                f"experts of {self.model_slug}; load that model (or give --model) and import again."
            )
        check_free(expert.name, {*self.names(), *reserved})
        warning = check(expert) if check else ""
        self.save(expert)
        return expert, warning

    def share(self, name: str, path: Path) -> Path:
        """One file that holds everything of an expert; `path`: a file or an existing folder."""
        expert = self._readable(self.find(name))
        target = Path(path) / f"{paths.slug(name)}{SUFFIX}" if Path(path).is_dir() else Path(path)
        write_expert(expert, target)
        return target

    def find(self, name: str) -> Stored:
        """An expert by the name on its card or of its file; the user's own first."""
        files = self.files()
        by_card = [f for f in files if f.expert is not None and f.expert.name == name]
        found = [*by_card, *(f for f in files if f.path.stem == name)]
        if not found:
            known = ", ".join(sorted(self.names())) or "none yet"
            raise T2LocalError(f"There is no expert '{name}' for this model; there are: {known}.")
        return min(found, key=lambda stored: stored.shipped)

    def names(self) -> set[str]:
        """Every name that is in use: on cards and of files."""
        return _names(self.files())

    def own_names(self) -> set[str]:
        """Those of the user's own experts; restoring may cover a shipped one again."""
        return _names(f for f in self.files() if not f.shipped)

    def _own(self, name: str, done: str) -> Stored:
        stored = self.find(name)
        if stored.shipped:
            raise T2LocalError(
                f"'{name}' ships with t2local and cannot be {done}; "
                "duplicate it and change the copy."
            )
        return stored

    def _readable(self, stored: Stored) -> Expert:
        if stored.expert is None:
            raise T2LocalError(stored.problem)
        return stored.expert

    def _gone(self, path: Path) -> None:
        with paths.saving(path):
            path.unlink(missing_ok=True)


def _names(files) -> set[str]:
    stored = list(files)
    return {f.path.stem for f in stored} | {f.expert.name for f in stored if f.expert}


def _deleted(path: Path) -> Deleted:
    name, _, stamp = path.name.removesuffix(SUFFIX).rpartition(".")
    return Deleted(name, path, int(stamp) / 1e9 if stamp.isdigit() else 0.0)


# --- A mixture as one expert.


def from_mixture(path: Path, library: Library, loaded: LoadedModel, svf: SVFModel) -> Expert:
    """The expert that the mixture file `path` amounts to on this model.

    Raises `T2LocalError`: no such file, another model's, an expert it names is gone.
    """
    file = read_mixture(path)
    file.check(loaded.name, library.names())
    experts = {name: library.load(name).z for name in file.mixture.experts}
    parts = " + ".join(f"{alpha:g} {name}" for name, alpha in file.mixture.alpha.items() if alpha)
    made = Expert(
        path.stem, loaded.name, "", compose(experts, file.mixture), description=f"Mixture: {parts}."
    )
    return stamped(made, loaded, svf)
