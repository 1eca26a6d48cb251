"""What a benchmark gives: named values beside their bars, and times that noise does not distort.

What is to be compared is repeated in turn, within one run, and compared round by round: a
neighbour that takes a core for a while then slows both sides. The bars are those of the embedded
model on a two-core CPU.
"""

import operator
import signal
import statistics
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any

import torch

from t2local.errors import T2LocalError
from t2local.models.storage import NF4
from t2local.svf import SVFModel, Z


@dataclass(frozen=True)
class Row:
    """One value: `decode`, `all matrices`, 11.2, `tokens/s`; None where it was not measured."""

    name: str
    variant: str
    value: float | None
    unit: str


@dataclass(frozen=True)
class Measured:
    """What a part of a benchmark gives."""

    rows: list[Row]
    ratios: dict[str, float]


Part = Callable[[], Measured | Generator[Any, None, None]]  # a generator's own events are passed on


def in_turn(parts: Mapping[str, Part], limit_s: float | None = None) -> Generator[Any, None, None]:
    """Say and do each part by its name; what it gives comes at once.

    A part that fails, or takes longer than `limit_s`, says why, and those after it are done all the
    same.
    """
    for name, part in parts.items():
        yield f"measuring {name}"
        alarm = _Alarm(limit_s)
        try:
            with alarm:
                found = part()
            if isinstance(found, Measured):
                yield found
                continue
            while True:
                with alarm:
                    event = next(found, None)
                if event is None:
                    break
                yield event
        except (Exception, _TooLong) as error:
            yield f"{name}: not measured: {_why(error)}"


class _TooLong(BaseException):
    """No `Exception`: what is measured may catch those."""


class _Alarm:
    """Ends what runs inside by `_TooLong` when it has taken `limit_s` in all; entered repeatedly.

    Never on Windows and beside the main thread, where Python has no alarm.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s, self.left_s = limit_s, limit_s

    def __enter__(self) -> None:
        here = threading.current_thread() is threading.main_thread()
        self._set = self.left_s is not None and here and hasattr(signal, "SIGALRM")
        if self._set:
            self._before = signal.signal(signal.SIGALRM, self._ring)
            self._others_s, self._interval_s = signal.setitimer(
                signal.ITIMER_REAL, max(self.left_s, 1e-3)
            )
            self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        if not self._set:
            return
        taken_s = time.monotonic() - self._began
        self.left_s -= taken_s
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        if self._others_s:
            rest_s = max(self._others_s - taken_s, 1e-3)
            signal.setitimer(signal.ITIMER_REAL, rest_s, self._interval_s)

    def _ring(self, *_: object) -> None:
        raise _TooLong(f"longer than {self.limit_s:g} s")


def _why(error: BaseException) -> str:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out of memory"
    if isinstance(error, BrokenExecutor):
        return "its process ended, most likely for want of memory"
    told = isinstance(error, (T2LocalError, _TooLong))
    return str(error) if told else f"{type(error).__name__}: {error}"


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes, the GPU's queue included."""
    _wait()
    started = time.perf_counter()
    action()
    _wait()
    return time.perf_counter() - started


def interleaved(
    actions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every action in each round; the order turns from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warm_up + rounds):
        names = list(actions)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken = timed(actions[name])
            if turn >= warm_up:
                seconds[name].append(taken)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over rounds of `above / below`."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def random_z(svf: SVFModel, *lead: int, rms: float = 0.03, seed: int = 0) -> Z:
    """A random expert: one row `[*lead, r]` a matrix, around 1."""
    generator = torch.Generator().manual_seed(seed)
    devices = {name: sigma.device for name, sigma in svf.singular_values.items()}
    return {
        name: (1 + rms * torch.randn(*lead, rank, generator=generator)).to(devices[name])
        for name, rank in svf.ranks.items()
    }


def device_name(device: str) -> str:
    """In words, of a torch device such as `cpu` or `cuda:0`."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
    ("z = 1", NF4): Bar("≤", 0),
    ("branch", "against float64"): Bar("≤", 1e-5),
    ("batch of different z", "against one at a time"): Bar("≤", 1e-4),
    ("decomposition", "fresh"): Bar("≤", 15),
    ("decomposition", "cached"): Bar("≤", 2),
    ("change of z", "z given"): Bar("≤", 5),
    ("next-token bars", "slider moved"): Bar("≤", 0.5),
    ("decode from the file's bits", "logits' error"): Bar("≤", 0.02),
    ("decode from the file's bits", "lost of that change"): Bar("≤", 0.06),
    ("second start", "process to ready model"): Bar("≤", 20),
    ("training step", "peak memory"): Bar("<", 4),
    ("program in the sandbox", "run to its end"): Bar("≤", 60),
    ("program in the sandbox", "one test"): Bar("≤", 60),
}
RATIO_BARS = {
    "throughput_z_per_row_over_shared": Bar("≥", 0.95),
    "rebuild_over_change_of_z": Bar("≥", 300),
    "decode_mlp_over_base": Bar("≥", 0.65),
    "decode_all_over_base": Bar("≥", 0.47),
    "decode_rebuilt_over_base": Bar("≥", 0.95),
    "decode_8_bits_over_generate": Bar("≥", 2.5),
    "compiled_base_over_llama_cpp": Bar("≥", 0.8),
    "compiled_expert_over_base": Bar("≥", 0.9),
    "compiled_sliders_over_base": Bar("≥", 0.55),
    "search_one_token_batched_over_one_by_one": Bar("≥", 1.2),
    "search_one_token_batched_over_rebuilding": Bar("≥", 5),
    "search_32_tokens_batched_over_one_by_one": Bar("≥", 3),
    "search_32_tokens_batched_over_rebuilding": Bar("≥", 6),
    "train_step_over_trl": Bar("≤", 1.0),
    "train_memory_over_trl": Bar("≤", 0.9),
    "train_overhead": Bar("≤", 0.05),
    "chat_wait_over_micro_batch": Bar("≤", 1.0),
    "read_jsonl_over_pandas": Bar("≤", 1.5),
    "read_csv_over_pandas": Bar("≤", 1.5),
    "read_xlsx_over_pandas": Bar("≤", 1.5),
    "first_pass_prompt_over_answer": Bar("≤", 0.10),
    "first_pass_classifier_over_answer": Bar("≤", 0.10),
    "first_token_similarity_over_none": Bar("≤", 1.1),
    "first_token_twenty_experts_over_two": Bar("≤", 1.2),
    **{
        f"habit_{name}_{what}": bar
        for name in ("short", "polite", "in_JSON", "in_German")
        for what, bar in (
            ("preferred", Bar("≥", 0.8)),
            ("preferred_low_end", Bar("≥", 0.5)),
            ("written", Bar("≥", 0.8)),
            ("train_s", Bar("≤", 300)),
        )
    },
    "votes_interval_holds": Bar("≥", 0.93),
    "votes_even_pair_clear": Bar("≤", 0.05),
    "similarity_recall_of_a_new_expert": Bar("≥", 0.9),
    "similarity_taken_from_others": Bar("≤", 0.03),
    "similarity_minus_classifier_low_end": Bar("≥", -0.03),  # not worse, within three points
}
