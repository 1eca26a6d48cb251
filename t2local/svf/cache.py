"""Bases on disk: one safetensors file a matrix, named by what the matrix holds.

The name is the hash of the weight, the convention and the stored dtype, so a file can never be
used for another weight, and a cut-off decomposition goes on where it stopped. A damaged file
counts as missing. Knows nothing of models.
"""

import hashlib
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from t2local.errors import DiskFull
from t2local.paths import atomic_write, folder_bytes
from t2local.svf.basis import CONVENTION, Basis

GB = 10**9
NORM_TOLERANCE = 0.2  # rounding to int8 moves a peaked row of 4,096 numbers by up to 0.1


class BasisCache:
    """A folder of bases. `folder=None` keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, digest: str, dtype: torch.dtype, device: torch.device) -> Basis | None:
        """The basis of the weight with this digest, or None."""
        if self.folder is None or not (path := self._path(digest, dtype)).is_file():
            return None
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                side = file.metadata()["side"]
            basis = Basis(tensors["vectors"], tensors["sigma"], side, tensors.get("scale"))
        except (SafetensorError, OSError, KeyError, TypeError):
            return None
        return basis if _plausible(basis) else None

    def save(self, digest: str, dtype: torch.dtype, basis: Basis) -> None:
        """Raises `T2LocalError` when the disk is full; nothing half-written stays."""
        if self.folder is None:
            return
        tensors = {"vectors": basis.vectors, "sigma": basis.sigma}
        if basis.scale is not None:
            tensors["scale"] = basis.scale
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"side": basis.side, "convention": CONVENTION}
        with atomic_write(self._path(digest, dtype)) as temporary:
            # Not `save_file`: its error does not say that a full disk was the reason.
            temporary.write_bytes(save(tensors, metadata=metadata))

    def drop_outdated(self) -> int:
        """Delete the bases of another version of the convention, and tell how many there were."""
        if self.folder is None or not self.folder.is_dir():
            return 0
        outdated = [p for p in self.folder.glob("*.safetensors") if _convention(p) != CONVENTION]
        for path in outdated:
            path.unlink(missing_ok=True)
        return len(outdated)

    def check_room(self, needed_bytes: int) -> None:
        """Raise `DiskFull` when `needed_bytes` of bases, less what is kept, find no room."""
        if self.folder is None:
            return
        existing = next(p for p in (self.folder, *self.folder.parents) if p.is_dir())
        missing = needed_bytes - folder_bytes(self.folder)
        free = shutil.disk_usage(existing).free
        if missing > free:
            raise DiskFull(
                f"The bases of this model take {needed_bytes / GB:.1f} GB in "
                f"'{self.folder}', where {free / GB:.1f} GB are free; free some space, "
                "choose another folder with T2LOCAL_HOME, or smaller bases with `--basis int8`."
            )

    def _path(self, digest: str, dtype: torch.dtype) -> Path:
        key = hashlib.sha256(f"{digest} {CONVENTION} {dtype}".encode()).hexdigest()[:24]
        return self.folder / f"{key}.safetensors"


def _convention(path: Path) -> str | None:
    """The convention a file was written under; a damaged file is not outdated but mended."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("convention", CONVENTION)
    except (SafetensorError, OSError):
        return CONVENTION


def _plausible(basis: Basis) -> bool:
    """Whether every vector has length 1, to the rounding: after a power cut some may be zeros."""
    lengths = basis.dense().norm(dim=1)  # [r]; NaN is not near 1 either
    return bool(((lengths - 1).abs() < NORM_TOLERANCE).all())
