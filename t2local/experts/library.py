"""Keeping experts: rename, duplicate, delete and bring back, share as one file, take in a file.

Also a mixture as one expert, `z' = 1 + Σ α_k (z_k − 1)`, for programs that know no mixtures.
"""

import functools
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict

import torch

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import Expert, check_free, check_name, free_name, stamped
from t2local.experts.prompt_print import PromptPrint
from t2local.experts.store import ExpertStore, Stored, read_expert, write_expert
from t2local.experts.versions import Versions
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, compose
from t2local.svf.mixing import Gains, Mixture
from t2local.untrusted import file_bytes, parsed, typed

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
            Versions(self).follow(stored.path.stem, new)
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
    def give_print(self, name: str, taken: PromptPrint) -> Expert:
        """Keep the prompts that one of the user's experts is for."""
        printed = replace(self._readable(self._own(name, "given a print")), prompt_print=taken)
        self.save(printed)
        return printed

    @_alone
    def give_forgetting(self, measured: Expert, card: Sequence[Mapping[str, Any]]) -> Expert:
        """Keep what one of the user's experts did to others' tasks; its other words stay.

        Raises `T2LocalError` where the one of its name has another z by now.
        """
        name = measured.name
        expert = self._readable(self._own(name, "measured"))
        if expert.z.keys() != measured.z.keys() or not all(
            torch.equal(row, measured.z[matrix]) for matrix, row in expert.z.items()
        ):
            raise T2LocalError(f"'{name}' has changed while it was measured; measure it again.")
        measured = replace(expert, training={**expert.training, "forgetting": list(card)})
        self.save(measured)
        return measured

    def check_own(self, name: str, done: str) -> None:
        """Raise `T2LocalError` for a shipped expert, which cannot be `done`."""
        self._own(name, done)

    @_alone
    def back(self, name: str) -> Expert:
        """The version that was replaced last in the place of the present one, which is kept."""
        return Versions(self).back(self._own(name, "taken back").path.stem)

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


# --- A mixture on disk: a small JSON file that can be shared, and the folder of those with a name.
#
# `{"schema": 1, "base_model", "alpha", "strength", "gains", "by_matrix", "task"}`; only `alpha`
# must be there, so a file can be written by hand. Written atomically, read with every check that
# can be made without the model.

SCHEMA = 1
MOST_BYTES = 16 * 2**20  # by matrix, an α a matrix and expert: 100 kB for an 8B model
KEYS = ("schema", "base_model", "alpha", "strength", "gains", "by_matrix", "task")


class Task(TypedDict, total=False):
    """What `adapt` writes down of the search that found a mixture, as far as it is read."""

    reward: str
    shots_sha256: str
    shot_prompts: tuple[str, ...]


@dataclass(frozen=True)
class MixtureFile:
    """`base_model`: a name, "" where the file does not say. `task`: what it was found for.

    `task` has, where `adapt` wrote it: reward, shots, shots_sha256, accuracy, log_likelihood,
    evaluations, seed.
    """

    mixture: Mixture
    base_model: str = ""
    task: Mapping[str, Any] = field(default_factory=dict)

    def check(self, model_name: str, experts: Collection[str]) -> None:
        """Raise `T2LocalError` where it is another model's or names an expert that is not here."""
        if self.base_model and paths.slug(self.base_model) != paths.slug(model_name):
            raise T2LocalError(
                f"The mixture was made for {self.base_model}; the loaded model is {model_name}; "
                "load that model, or find a new mixture with `adapt`."
            )
        for name in self.mixture.experts:
            if name not in experts:
                known = ", ".join(sorted(experts)) or "none"
                raise T2LocalError(
                    f"The mixture names the expert '{name}', which is not here (there are: "
                    f"{known}); import that expert, or find a new mixture with `adapt`."
                )


def write_mixture(file: MixtureFile, path: Path) -> None:
    """Write atomically. Raises `T2LocalError` when the disk is full or not writable."""
    content = {"schema": SCHEMA, "base_model": file.base_model, **asdict(file.mixture)}
    with paths.atomic_write(path) as temporary:
        text = json.dumps({**content, "task": dict(file.task)}, ensure_ascii=False, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_mixture(path: Path) -> MixtureFile:
    """Raises `T2LocalError`: missing, no JSON, unknown keys, a newer schema, bad numbers."""
    try:
        content = parsed(file_bytes(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise T2LocalError(
            f"Mixture file '{path}' cannot be read ({error}); "
            'it must be JSON such as {"alpha": {"math": 0.6}}.'
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("alpha"), dict):
        raise T2LocalError(
            f"Mixture file '{path}' has no α; it must be JSON such as "
            '{"alpha": {"math": 0.6}}.'
        )
    _check_keys(path, "key", content, KEYS)
    try:
        if typed(int, content.get("schema", SCHEMA), "schema") > SCHEMA:
            raise T2LocalError(
                f"Mixture file '{path}' was written by a newer t2local "
                f"(format {content['schema']}); update t2local to use it."
            )
        gains = typed(dict[str, float], content.get("gains") or {}, "gains")
        _check_keys(path, "gain", gains, [f.name for f in fields(Gains)])
        mixture = Mixture(
            typed(dict[str, float], content["alpha"], "alpha"),
            typed(float, content.get("strength", 1.0), "strength"),
            Gains(**gains),
            typed(dict[str, dict[str, float]], content.get("by_matrix") or {}, "by_matrix"),
        )
        task = typed(Task, content.get("task", {}), "task")
        return MixtureFile(mixture, typed(str, content.get("base_model", ""), "base_model"), task)
    except ValueError as error:
        raise T2LocalError(
            f"Mixture file '{path}' is garbled ({error}); write it anew with `adapt`."
        ) from error


class MixtureStore:
    """The named mixtures of one base model, in the user's own data."""

    def __init__(self, model_slug: str) -> None:
        self.folder = paths.home() / "mixtures" / model_slug

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def save(self, name: str, file: MixtureFile) -> Path:
        """Keep a mixture, replacing one of the same name. `T2LocalError` for an impossible name."""
        path = self.folder / f"{check_name(name)}.json"
        write_mixture(file, path)
        return path

    def load(self, name: str) -> MixtureFile:
        """Raises `T2LocalError` for a name that is not here (listing those that are)."""
        if name not in self.names():
            known = ", ".join(self.names()) or "none yet"
            raise T2LocalError(f"There is no mixture '{name}' for this model; there are: {known}.")
        return read_mixture(self.folder / f"{name}.json")


def _check_keys(path: Path, what: str, found: Mapping[str, Any], known: Collection[str]) -> None:
    for name in found:
        if name not in known:
            raise T2LocalError(
                f"Mixture file '{path}' has the unknown {what} '{name}'; "
                f"known are: {', '.join(known)}."
            )
