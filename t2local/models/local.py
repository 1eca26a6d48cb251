"""Which models are on this machine, complete enough to load without a network.

The embedded one, the Hub's local cache, and folders or GGUF files below the home's `models`. Knows
nothing of memory.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    CachedRepoInfo,
    CachedRevisionInfo,
    CacheNotFound,
    constants,
    scan_cache_dir,
)

from t2local import paths
from t2local.models.load import embedded

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class LocalModel:
    """A model that loads offline. `source` is what `--model` takes."""

    source: str  # "embedded", a Hub id, or a path
    name: str
    kind: str  # "embedded" | "hub" | "folder" | "gguf"
    size_bytes: int  # on the disk
    path: Path


def local_models() -> tuple[LocalModel, ...]:
    """Everything that loads here without a network, the embedded model first."""
    return (*_embedded(), *_in_hub_cache(), *_in_home())


def half_fetched() -> tuple[str, ...]:
    """Hub ids whose download stopped before the end."""
    return tuple(
        sorted(repo.repo_id for repo in _model_repos() if _complete_revision(repo) is None)
    )


def _embedded() -> Iterator[LocalModel]:
    folder = paths.models_dir() / embedded.NAME
    if embedded.is_complete(folder):
        size = paths.folder_bytes(folder)
        yield LocalModel("embedded", embedded.NAME, "embedded", size, folder)


def _in_hub_cache() -> Iterator[LocalModel]:
    for repo in sorted(_model_repos(), key=lambda repo: repo.repo_id):
        revision = _complete_revision(repo)
        if revision is not None:
            yield LocalModel(
                repo.repo_id, repo.repo_id, "hub", revision.size_on_disk, revision.snapshot_path
            )


def _in_home() -> Iterator[LocalModel]:
    folder = paths.models_dir()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.name == embedded.NAME:
            continue
        if path.suffix == ".gguf" and path.is_file():
            yield LocalModel(str(path), path.stem, "gguf", path.stat().st_size, path)
        elif path.is_dir() and is_complete(path):
            yield LocalModel(str(path), path.name, "folder", paths.folder_bytes(path), path)


def is_complete(folder: Path) -> bool:
    """True when a checkpoint folder has its configuration and all of its safetensors weights."""
    if not (folder / "config.json").is_file():
        return False
    if not (folder / INDEX).is_file():
        return any(folder.glob("*.safetensors"))
    try:
        shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return all((folder / shard).is_file() for shard in set(shards))


def _model_repos() -> list[CachedRepoInfo]:
    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    return [repo for repo in repos if repo.repo_type == "model"]


def _complete_revision(repo: CachedRepoInfo) -> CachedRevisionInfo | None:
    """The newest revision that is all here."""
    newest = sorted(repo.revisions, key=lambda revision: revision.last_modified, reverse=True)
    return next((r for r in newest if is_complete(r.snapshot_path)), None)
