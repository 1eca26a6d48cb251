"""What is kept beside a small model so that answers come faster, and how large that is.

Rebuilt matrices of mixtures that stay (`adapt.adapter`) and their 8-bit copies on a CPU (`packed`).
The sizes are those of as many copies as there can be; a chat begins with none. Knows nothing of
mixtures. How fbgemm lays a packed matrix out was measured (PyTorch 2.13, AVX-512 VNNI).
"""

from math import ceil

from t2local.models.fit.anatomy import Anatomy
from t2local.models.packable import eight_bit_products

REBUILD_BYTES = 2 * 2**30  # a model up to this size may keep rebuilt copies beside it
REBUILT_COPIES = 2  # the classifier's, and the mixture used again and again
PACK_BYTES = 100 * 2**20  # a smaller model answers at once as it is
PACKED_COPIES = 3  # a quarter of the model's size each: the base model's and two mixtures'

BLOCK, PARTS = 512, 6  # inputs of a packed matrix in a block; the last is cut to sixths of one
ROWS = 48  # that are packed together
ROW_BYTES = 12  # a row's scale, zero point and sum


def rebuilt_bytes(parts: Anatomy, targets: str, number_bytes: int) -> int:
    """Bytes of all rebuilt copies of a float model whose numbers take `number_bytes` each."""
    numbers = sum(matrix.numbers for matrix in parts.adapted(targets))
    return REBUILT_COPIES * numbers * number_bytes


def packed_bytes(parts: Anatomy) -> int:
    """Bytes of all 8-bit copies of a float32 model on a CPU, 0 where there are none."""
    if not parts.packable or not eight_bit_products():
        return 0
    sizes = {True: 0, False: 0}  # adapted: in every copy; the head: once
    for matrix in parts.matrices:
        sizes[matrix.adapted] += product_bytes(matrix.out_features, matrix.in_features)
    return PACKED_COPIES * sizes[True] + sizes[False] + rotary_bytes(parts)


def product_bytes(m: int, n: int) -> int:
    """Bytes of one packed matrix `[m, n]`."""
    whole, rest = divmod(n, BLOCK)
    sixths = min(PARTS, rest * PARTS // BLOCK + 1) if rest else 0
    rows = ceil(m / ROWS) * ROWS
    return ceil(rows * (whole + sixths / PARTS) * BLOCK) + ROW_BYTES * m


def rotary_bytes(parts: Anatomy) -> int:
    """Bytes of the cosines and sines of every position, float32."""
    return 2 * 4 * parts.context_length * parts.head_width
