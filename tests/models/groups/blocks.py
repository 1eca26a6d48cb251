"""Random bytes of every GGUF type that is run from its own bits."""

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

SCALES_AT = {  # where a block's float16 numbers stand
    Kind.Q4_0: (0,), Kind.Q4_1: (0, 2), Kind.Q5_0: (0,), Kind.Q5_1: (0, 2), Kind.Q8_0: (0,),
    Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,),
}  # fmt: skip


def random_blocks(kind: Kind, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A matrix `[rows, bytes]` of any codes, with scales between 0.001 and 0.011."""
    rng = np.random.default_rng(seed)
    numbers, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // numbers, block_bytes), dtype=np.uint8)
    for place in SCALES_AT[kind]:
        scales = (rng.random((len(blocks), 1)) * 0.01 + 0.001).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)
