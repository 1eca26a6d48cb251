"""Triton kernels of the branch: `total + Σ_i delta_i (v_i · v) v_i` for few rows, all sums float32.

Up to four rows (decoding): each vector is read once. A program holds a tile of whole vectors in
registers for both products while the next ones are on their way, adds up its share, and `_sum_up`
adds the shares in a fixed order: no atomics, so the same input gives the same bits on the same
device. Up to `fused.MOST_ROWS` rows: two products of bfloat16 numbers on the tensor cores (each
vector read twice), int8 widened in registers. Vectors in 4 bits lie two halves of a row in a byte
(`basis.packed`), so each has two tiles. Imported by `fused` alone, where triton is there.

"""

import os
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

TILE = 16384  # numbers of a basis, times rows, that a program holds: 64 registers a thread
WARPS = 8
MOST_STAGES = 8
FEW_ROWS = 4
MOST_STACKED = 3  # q, k and v
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SPLITS = 4  # of the sum over vectors, for many rows


def add_branches(
    v: torch.Tensor,
    vectors: Sequence[torch.Tensor],
    deltas: Sequence[torch.Tensor],
    totals: Sequence[torch.Tensor],
    programs: int,
    ahead_bytes: int = 0,
) -> list[torch.Tensor]:
    """`totals[s] + branch_s(v)`, `[M, n]` each, of `totals`' dtype.

    `v` `[M, n]`, rows next to each other; `vectors[s]` `[k, n]` (fp32, bf16, fp16, int8, or 4 bits
    packed into uint8), all of one dtype and shape; `deltas[s]` float32 `[D, k]`, where row m obeys
    delta row `m // (M // D)`. `programs`: how many share one basis; `ahead_bytes`: of shared memory
    that a program may fill with what it reads next. Few rows: one launch for all bases, one for
    each sum.
    """
    assert 1 <= len(vectors) <= MOST_STACKED, len(vectors)
    if len(v) <= FEW_ROWS:  # shares [S, P, M, n]
        kind = torch.float32 if totals[0].dtype == torch.float32 else torch.bfloat16
        partial = _read_once(v, vectors, deltas, programs, ahead_bytes, kind)
    else:
        partial = _read_twice(v, vectors, deltas)
    shares, n = partial.shape[1], v.shape[1]
    sums = [torch.empty_like(total) for total in totals]
    for share, total, out in zip(partial, totals, sums, strict=True):
        grid = (triton.cdiv(n, 32), len(v))
        _sum_up[grid](share, total, out, len(v), n, shares, triton.next_power_of_2(shares), 32)
    return sums


# --- Shares of few rows.
#
# For a token of Llama-3-8B, which reads 2.75 GB of int8 bases, one program a multiprocessor (132 on
# an H100) and shares in bfloat16 write 0.18 GB and read as much again; two programs and float32
# would be 0.70 each. Vectors are orthogonal, so `Σ ‖share‖² = ‖branch‖²`, and rounding the shares
# puts the branch off by 0.15 % of itself.


