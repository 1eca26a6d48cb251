"""The adapted matrices, and an orthogonal basis for each: the singular vectors of one side.

Of its smaller side; each has its file on disk.

Decomposed by float64 `eigh` of the smaller Gram matrix; where float64 is slow, float32 vectors are
refined until they are as exact. A basis is cached under a name made of what the matrix holds.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from t2local.errors import DiskFull, T2LocalError
from t2local.paths import atomic_write, folder_bytes
from t2local.untrusted import read_document, typed

CONVENTION = "gram-eigh-float64, smaller side, sigma falling, largest component positive"
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "int4": torch.uint8,  # two numbers a byte, see `packed`
}
ROUGH = "int4"  # changes what an expert does, as no other does
WITH_SCALES = (torch.int8, torch.uint8)


@dataclass(frozen=True)
class Basis:
    """`vectors` `[r, r]`: row i is the i-th singular vector; `sigma` `[r]` float32, falling.

    `scale` `[r]`: for vectors in 8 or 4 bits, the value of one step in each row; None otherwise.
    Those in 4 bits are `packed` to `[r, ⌈r/2⌉]`.
    """

    vectors: torch.Tensor
    sigma: torch.Tensor
    side: str  # "in" | "out"
    scale: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return self.sigma.shape[0]

    def dense(self) -> torch.Tensor:
        """The vectors as float32 `[r, r]`, whatever they are stored in."""
        rows = unpacked(self.vectors, self.rank).float()
        return rows if self.scale is None else rows * self.scale[:, None]


def side_of(out_features: int, in_features: int) -> str:
    return "in" if in_features <= out_features else "out"


def decompose(weight: torch.Tensor) -> Basis:
    """The float32 basis of `weight` `[m, n]`, as exact as float64, on the weight's device."""
    exact = weight.detach().double()
    side = side_of(*exact.shape)
    gram = exact.T @ exact if side == "in" else exact @ exact.T  # [r, r]
    eigh = refined_eigh if float64_is_slow(gram.device) else torch.linalg.eigh
    eigenvalues, columns = eigh(gram)  # ascending
    rows = columns.T.flip(0)  # [r, r], row i belongs to the i-th largest σ
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))  # [r, 1]
    rows = rows * torch.where(largest < 0, -1.0, 1.0)
    sigma = eigenvalues.flip(0).clamp(min=0).sqrt()
    return Basis(rows.float().contiguous(), sigma.float(), side)


def rounded(basis: Basis, dtype: torch.dtype) -> Basis:
    """The basis stored as float32, bfloat16, float16, or in 8 or 4 bits with a scale a row."""
    if dtype not in WITH_SCALES:
        return Basis(basis.vectors.to(dtype), basis.sigma, basis.side)
    largest = basis.vectors.abs().amax(dim=1)  # [r]
    if dtype == torch.int8:
        scale = largest / 127
        steps = torch.round(basis.vectors / scale[:, None]).to(torch.int8)
        return Basis(steps, basis.sigma, basis.side, scale)
    steps, scale = _in_4_bits(basis.vectors, largest)
    return Basis(packed(steps), basis.sigma, basis.side, scale)


def stored_bytes(rank: int, dtype: torch.dtype) -> int:
    """Bytes of a basis of `rank` rows: vectors `[r, r]`, float32 σ `[r]`, and scales `[r]`."""
    scales = 4 * rank if dtype in WITH_SCALES else 0
    numbers = rank * dtype.itemsize if dtype != torch.uint8 else (rank + 1) // 2
    return rank * numbers + 4 * rank + scales


# --- Vectors in 4 bits: fifteen steps a row, of a size that a row's own numbers choose.
#
# A vector of thousands of numbers has few that are large, so the largest do not set the size of a
# step: of some sizes that cut them off, the one of least squared error is taken. For numbers like
# those of a Gaussian that costs 11 % of each vector (Max 1960, table II, gives 10.7 for sixteen),
# and both products of the branch have it.

MOST_STEPS = 7
CUTS = (0.85, 0.7, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2)  # of a row's largest number


