"""A mixture on disk: a small JSON file that can be shared, and the folder of those with a name.

`{"schema": 1, "base_model", "alpha", "strength", "gains", "by_matrix", "task"}`; only `alpha` must
be there, so a file can be written by hand. Written atomically, read with every check that can be
made without the model.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import check_name
from t2local.svf.mixing import Gains, Mixture
from t2local.untrusted import file_bytes, parsed, typed

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