def stages(ahead_bytes: int, tile_bytes: int) -> int:
    """How many tiles a program holds or has on their way in so much shared memory."""
    return max(1, min(ahead_bytes // tile_bytes, MOST_STAGES))


def _read_once(v, vectors, deltas, programs, ahead_bytes, kind):
    (k, stride), n, rows = vectors[0].shape, v.shape[1], len(v)  # stride: of a row, in elements
    halves = 2 if vectors[0].dtype == torch.uint8 else 1  # of a row in one byte
    width, row_block = triton.next_power_of_2(stride), triton.next_power_of_2(rows)
    few = triton.next_power_of_2(triton.cdiv(k, programs))  # where there are few vectors for each
    block = max(1, min(TILE // (width * halves * row_block), few))
    chunk = block * triton.cdiv(k, block * programs)  # vectors a program
    shares = triton.cdiv(k, chunk)
    partial = v.new_empty(len(vectors), shares, rows, n, dtype=kind)
    tile_bytes = block * width * vectors[0].element_size()
    q, d = _three(vectors), _three(deltas)
    _once[(shares, len(vectors))](
        v, *q, *d, partial, rows, k, n, stride, rows // len(deltas[0]), chunk, row_block, block,
        width, stages(ahead_bytes, tile_bytes), halves == 2, num_warps=WARPS,
    )  # fmt: skip
    return partial


def _read_twice(v, vectors, deltas):
    (k, stride), n, rows = vectors[0].shape, v.shape[1], len(v)
    packed = vectors[0].dtype == torch.uint8
    row_block, shares = max(16, triton.next_power_of_2(rows)), SPLITS
    weighted = v.new_empty(rows, k, dtype=torch.float32)
    partial = v.new_empty(len(vectors), shares, rows, n, dtype=torch.float32)
    for q, delta, share in zip(vectors, deltas, partial, strict=True):
        per_delta = rows // len(delta)
        _project[(triton.cdiv(k, 32),)](
            v, q, delta, weighted, rows, k, per_delta, n, stride, row_block, 32, 128, packed,
            INTERPRETED,
        )  # fmt: skip
        chunk = 64 * triton.cdiv(k, 64 * shares)
        _expand[(triton.cdiv(stride, 64), shares)](
            weighted, q, share, rows, k, n, stride, chunk, row_block, 64, 64, packed, INTERPRETED
        )
    return partial


def _three(tensors):
    return [*tensors, *[tensors[0]] * (MOST_STACKED - len(tensors))]


@triton.jit
def _low(codes):
    """The first half of a packed row as float32 steps, see `basis.packed`."""
    return (codes & 15).to(tl.float32) - 8


@triton.jit
def _high(codes):
    return (codes >> 4).to(tl.float32) - 8


@triton.jit
def _once(
    v, q0, q1, q2, d0, d1, d2, partial, rows, k, n, stride, per_delta, chunk: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
    PACKED: tl.constexpr,
):  # fmt: skip
    """`partial[s, p]` `[M, n]`: program p's `chunk` vectors of basis s, each read once."""
    share, stacked = tl.program_id(0), tl.program_id(1)
    q, d = q0, d0
    if stacked == 1:
        q, d = q1, d1
    if stacked == 2:
        q, d = q2, d2
    # Loaded in three dimensions: what is spread later lies as it was not read, a byte a thread.
    row, column = tl.arange(0, ROWS)[:, None, None], tl.arange(0, WIDTH)[None, None, :]
    x = tl.load(v + row * n + column, mask=(row < rows) & (column < stride), other=0.0)
    x = x.to(tl.float32)  # [ROWS, 1, WIDTH]
    total = tl.zeros([ROWS, BLOCK, WIDTH], dtype=tl.float32)  # of each of a tile: summed up once
    if PACKED:
        there = (row < rows) & (column + stride < n)
        x_high = tl.load(v + row * n + stride + column, mask=there, other=0.0).to(tl.float32)
        total_high = tl.zeros([ROWS, BLOCK, WIDTH], dtype=tl.float32)
    for start in tl.range(0, chunk, BLOCK, num_stages=STAGES):
        first = share * chunk + start
        vector = first + tl.arange(0, BLOCK)[None, :, None]
        place = vector.to(tl.int64) * stride + column
        tile = tl.load(q + place, mask=(vector < k) & (column < stride), other=0)
        whose, vectors = tl.arange(0, ROWS)[:, None], first + tl.arange(0, BLOCK)[None, :]
        known = (whose < rows) & (vectors < k)
        weight = tl.load(d + (whose // per_delta) * k + vectors, mask=known, other=0.0)
        if PACKED:
            low, high = _low(tile), _high(tile)  # [1, BLOCK, WIDTH]
            products = tl.sum(x * low + x_high * high, axis=2)  # [ROWS, BLOCK]
            weighted = (products * weight)[:, :, None]
            total += weighted * low
            total_high += weighted * high
        else:
            tile = tile.to(tl.float32)
            products = tl.sum(x * tile, axis=2)
            total += (products * weight)[:, :, None] * tile
    base = (stacked * tl.num_programs(0) + share) * rows * n
    whose, columns = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    here = partial + base + whose * n + columns
    found = tl.sum(total, axis=1).to(partial.dtype.element_ty)  # [ROWS, WIDTH]
    tl.store(here, found, mask=(whose < rows) & (columns < stride))
    if PACKED:
        found = tl.sum(total_high, axis=1).to(partial.dtype.element_ty)
        tl.store(here + stride, found, mask=(whose < rows) & (columns + stride < n))


@triton.jit
def _sum_up(partial, total, out, rows, n, shares, SHARES: tl.constexpr, BLOCK: tl.constexpr):
    """`out = total + Σ_p partial[p]`, the sum in one fixed order."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, share = tl.program_id(1), tl.arange(0, SHARES)
    inside = (share < shares)[:, None] & (column < n)[None, :]
    place = share[:, None] * rows * n + row * n + column[None, :]
    shared = tl.load(partial + place, mask=inside, other=0.0).to(tl.float32)  # [SHARES, BLOCK]
    change = tl.sum(shared, axis=0)
    before = tl.load(total + row * n + column, mask=column < n, other=0.0)
    after = (before.to(tl.float32) + change).to(before.dtype)
    tl.store(out + row * n + column, after, mask=column < n)


@triton.jit
def _product(x, tile, total, WIDEN: tl.constexpr):
    """`total + x · tile`, both rounded to bfloat16; the interpreter cannot multiply those, so it
    WIDENs them again, which gives the same numbers."""
    x, tile = x.to(tl.bfloat16), tile.to(tl.float32).to(tl.bfloat16)
    if WIDEN:
        return tl.dot(x.to(tl.float32), tile.to(tl.float32), total)
    else:
        return tl.dot(x, tile, total)


@triton.jit
def _project(
    v, q, delta, weighted, rows, k, per_delta, n: tl.constexpr, stride: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """`weighted = (v Qᵀ) ⊙ delta` `[M, k]`, products of bfloat16 numbers."""
    vector, row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, ROWS)
    total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for start in range(0, stride, DEPTH):
        column = start + tl.arange(0, DEPTH)
        inside = (row < rows)[:, None] & (column < stride)[None, :]
        x = tl.load(v + row[:, None] * n + column[None, :], mask=inside, other=0.0)
        there = (vector < k)[None, :] & (column < stride)[:, None]
        place = vector.to(tl.int64)[None, :] * stride + column[:, None]
        tile = tl.load(q + place, mask=there, other=0)  # [DEPTH, BLOCK]
        if PACKED:
            total = _product(x, _low(tile), total, WIDEN)
            inside = (row < rows)[:, None] & (column + stride < n)[None, :]
            x = tl.load(v + row[:, None] * n + stride + column[None, :], mask=inside, other=0.0)
            total = _product(x, _high(tile), total, WIDEN)
        else:
            total = _product(x, tile, total, WIDEN)
    known = (row < rows)[:, None] & (vector < k)[None, :]
    factor = tl.load(
        delta + (row // per_delta)[:, None] * k + vector[None, :], mask=known, other=0.0
    )
    tl.store(weighted + row[:, None] * k + vector[None, :], total * factor, mask=known)


@triton.jit
def _expand(
    weighted, q, partial, rows, k, n, stride, chunk: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """`partial[p] = weighted Q` `[M, n]` over the vectors of one of `SPLITS` chunks."""
    column, row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, ROWS)
    share = tl.program_id(1)
    total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    if PACKED:
        total_high = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for start in range(0, chunk, DEPTH):
        vector = share * chunk + start + tl.arange(0, DEPTH)
        known = (row < rows)[:, None] & (vector < k)[None, :]
        x = tl.load(weighted + row[:, None] * k + vector[None, :], mask=known, other=0.0)
        there = (vector < k)[:, None] & (column < stride)[None, :]
        place = vector.to(tl.int64)[:, None] * stride + column[None, :]
        tile = tl.load(q + place, mask=there, other=0)  # [DEPTH, BLOCK]
        if PACKED:
            total = _product(x, _low(tile), total, WIDEN)
            total_high = _product(x, _high(tile), total_high, WIDEN)
        else:
            total = _product(x, tile, total, WIDEN)
    place = (share * rows + row)[:, None] * n + column[None, :]
    inside = (row < rows)[:, None]
    tl.store(partial + place, total, mask=inside & (column < stride)[None, :])
    if PACKED:
        high = inside & (column + stride < n)[None, :]
        tl.store(partial + place + stride, total_high, mask=high)