def _in_4_bits(vectors: torch.Tensor, largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps int8 `[k, r]` from −7 to 7, and the best value `[k]` of one for what they are."""
    best, scale, kept = _cut(vectors, largest)
    for part in CUTS:
        steps, value, found = _cut(vectors, part * largest)
        better = found > kept
        best = torch.where(better[:, None], steps, best)
        scale, kept = torch.where(better, value, scale), torch.maximum(found, kept)
    return best, scale


def _cut(vectors: torch.Tensor, most: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Steps `[k, r]` of vectors cut at `most` `[k]`, the best value of one, the energy kept."""
    steps = torch.round(vectors * (MOST_STEPS / most)[:, None]).clamp(-MOST_STEPS, MOST_STEPS)
    onto, length = (steps * vectors).sum(dim=1), steps.square().sum(dim=1)
    return steps.to(torch.int8), onto / length, onto.square() / length


def packed(steps: torch.Tensor) -> torch.Tensor:
    """uint8 `[k, ⌈r/2⌉]` of steps `[k, r]` from −7 to 7: the first half of a row in the low bits,
    the second in the high ones, so that neighbours in memory stay neighbours."""
    half = (steps.shape[1] + 1) // 2
    codes = torch.nn.functional.pad((steps + 8).to(torch.uint8), (0, 2 * half - steps.shape[1]))
    return codes[:, :half] | (codes[:, half:] << 4)


def unpacked(vectors: torch.Tensor, rank: int) -> torch.Tensor:
    """int8 `[k, rank]` of what `packed` made; vectors of any other kind are given back."""
    if vectors.dtype != torch.uint8:
        return vectors
    codes = torch.cat([vectors & 15, vectors >> 4], dim=1)[:, :rank]
    return codes.to(torch.int8) - 8


def weight_digest(weight: torch.Tensor) -> str:
    """A hash of a weight's values and shape.

    Taken after rounding to bfloat16, so that one model loaded in float32 or bfloat16 is the same
    model, while its 4-bit version is another.
    """
    values = weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy()
    return hashlib.sha256(f"{tuple(weight.shape)}".encode() + values.tobytes()).hexdigest()


# --- Eigenvectors as exact as float64 ones, where float64 is slow.
#
# On GeForce cards float64 has 1/64 of float32's speed, so `eigh` runs in float32 and float64 is
# left for products. Two corrections follow, both in the small matrix `S = QᵀGQ`, which is diagonal
# when Q is right: 1. float32 squares away the small σ (G has σ²). So their block of S is
# decomposed again in float32 at its own scale, and again within it: each time it gains a factor
# `BLOCK` of range. 2. Simultaneous Jacobi rotations: each pair (i, j) is turned by `½ atan(2 S_ij
# / (S_jj − S_ii))`, which squares the error where eigenvalues are apart (cf. Ogita and Aishima,
# 2018). Where that does not converge, float64 `eigh` does it. Pure functions of tensors.

BLOCK = 1e-3  # eigenvalues below this part of the largest are decomposed at their own scale
CONVERGED = 1e-3  # radians: what is left after a last rotation is about its square
MOST_ROTATIONS = 6
FULL_RATE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}  # compute capabilities of data centre cards


def float64_is_slow(device: torch.device) -> bool:
    """True for CUDA cards that do float64 at a small part of their float32 rate."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) not in FULL_RATE


def refined_eigh(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues `[r]`, rising, and eigenvectors `[r, r]`, a column each, of `gram` float64.

    What `torch.linalg.eigh(gram)` gives, to the rounding of float32 storage.
    """
    floor = torch.finfo(torch.float64).eps * len(gram) ** 0.5 * float(gram.diagonal().max())
    vectors = torch.linalg.eigh(gram.float()).eigenvectors.double().flip(1)  # [r, r], λ falling
    vectors = _small_ones_again(_orthonormal(vectors), gram, floor)
    for _ in range(MOST_ROTATIONS):
        near_diagonal = vectors.T @ (gram @ vectors)
        angles = _angles(near_diagonal, floor)
        largest = float(angles.abs().max())
        vectors = _orthonormal(vectors + vectors @ angles)
        if largest > 0.05:
            vectors = _orthonormal(vectors)  # one step takes an error of ½θ² to θ⁴
        if largest < CONVERGED:
            values = (vectors * (gram @ vectors)).sum(dim=0)
            order = values.argsort()
            return values[order], vectors[:, order]
    return torch.linalg.eigh(gram)


def _small_ones_again(vectors: torch.Tensor, gram: torch.Tensor, floor: float) -> torch.Tensor:
    """`vectors` with the small eigenvalues' ones decomposed anew, each block at its own scale."""
    near_diagonal = vectors.T @ (gram @ vectors)  # S [r, r]
    vectors, start = vectors.clone(), 0
    while True:
        values = near_diagonal.diagonal()[start:]
        small = (values < BLOCK * values[0]).nonzero()
        if values[0] <= floor or not len(small):
            return vectors
        start += int(small[0])
        block = near_diagonal[start:, start:]
        scale = block.diagonal().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        turn = torch.linalg.eigh((block / scale).float()).eigenvectors.double().flip(1)
        turn = _orthonormal(turn)
        vectors[:, start:] = vectors[:, start:] @ turn
        near_diagonal[:, start:] = near_diagonal[:, start:] @ turn
        near_diagonal[start:] = turn.T @ near_diagonal[start:]


def _angles(near_diagonal: torch.Tensor, floor: float) -> torch.Tensor:
    """The antisymmetric `[r, r]` generator that turns every pair towards a diagonal S.

    Pairs whose `S_ij` is nothing but rounding are left alone: equal eigenvalues, or σ of 0.
    """
    values = near_diagonal.diagonal()
    gaps = values[None, :] - values[:, None]  # λ_j − λ_i
    coupling = near_diagonal * (near_diagonal.abs() > floor)
    turned = 0.5 * torch.atan2(2 * coupling.abs(), gaps.abs()) * coupling.sign() * gaps.sign()
    below = turned.tril(-1)
    return below - below.T


