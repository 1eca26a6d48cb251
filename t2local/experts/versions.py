"""Earlier versions of an expert: kept when a further trained one takes its place, and brought back.

A copy of the whole file each, in `.versions` beside the experts. Going back keeps the present one
as a version too, so nothing is lost either way.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import Expert
from t2local.experts.store import ExpertStore, read_expert

SUFFIX = ".safetensors"
MOST_KEPT = 10  # of an expert; the oldest is dropped


@dataclass(frozen=True)
class Version:
    """`replaced`: seconds since 1970."""

    path: Path
    replaced: float


class Versions:
    """The earlier versions of the user's own experts of one model.

    Whoever changes something holds `ExpertStore.changing` around it.
    """

    def __init__(self, store: ExpertStore) -> None:
        self.store = store
        self.folder = store.own_folder / ".versions"

    def counts(self) -> Mapping[str, int]:
        """How many there are of each expert that has some, by its file's name."""
        return Counter(_expert_of(path) for path in self.folder.glob(f"*{SUFFIX}"))

    def of(self, name: str) -> list[Version]:
        """The newest first."""
        found = [
            _version(path)
            for path in self.folder.glob(f"*{SUFFIX}")
            if _expert_of(path) == paths.slug(name)
        ]
        return sorted(found, key=lambda version: -_stamp(version.path))

    def keep(self, name: str) -> None:
        """Copy what is there now; nothing happens where nothing is, or it was kept last."""
        present = self._present(name)
        if not present.is_file():
            return
        content, before = present.read_bytes(), self.of(name)
        if before and before[0].path.read_bytes() == content:
            return  # a program was killed between the copy and what was to replace it
        target = self.folder / f"{paths.slug(name)}.{time.time_ns()}{SUFFIX}"
        with paths.atomic_write(target) as temporary:
            temporary.write_bytes(content)
        for old in self.of(name)[MOST_KEPT:]:
            with paths.saving(old.path):
                old.path.unlink(missing_ok=True)

    def back(self, name: str) -> Expert:
        """Put the newest version in the place of the present one, which becomes the oldest.

        So whoever goes on pressing sees each once. Raises `T2LocalError` where there is none, or it
        is damaged.
        """
        present = self._present(name).read_bytes()
        versions = [v for v in self.of(name) if v.path.read_bytes() != present]
        if not versions:
            raise T2LocalError(f"'{name}' has no earlier version; train it further first.")
        chosen, oldest = versions[0], versions[-1]
        expert, content = read_expert(chosen.path), chosen.path.read_bytes()
        target = self.folder / f"{paths.slug(name)}.{_stamp(oldest.path) - 1}{SUFFIX}"
        for path, written in ((target, present), (self._present(name), content)):
            with paths.atomic_write(path) as temporary:
                temporary.write_bytes(written)
        with paths.saving(chosen.path):
            chosen.path.unlink(missing_ok=True)
        return expert

    def drop(self, name: str) -> None:
        """Forget those of a name that another expert has now."""
        for version in self.of(name):
            with paths.saving(version.path):
                version.path.unlink(missing_ok=True)

    def follow(self, name: str, new: str) -> None:
        """The versions of an expert that was renamed go with it."""
        self.drop(new)
        for version in self.of(name):
            target = self.folder / f"{paths.slug(new)}.{_stamp(version.path)}{SUFFIX}"
            with paths.saving(target):
                paths.move(version.path, target)

    def _present(self, name: str) -> Path:
        return self.store.own_folder / f"{paths.slug(name)}{SUFFIX}"


def _expert_of(path: Path) -> str:
    return path.name.removesuffix(SUFFIX).rpartition(".")[0]


def _version(path: Path) -> Version:
    return Version(path, _stamp(path) / 1e9)


def _stamp(path: Path) -> int:
    """Nanoseconds since 1970."""
    text = path.name.removesuffix(SUFFIX).rpartition(".")[2]
    return int(text) if text.isdigit() else 0
