"""Products of grouped matrices, compiled for this processor when they are first used.

Threads take pieces of a product as
they come and wait for each other at its end, so that a slow core takes fewer.
A matrix is a line of numbers, `MATRIX` wide: see the constants below. Addresses are int64.
"""

from collections.abc import Callable

import numpy as np
from numba import carray, cfunc, config, int64, njit

from t2local.models.groups.compiling import compiled_folder
from t2local.models.groups.vectors import (
    LANES,
    OPENMP,
    bfloat16_group,
    bfloat16_row,
    dense_group,
    dot_block,
    dot_pairs,
    floats_at,
    give_way,
    integers_at,
    look,
    take,
)

# Columns of a matrix's line. `BITS`: 4 or 8 of codes; 16 where `CODES` are pairs of bfloat16
# (`vectors.dot_pairs`) and `GROUP` is 2. `BASIS`: address of its int8 vectors `[r, r]`, 0: no
# branch; `SIDE`: 1 at its input, 2 at its output. `DELTAS`: of its float32 `z − 1` `[B, r]`, 0: as
# the base; `APART`: bytes from one row's to the next, 0: one for all.
BITS, GROUP, CODES, SCALES, OFFSETS, ROWS, COLUMNS = range(7)
BASIS, SIDE, DELTAS, APART = range(7, 11)
MATRIX = 11
PIECE, VECTORS = 4, 32  # blocks of a matrix, vectors of a basis that a thread takes at once
REGIONS = 16  # of a product, one for each thread
PATIENT = 2000  # looks at a barrier before another thread may have the core
TILE = 64  # inputs that go through a block before the next: they stay in the cache

# No exception may leave one thread while the others wait for it: divisions give what numpy gives.
FAST = {"reassoc", "contract", "nsz", "arcp"}
config.CACHE_DIR = str(compiled_folder())
HOW = {"nogil": True, "cache": True, "fastmath": FAST, "error_model": "numpy"}
compiled = njit(**HOW)


def pairs_line(address: int, rows: int, columns: int) -> np.ndarray:
    """The line of a matrix of bfloat16 in pairs."""
    line = np.zeros(MATRIX, np.int64)
    line[: COLUMNS + 1] = (16, 2, address, 0, 0, rows, columns)
    return line