def _orthonormal(vectors: torch.Tensor) -> torch.Tensor:
    """One Newton–Schulz step to the nearest orthonormal columns: squares their error."""
    return 1.5 * vectors - 0.5 * vectors @ (vectors.T @ vectors)


# --- Bases on disk: one safetensors file a matrix, named by what the matrix holds.
#
# The name is the hash of the weight, the convention and the stored dtype, so a file can never be
# used for another weight, and a cut-off decomposition goes on where it stopped. A damaged file
# counts as missing. Of layers that say by `stored_as` which numbers on the disk they have, the hash
# is remembered: no start after the first one then computes their weights.

GB = 10**9
REMEMBERED = "digests.json"
NORM_TOLERANCE = 0.2  # rounding to int8 moves a peaked row of 4,096 numbers by up to 0.1
NORM_TOLERANCE_4_BITS = 0.6  # a row of one large number and many small ones loses either


class BasisCache:
    """A folder of bases. `folder=None` keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def remembered(self) -> dict[str, str]:
        """What was given to `remember`; empty where it cannot be read."""
        if self.folder is None:
            return {}
        try:
            return typed(dict[str, str], read_document(self.folder / REMEMBERED))
        except (OSError, ValueError):
            return {}

    def remember(self, digests: Mapping[str, str]) -> None:
        """Keep the hashes of weights by their layers' `stored_as`, if the disk takes them."""
        if self.folder is None or not digests:
            return
        with suppress(T2LocalError), atomic_write(self.folder / REMEMBERED) as temporary:
            values = {**self.remembered(), **digests}
            temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")

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
    tolerance = NORM_TOLERANCE if basis.vectors.dtype != torch.uint8 else NORM_TOLERANCE_4_BITS
    return bool(((lengths - 1).abs() < tolerance).all())


# --- Which matrices are adapted, and what their names say about them.
#
# Any transformers causal LM: the linear layers inside its numbered blocks; of a vision-language
# model those of its language model. Embeddings and the output head are never adapted (paper,
# section 3.1: MLP and attention matrices).

SHARING = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # one input, side by side
ATTENTION_PARTS = (".self_attn.", ".attn.", ".attention.")
LANGUAGE_PARTS = (".language_model.", ".text_model.")  # of a vision-language model


def depth_of(name: str) -> int | None:
    """The layer number in a matrix name (`model.layers.3.mlp.up_proj` -> 3)."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def is_attention(name: str) -> bool:
    """Whether a matrix belongs to an attention module (else it counts as MLP)."""
    return any(part in f".{name}." for part in ATTENTION_PARTS)


def sharing_input(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The groups among `names` whose layers get the very same input in every forward."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name in names:
        parent, _, child = name.rpartition(".")
        for kind, children in enumerate(SHARING):
            if child in children:
                groups.setdefault((parent, kind), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def is_conv1d(layer: nn.Module) -> bool:
    """GPT-2's `Conv1D` (weight `[n, m]`), known by its name: this package needs torch alone."""
    return type(layer).__name__ == "Conv1D"


def find_targets(model: nn.Module, targets: str = "all") -> dict[str, nn.Module]:
    """Matrix name -> layer, in the model's own order.

    `targets`: "all", "mlp", "attention", or a regular expression searched in the names.
    Raises `T2LocalError` when nothing matches, naming what was found instead.
    """
    linear = {
        name: layer
        for name, layer in model.named_modules()
        if (isinstance(layer, nn.Linear) or is_conv1d(layer)) and depth_of(name) is not None
    }
    linear = {n: layer for n, layer in linear.items() if _is_language(n)} or linear
    if not linear:
        kinds = Counter(type(m).__name__ for m in model.modules() if not list(m.children()))
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6))
        raise T2LocalError(
            f"{type(model).__name__} cannot be adapted: SVF needs linear layers in numbered blocks "
            f"and found only {found}; choose a Llama-, Mistral-, Qwen-, Gemma-, Phi-3- or "
            "GPT-2-like model."
        )
    chosen = {name: layer for name, layer in linear.items() if _matches(name, targets)}
    if not chosen:
        raise T2LocalError(
            f"Target pattern '{targets}' matches none of the {len(linear)} linear layers "
            f"(the first is '{next(iter(linear))}'); use all, mlp, attention or a pattern of names."
        )
    return chosen


def _is_language(name: str) -> bool:
    return any(part in name for part in LANGUAGE_PARTS)


def _matches(name: str, targets: str) -> bool:
    if targets == "all":
        return True
    if targets in ("mlp", "attention"):
        return is_attention(name) == (targets == "attention")
    try:
        return re.search(targets, name) is not None
    except re.error as error:
        raise T2LocalError(
            f"Target pattern '{targets}' is not a regular expression ({error}); "
            "use all, mlp, attention or a pattern of names."
        ) from error
