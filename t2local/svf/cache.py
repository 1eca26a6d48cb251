"""Bases on disk: one safetensors file a matrix, named by what the matrix holds.

The name is the hash of the weight, the convention and the stored dtype, so a file can never be
used for another weight, and a cut-off decomposition goes on where it stopped. A damaged file
counts as missing. Knows nothing of models.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from t2local.paths import atomic_write
from t2local.svf.basis import CONVENTION, Basis

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

    def _path(self, digest: str, dtype: torch.dtype) -> Path:
        key = hashlib.sha256(f"{digest} {CONVENTION} {dtype}".encode()).hexdigest()[:24]
        return self.folder / f"{key}.safetensors"


def _plausible(basis: Basis) -> bool:
    """Whether every vector has length 1, to the rounding: after a power cut some may be zeros."""
    lengths = basis.dense().norm(dim=1)  # [r]; NaN is not near 1 either
    return bool(((lengths - 1).abs() < NORM_TOLERANCE).all())