@compiled
def wait(barrier, everyone):
    """Go on when all threads are here. `barrier`: address of an int64 that only grows."""
    if everyone == 1:
        return
    before = take(barrier, 1)
    until, looks = (before // everyone + 1) * everyone, 0
    while look(barrier) < until:
        looks += 1
        if looks > PATIENT:
            give_way()


@compiled
def dots_of_pairs(weights, n, x, rows, out, o_stride):
    """`dots` of a block of bfloat16; `x` `[rows, n]` likewise."""
    t = 0
    while t < rows:
        at, to = x + t * n * 2, out + t * o_stride
        if rows - t >= 16:
            dot_pairs(16, weights, at, n, to, o_stride)
            t += 16
        elif rows - t >= 4:
            dot_pairs(4, weights, at, n, to, o_stride)
            t += 4
        else:
            dot_pairs(1, weights, at, n, to, o_stride)
            t += 1


@compiled
def dots(matrix, block, x, x_stride, sums, rows, out, o_stride):
    """One block of 16 outputs for `rows` inputs."""
    bits, group, offsets = matrix[BITS], matrix[GROUP], matrix[OFFSETS]
    n = matrix[COLUMNS]
    groups = n // group
    codes = matrix[CODES] + block * (n * LANES * bits // 8)
    scales = matrix[SCALES] + block * groups * 2 * LANES
    if offsets != 0:
        offsets += block * groups * 2 * LANES
    out += block * 4 * LANES
    if bits == 16:
        return dots_of_pairs(matrix[CODES] + block * n * 2 * LANES, n, sums, rows, out, o_stride)
    t = 0
    while t < rows:
        at, to, of = x + t * x_stride, out + t * o_stride, sums + t * groups * 4
        if rows - t >= 4:
            if bits == 4 and group == 32:
                dot_block(
                    4, 32, 1, 4, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            elif bits == 4:
                dot_block(
                    4, 16, 1, 4, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            elif group == 16:
                dot_block(
                    8, 16, 0, 4, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            elif offsets != 0:
                dot_block(
                    8, 32, 1, 4, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            else:
                dot_block(
                    8, 32, 0, 4, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            t += 4
        else:
            if bits == 4 and group == 32:
                dot_block(
                    4, 32, 1, 1, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            elif bits == 4:
                dot_block(
                    4, 16, 1, 1, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            elif group == 16:
                dot_block(
                    8, 16, 0, 1, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            elif offsets != 0:
                dot_block(
                    8, 32, 1, 1, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            else:
                dot_block(
                    8, 32, 0, 1, codes, scales, offsets, at, x_stride, of, groups, to, o_stride
                )
            t += 1


@compiled
def prepare(matrix, x, x_stride, rows, sums):
    """What `dots` needs beside `x`: sums `[rows, groups]` of each group's inputs for offsets.

    For a matrix of bfloat16 `sums` are the inputs themselves, rounded.
    """
    if matrix[BITS] == 16:
        for t in range(rows):
            bfloat16_row(x + t * x_stride, matrix[COLUMNS], sums + t * matrix[COLUMNS] * 2)
        return
    if matrix[OFFSETS] == 0:
        return
    group = matrix[GROUP]
    groups = matrix[COLUMNS] // group
    for t in range(rows):
        values = carray(floats_at(x + t * x_stride), groups * group)
        found = carray(floats_at(sums + t * groups * 4), groups)
        for g in range(groups):
            total = np.float32(0)
            for k in range(g * group, (g + 1) * group):
                total += values[k]
            found[g] = total


@compiled
def next_piece(counters, thread, threads, items, size):
    """The first of `size` of `items` that nobody has taken; `items` where there is none.

    Each thread has a region, since memory is read fastest in its order, and helps the others when
    it is done with its own. `counters`: address of `REGIONS` int64, 0 at first.
    """
    regions = min(threads, REGIONS)
    for other in range(regions):
        region = (thread + other) % regions
        first, last = items * region // regions, items * (region + 1) // regions
        first += take(counters + 8 * region, size)
        if first < last:
            return first, min(first + size, last)
    return items, items


@compiled
def pieces(matrix, x, x_stride, sums, rows, out, o_stride, counters, thread, threads):
    """Blocks of `W x`, as many as the other threads leave."""
    blocks = (matrix[ROWS] + LANES - 1) // LANES
    while True:
        first, last = next_piece(counters, thread, threads, blocks, PIECE)
        if first == blocks:
            return
        for block in range(first, last):
            dots(matrix, block, x, x_stride, sums, rows, out, o_stride)


@compiled
def product(matrix, x, x_stride, sums, rows, out, o_stride, counters, thread, threads):
    """One thread's share of `out = W x` for `rows` inputs, `TILE` of them at a time.

    `counters`: zeros, `REGIONS` for each tile; `sums`: ready-made.
    """
    groups = matrix[COLUMNS] // matrix[GROUP]
    for number in range((rows + TILE - 1) // TILE):
        t = number * TILE
        pieces(
            matrix, x + t * x_stride, x_stride, sums + t * groups * 4, min(TILE, rows - t),
            out + t * o_stride, o_stride, counters + 8 * REGIONS * number, thread, threads,
        )  # fmt: skip


# --- Started by a team of threads: with the arguments as int64, one after the other. Compiled when
# this is read, not in the midst of an answer.

ARGUMENTS = 8
started = njit("void(int64[::1], int64, int64)", **HOW)


@started
def dense_of(given, thread, threads):
    """Some blocks of a matrix as float32 `[rows, n]`: line, first, last, where to, counters.

    Product and sum are rounded apart, as everywhere: it must not depend on the processor.
    """
    matrix = carray(integers_at(given[0]), MATRIX)
    first, last, counters = given[1], given[2], given[4]
    n, group, bits = matrix[COLUMNS], matrix[GROUP], matrix[BITS]
    while True:
        piece, end = next_piece(counters, thread, threads, last - first, PIECE)
        if piece == last - first:
            return
        for block in range(first + piece, first + end):
            out = given[3] + (block - first) * LANES * n * 4
            for g in range(n // group):
                place = block * (n // group) + g
                offsets = matrix[OFFSETS] + place * 2 * LANES if matrix[OFFSETS] != 0 else 0
                codes = matrix[CODES] + place * (group * LANES * bits // 8)
                scales = matrix[SCALES] + place * 2 * LANES
                to = out + g * group * 4
                if bits == 4 and group == 32:
                    dense_group(4, 32, 1, codes, scales, offsets, to, 4 * n)
                elif bits == 4:
                    dense_group(4, 16, 1, codes, scales, offsets, to, 4 * n)
                elif group == 16:
                    dense_group(8, 16, 0, codes, scales, offsets, to, 4 * n)
                elif offsets != 0:
                    dense_group(8, 32, 1, codes, scales, offsets, to, 4 * n)
                else:
                    dense_group(8, 32, 0, codes, scales, offsets, to, 4 * n)


@started
def bfloat16_of(given, thread, threads):
    """Some blocks of a matrix, transposed, as bfloat16 `[n, rows]`: as `dense_of`."""
    matrix = carray(integers_at(given[0]), MATRIX)
    first, last, counters = given[1], given[2], given[4]
    n, group, bits = matrix[COLUMNS], matrix[GROUP], matrix[BITS]
    apart = 2 * LANES * (last - first)
    while True:
        piece, end = next_piece(counters, thread, threads, last - first, PIECE)
        if piece == last - first:
            return
        for block in range(first + piece, first + end):
            out = given[3] + (block - first) * LANES * 2
            for g in range(n // group):
                place = block * (n // group) + g
                offsets = matrix[OFFSETS] + place * 2 * LANES if matrix[OFFSETS] != 0 else 0
                codes = matrix[CODES] + place * (group * LANES * bits // 8)
                scales = matrix[SCALES] + place * 2 * LANES
                to = out + g * group * apart
                if bits == 4 and group == 32:
                    bfloat16_group(4, 32, 1, codes, scales, offsets, to, apart)
                elif bits == 4:
                    bfloat16_group(4, 16, 1, codes, scales, offsets, to, apart)
                elif group == 16:
                    bfloat16_group(8, 16, 0, codes, scales, offsets, to, apart)
                elif offsets != 0:
                    bfloat16_group(8, 32, 1, codes, scales, offsets, to, apart)
                else:
                    bfloat16_group(8, 32, 0, codes, scales, offsets, to, apart)


@started
def product_of(given, thread, threads):
    """`product`, of its first eight arguments, the matrix by its address."""
    matrix = carray(integers_at(given[0]), MATRIX)
    x, x_stride, sums, rows = given[1], given[2], given[3], given[4]
    out, o_stride, counters = given[5], given[6], given[7]
    product(matrix, x, x_stride, sums, rows, out, o_stride, counters, thread, threads)


TEAM: dict[Callable, int] = {}  # a function and where the one lies that calls it in each thread

if OPENMP:
    from t2local.models.groups.vectors import team_size, team_thread

    @cfunc("void(int64)", cache=True)
    def product_in_team(address):
        """`product_of` by each thread of a team of OpenMP's."""
        given = carray(integers_at(address), ARGUMENTS)
        product_of(given, int64(team_thread()), int64(team_size()))

    @cfunc("void(int64)", cache=True)
    def dense_in_team(address):
        """`dense_of` by each thread of a team of OpenMP's."""
        given = carray(integers_at(address), ARGUMENTS)
        dense_of(given, int64(team_thread()), int64(team_size()))

    @cfunc("void(int64)", cache=True)
    def bfloat16_in_team(address):
        """`bfloat16_of` by each thread of a team of OpenMP's."""
        given = carray(integers_at(address), ARGUMENTS)
        bfloat16_of(given, int64(team_thread()), int64(team_size()))

    TEAM |= {
        product_of: product_in_team.address,
        dense_of: dense_in_team.address,
        bfloat16_of: bfloat16_in_team.address,
    }
