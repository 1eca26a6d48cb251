"""How weights and bases may be held: the one list of each. Plain values, nothing heavy imported.

Estimates, the loader, the command line, the page, `doctor` and the training of adapters read these
tables when they are asked. A new way to hold weights is one entry in `QUANTIZATIONS`; a library
other than bitsandbytes is one branch in `load.quantized.quantization_config`. A new way to hold
bases is one entry in `BASES` and its tensor type in `svf.basis.DTYPES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

AUTO = "auto"  # leaves the choice to this machine's memory
NONE, INT8, NF4, GGUF = "none", "int8", "nf4", "gguf"
FP32, BF16, INT4 = "fp32", "bf16", "int4"

NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256  # numbers that share a scale, scales that share a scale
NF4_TABLES = (16 + 256) * 4 + 4  # of one matrix: both code tables and the scales' offset


def int8_bytes(out_features: int, in_features: int) -> int:
    """Bytes of a matrix `[m, n]` in LLM.int8 (arXiv 2208.07339): a float32 scale a row."""
    return out_features * in_features + 4 * out_features


def nf4_bytes(out_features: int, in_features: int) -> int:
    """Bytes of a matrix `[m, n]` in NF4 with double quantisation (QLoRA, arXiv 2305.14314,
    section 3)."""
    numbers = out_features * in_features
    blocks = ceil(numbers / NF4_BLOCK)
    return ceil(numbers / 2) + blocks + 4 * ceil(blocks / NF4_NESTED_BLOCK) + NF4_TABLES


def grouped_bytes(out_features: int, in_features: int) -> int:
    """Bytes of a matrix `[m, n]` of a GGUF, unpacked: at most 8 bits a number, with a float16 scale
    for 32 of them (`models.groups.codes`)."""
    return out_features * in_features + 2 * out_features * ceil(in_features / 32)


@dataclass(frozen=True)
class Quantization:
    """A way to hold a model's weights.

    `name`: in files, on the command line. `title`: in the page's list. `label`: in its tables.
    `bits` of a rounded number, 0 where numbers keep the type that the model computes in.
    `matrix_bytes`: of a matrix `[m, n]`; None as `bits` 0. `bitsandbytes`: the options by which
    transformers asks for it, and by which a checkpoint that is stored so is recognised; empty
    where that library is not needed. `automatic`: whether "auto" may choose it for any checkpoint.
    `of_gguf`: whether it is how a `.gguf` file holds its weights, and for those alone. `no_graphs`:
    why a decoding step cannot be captured as a CUDA graph, "" where it can.
    """

    name: str
    title: str
    label: str
    bits: int = 0
    matrix_bytes: Callable[[int, int], int] | None = None
    bitsandbytes: Mapping[str, Any] = field(default_factory=dict)
    automatic: bool = False
    of_gguf: bool = False
    no_graphs: str = ""

    def words(self, dtype: str) -> str:
        """ "4-bit weights", "bfloat16 weights" where numbers keep the model's type `dtype`."""
        if self.of_gguf:
            return "weights as in the GGUF file"
        return f"{self.bits}-bit weights" if self.bits else f"{dtype} weights"


QUANTIZATIONS: dict[str, Quantization] = {
    kind.name: kind
    for kind in (
        Quantization(NONE, "not rounded", "not quantised", automatic=True),
        Quantization(
            INT8, "8 bits", "8-bit weights", 8, int8_bytes, {"load_in_8bit": True},
            no_graphs="8-bit bitsandbytes layers look at their input on the CPU",
        ),
        Quantization(
            NF4, "4 bits", "4-bit weights (NF4)", 4, nf4_bytes,
            {"load_in_4bit": True, "bnb_4bit_quant_type": NF4}, automatic=True,
        ),
        Quantization(
            GGUF, "as in the GGUF file", "as in the GGUF file", 0, grouped_bytes, of_gguf=True,
            no_graphs="grouped weights are multiplied on the CPU",
        ),
    )
}  # fmt: skip


def kinds_for(is_gguf: bool) -> tuple[str, ...]:
    """The names of those in which a model can be held that is, or is not, a `.gguf` file's."""
    return tuple(name for name, kind in QUANTIZATIONS.items() if is_gguf or not kind.of_gguf)


def leanest() -> Quantization:
    """What the automatic choice takes where memory is short."""
    return [kind for kind in QUANTIZATIONS.values() if kind.automatic][-1]


@dataclass(frozen=True)
class BasisStorage:
    """A way to hold the bases. `bits`: of a vector's number. `row_bytes`: beside each vector, its
    float32 σ and, where it has one, its scale. `automatic`: may be chosen without being asked."""

    name: str
    title: str
    label: str
    bits: int
    row_bytes: int = 4
    automatic: bool = True

    def matrix_bytes(self, rank: int) -> int:
        """Bytes of the basis of one matrix."""
        return rank * ((rank * self.bits + 7) // 8 + self.row_bytes)


BASES: dict[str, BasisStorage] = {
    basis.name: basis
    for basis in (
        BasisStorage(FP32, "32 bits", "32-bit bases", 32),
        BasisStorage(BF16, "16 bits", "16-bit bases", 16),
        BasisStorage(INT8, "8 bits", "8-bit bases", 8, row_bytes=8),
        # A sixth of what an expert changes is lost to rounding: for cards that hold no more.
        BasisStorage(INT4, "4 bits, roughly", "4-bit bases", 4, row_bytes=8, automatic=False),
    )
}


def asked_for(table: Mapping[str, Any]) -> tuple[str, ...]:
    """What a person may write for an entry of `table`: "auto", or a name."""
    return (AUTO, *table)
