"""Matrices in groups: integers of 4 or 8 bits, and a scale for each group of 16 or 32 inputs.

    W[i, k] = scale[i, g] · code[i, k] + offset[i, g],   g = k // group

That is what the blocks of a GGUF hold, so its codes are taken over as they are and nothing is
rounded anew but a scale to 16 bits where the file makes it a product of two numbers (K types: 2e-4
of the weight). Types of 5 and 6 bits take 8 here: they are unpacked for speed. Floats are rounded
to 8 bits with the largest of 32 as 127 (half a percent of a weight).
Formats: ggml's `ggml-common.h`, by the names of the Python package `gguf`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

LANES = 16  # rows of a block, side by side
LARGEST = 127
ROUNDED = 1024  # rows that are rounded at a time
SIZES = (16, 32)  # of a group
GROUP = 32  # of floats that are rounded; whatever is read has rows of so many, or several times


@dataclass(frozen=True)
class Groups:
    """One matrix `[rows, columns]`, laid out in blocks of 16 rows (see `groups.vectors`).

    `codes`: int8 `[blocks, columns, 16]`, or uint8 `[blocks, columns / 2, 16]`: of a group's first
    half in the low four bits, of its second half in the high ones. `scales`, `offsets`: float16
    `[blocks, groups, 16]`. Rows beyond the last are zeros.
    """

    codes: Tensor
    scales: Tensor
    offsets: Tensor | None
    rows: int
    columns: int

    @property
    def bits(self) -> int:
        return 8 if self.codes.dtype == torch.int8 else 4

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.columns // self.scales.shape[1]

    @property
    def whole(self) -> bool:
        """Whether all parts have the sizes that `rows` and `columns` ask for."""
        blocks = -(-self.rows // LANES)
        groups = self.scales.shape[1] if self.scales.dim() == 3 else 0
        stored = self.columns if self.codes.dtype == torch.int8 else self.columns // 2
        sizes = [
            self.scales.shape,
            self.scales.shape if self.offsets is None else self.offsets.shape,
        ]
        return (
            self.codes.shape == (blocks, stored, LANES)
            and groups in (self.columns / size for size in SIZES)
            and all(size == (blocks, groups, LANES) for size in sizes)
            and (self.bits == 8 or self.offsets is not None)
        )

    @property
    def nbytes(self) -> int:
        offsets = 0 if self.offsets is None else self.offsets.nbytes
        return self.codes.nbytes + self.scales.nbytes + offsets

    def blocks(self, first: int, last: int) -> "Groups":
        """The rows of some blocks of 16, as a matrix of their own on the same memory."""
        part = slice(first, last)
        offsets = None if self.offsets is None else self.offsets[part]
        rows = min(self.rows, last * LANES) - first * LANES
        return Groups(self.codes[part], self.scales[part], offsets, rows, self.columns)

    def dense(self, first: int = 0, last: int | None = None) -> Tensor:
        """The numbers, float32 `[rows, columns]`; of the blocks from `first` to `last` alone."""
        part = slice(first, last)
        blocks, groups = self.scales[part].shape[:2]
        codes = self.codes[part]
        if self.bits == 4:
            pairs = codes.view(blocks, groups, -1, LANES)
            codes = torch.cat([pairs & 15, pairs >> 4], dim=2)
        numbers = codes.view(blocks, groups, -1, LANES) * self.scales[part, :, None].float()
        if self.offsets is not None:
            numbers += self.offsets[part, :, None].float()
        dense = numbers.reshape(blocks, self.columns, LANES).transpose(1, 2)
        return dense.reshape(-1, self.columns)[: self.rows - first * LANES].contiguous()

    def row(self, index: Tensor) -> Tensor:
        """Some rows, float32 `[..., columns]`."""
        block, lane = index // LANES, index % LANES
        scales = self.scales[block, :, lane].float()[..., None]  # [..., groups, 1]
        codes = self.codes[block, :, lane].view(*index.shape, scales.shape[-2], -1)
        if self.bits == 4:
            codes = torch.cat([codes & 15, codes >> 4], dim=-1)
        numbers = codes * scales
        if self.offsets is not None:
            numbers += self.offsets[block, :, lane].float()[..., None]
        return numbers.flatten(start_dim=-2)


def blocked(codes: np.ndarray, scales: np.ndarray, offsets: np.ndarray | None, bits: int) -> Groups:
    """`codes` `[m, n]` (int8, or uint8 below 16 for 4 bits) and `[m, groups]` numbers, laid out."""
    rows, columns = codes.shape
    if bits == 4:
        halves = codes.reshape(rows, scales.shape[1], 2, -1)
        codes = (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(rows, -1)
    laid = [None if part is None else _in_blocks(part) for part in (codes, scales, offsets)]
    codes, scales, offsets = laid
    offsets = None if offsets is None else torch.from_numpy(offsets.astype(np.float16))
    return Groups(
        torch.from_numpy(codes), torch.from_numpy(scales.astype(np.float16)), offsets, rows, columns
    )


def _in_blocks(values: np.ndarray) -> np.ndarray:
    """`[m, n]` as `[blocks, n, 16]`."""
    missing = -len(values) % LANES
    if missing:
        values = np.concatenate([values, np.zeros((missing, values.shape[1]), values.dtype)])
    return np.ascontiguousarray(values.reshape(-1, LANES, values.shape[1]).transpose(0, 2, 1))


def rounded(weight: Tensor, group: int = GROUP) -> Groups:
    """A float matrix `[m, n]` in 8 bits, the largest of each group as 127."""
    m, n = weight.shape
    codes, scales = np.empty((m, n), np.int8), np.empty((m, n // group), np.float16)
    for first in range(0, m, ROUNDED):
        part = slice(first, first + ROUNDED)
        groups = weight[part].detach().float().numpy().reshape(-1, n // group, group)
        scales[part] = np.abs(groups).max(axis=2) / LARGEST
        divisors = np.where(scales[part] > 0, scales[part].astype(np.float32), np.inf)[..., None]
        numbers = np.clip(np.rint(groups / divisors), -LARGEST, LARGEST)
        codes[part] = numbers.reshape(-1, n)
    return blocked(codes, scales, None, 8)


# --- Out of a GGUF's blocks.


def from_gguf(data: np.ndarray, kind: GGMLQuantizationType) -> Groups:
    """The matrix of a GGUF tensor's bytes `[m, bytes]`, of a type in `FLOATS` or `READERS`."""
    if kind in FLOATS:
        return rounded(torch.from_numpy(dequantize(data, kind)))
    rows, (_, block_bytes) = len(data), GGML_QUANT_SIZES[kind]
    blocks = data.reshape(-1, block_bytes)
    codes, scales, offsets, bits = READERS[kind](blocks)
    flat = [None if part is None else part.reshape(rows, -1) for part in (codes, scales, offsets)]
    return blocked(*flat, bits)


