"""Prints what one training step took at its peak and what was estimated, in bytes, as JSON.

`python -m tests.training.peak_of_a_step choice|text WORDS ROWS`: a process of its own, since a peak
is the process's.
"""

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

from t2local.models.fit.memory import held_bytes, return_freed_memory
from t2local.models.load.loader import describe
from t2local.svf import attach
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig, method_for
from t2local.training.policies import policy_for
from t2local.training.step_memory import StepWork, step_bytes
from tests.conftest import build_tiny, byte_tokenizer
from tests.training.conftest import accumulate

CHOICES = {"choices": ["blue", "red", "green"], "label": 1}


def main(kind: str, words: int, rows: int) -> None:
    loaded = describe(build_tiny("llama"), byte_tokenizer(), "tiny-llama")
    svf = attach(loaded.model)
    reward, columns = ("choice", CHOICES) if kind == "choice" else ("length", {})
    config = TrainConfig(
        rows_per_forward=rows, prompts_per_step=rows, samples_per_prompt=4, max_new_tokens=60
    )
    examples = [Example(f"{'a ' * words}{i}?", "3", columns) for i in range(rows)]
    if kind == "text":
        examples = examples[: rows // config.samples_per_prompt]
    method = method_for(loaded, svf, config)

    def step(part: list[Example], allowed: TrainConfig) -> None:
        hold = method.holding(method.start().requires_grad_())
        accumulate(policy_for(loaded, svf, part, reward, allowed), part, StepWork(1, hold))

    step(examples[:1], replace(config, rows_per_forward=1))  # what is loaded on first use
    gc.collect()
    return_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = held_bytes("cpu")
    step(examples, config)
    print(json.dumps([_peak_bytes() - before, step_bytes(loaded, examples, config)]))


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux names no peak")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
