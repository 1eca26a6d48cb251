"""The bars of `bench`, and its readable table: each value, its bar, and whether it is reached.

The bars are those of the embedded model on a two-core CPU. Pure, but for printing.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2local.evaluation.bench_rows import Row

COMPARE = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Bar:
    """`Bar("≥", 0.65)`."""

    sign: str
    limit: float

    def reached(self, value: float) -> bool:
        return COMPARE[self.sign](value, self.limit)

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"


ROW_BARS = {
    ("z = 1", "float"): Bar("≤", 0),
    ("z = 1", "nf4"): Bar("≤", 0),
    ("branch", "against float64"): Bar("≤", 1e-5),
    ("batch of different z", "against one at a time"): Bar("≤", 1e-4),
    ("decomposition", "fresh"): Bar("≤", 15),
    ("decomposition", "cached"): Bar("≤", 2),
    ("change of z", "z given"): Bar("≤", 5),
    ("next-token bars", "slider moved"): Bar("≤", 0.5),
    ("second start", "process to ready model"): Bar("≤", 20),
    ("training step", "peak memory"): Bar("<", 4),
}
RATIO_BARS = {
    "throughput_z_per_row_over_shared": Bar("≥", 0.95),
    "rebuild_over_change_of_z": Bar("≥", 300),
    "decode_mlp_over_base": Bar("≥", 0.65),
    "decode_all_over_base": Bar("≥", 0.47),
    "decode_rebuilt_over_base": Bar("≥", 0.95),
    "decode_packed_over_generate": Bar("≥", 2.5),
    "decode_packed_adapted_over_packed": Bar("≥", 0.9),
    "search_one_token_batched_over_one_by_one": Bar("≥", 1.2),
    "search_one_token_batched_over_rebuilding": Bar("≥", 5),
    "search_32_tokens_batched_over_one_by_one": Bar("≥", 3),
    "search_32_tokens_batched_over_rebuilding": Bar("≥", 6),
    "train_step_over_trl": Bar("≤", 1.0),
    "train_memory_over_trl": Bar("≤", 0.9),
    "train_overhead": Bar("≤", 0.05),
    "chat_wait_over_micro_batch": Bar("≤", 1.0),
    "first_pass_prompt_over_answer": Bar("≤", 0.10),
    "first_pass_classifier_over_answer": Bar("≤", 0.10),
}


def print_table(rows: Sequence[Row], ratios: Mapping[str, float]) -> None:
    """Rows, then ratios; the bar and its mark at the end of those that have one."""
    for row in rows:
        print(_line(f"{row.name}: {row.variant}", row.value, row.unit, _bar_of(row)))
    print()
    for name, value in ratios.items():
        print(_line(name.replace("_", " "), value, "", RATIO_BARS.get(name)))


def _bar_of(row: Row) -> Bar | None:
    return ROW_BARS.get((row.name, row.variant))


def _line(label: str, value: float, unit: str, bar: Bar | None) -> str:
    mark = "" if bar is None else f"{bar!s:8} {'pass' if bar.reached(value) else 'BELOW'}"
    return f"{label:50} {value:>10.4g} {unit:12} {mark}".rstrip()