def _halves(blocks: np.ndarray, first: int) -> np.ndarray:
    """A float16 of each block `[N, 1]`, as float32."""
    return blocks[:, first : first + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """`[..., b]` bytes as `[..., 2b]` numbers: all low halves, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _q4_0(blocks):
    scale = _halves(blocks, 0)
    return _nibbles(blocks[:, 2:]), scale, -8 * scale, 4


def _q4_1(blocks):
    return _nibbles(blocks[:, 4:]), _halves(blocks, 0), _halves(blocks, 2), 4


def _fives(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """16 bytes of nibbles and 4 of fifth bits `[N, …]` as 32 numbers."""
    bits = np.unpackbits(high, axis=-1, bitorder="little")  # [N, 32]
    return (_nibbles(low) | bits << 4).astype(np.int8)


def _q5_0(blocks):
    return _fives(blocks[:, 6:], blocks[:, 2:6]) - np.int8(16), _halves(blocks, 0), None, 8


def _q5_1(blocks):
    codes = _fives(blocks[:, 8:], blocks[:, 4:8])
    return codes, _halves(blocks, 0), _halves(blocks, 2), 8


def _q8_0(blocks):
    return blocks[:, 2:].view(np.int8), _halves(blocks, 0), None, 8


def _six_bit_scales(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """12 bytes `[N, 12]` as eight scales and eight minima of 6 bits (ggml's `get_scale_min_k4`)."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | (first >> 6) << 4], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | (second >> 6) << 4], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _k_groups(packed: np.ndarray) -> np.ndarray:
    """`[N, 128]` bytes as `[N, 8, 32]`: each 32 bytes hold a group's numbers and the next one's."""
    pairs = packed.reshape(len(packed), 4, 1, 32)
    return np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(len(packed), 8, 32)


def _q4_k(blocks):
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    return _k_groups(blocks[:, 16:]), _halves(blocks, 0) * scales, -_halves(blocks, 2) * minima, 4


def _q5_k(blocks):
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    shifts = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth = (blocks[:, None, 16:48] >> shifts) & 1  # [N, 8, 32]
    codes = (_k_groups(blocks[:, 48:]) | fifth << 4).astype(np.int8)
    return codes, _halves(blocks, 0) * scales, -_halves(blocks, 2) * minima, 8


def _q6_k(blocks):
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None] & 15
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    high = high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3  # [N, 2, 4, 32]
    codes = low.reshape(-1, 2, 4, 32) | high << 4
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return codes.astype(np.int8) - np.int8(32), _halves(blocks, 208) * scales, None, 8


KIND = GGMLQuantizationType
FLOATS = (KIND.F32, KIND.F16, KIND.BF16)
READERS = {
    KIND.Q4_0: _q4_0, KIND.Q4_1: _q4_1, KIND.Q5_0: _q5_0, KIND.Q5_1: _q5_1, KIND.Q8_0: _q8_0,
    KIND.Q4_K: _q4_k, KIND.Q5_K: _q5_k, KIND.Q6_K: _q6_k,
}  # fmt: skip
