"""Every row of the table runs on a tiny shape; a big one says what is missing."""

import argparse
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from t2local.bench import shape
from t2local.bench.shape import GOALS, SHAPES, goals_of, measuring_shape, random_shape
from t2local.bench.speed import twin
from t2local.bench.table import Measured, Row
from t2local.cli import bench as bench_command
from t2local.errors import T2LocalError
from t2local.models.load.quantized import nf4_problem, nf4_states


@pytest.fixture
def without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_tiny_shape_measures_what_the_table_asks_of_a_big_one(without_cuda, monkeypatch):
    if problem := nf4_problem():
        pytest.skip(f"no NF4 here: {problem}")
    monkeypatch.setattr(shape, "search_generation", small_search)
    said, rows = measured("tiny", None)
    assert all(math.isfinite(row.value) for row in rows)
    assert {row.unit for row in rows if row.value <= 0} <= {"nats"}
    small = {"top-8": "top-256", "batch 8": "batch 32", "prefill 64": "prefill 2048"}
    small |= {"14 matrices": "224 matrices", "2 sequences of 64": "8 sequences of 512"}
    labels = {f"{row.name}: {row.variant}" for row in rows}
    for less, full in small.items():
        labels = {label.replace(less, full) for label in labels}
    assert labels >= {f"{goal.name}: {goal.variant}" for goal in GOALS}
    assert any("PyTorch products" in line for line in said)
    ran = "ran as one kernel at a time: the model is on cpu"
    assert [line for line in said if ran in line] == [f"steps of {n} rows {ran}" for n in (1, 8)]


def measured(size: str, vram_gib: float | None) -> tuple[list[str], list[Row]]:
    """What is said, and the rows of all parts."""
    events = list(measuring_shape(size, vram_gib, quick=True))
    rows = [row for event in events if isinstance(event, Measured) for row in event.rows]
    return [event for event in events if isinstance(event, str)], rows


def small_search(*_effort) -> Measured:
    """The search has tests of its own and takes a minute in 4 bits on a CPU."""
    return Measured([], {"search_32_tokens_batched_over_one_by_one": 1.0})


def test_without_a_gpu_no_row_has_a_value_and_one_command_fills_them(without_cuda):
    said, rows = measured("llama3-8b", 12)
    assert [(row.name, row.variant) for row in rows] == [(g.name, g.variant) for g in GOALS]
    assert {row.value for row in rows} == {None}
    assert "python -m t2local bench --shape llama3-8b --vram 12" in "".join(said)


def test_a_part_that_runs_out_of_memory_is_said_and_left_out(without_cuda, monkeypatch):
    if problem := nf4_problem():
        pytest.skip(f"no NF4 here: {problem}")

    def too_large(*_arguments) -> Measured:
        raise torch.OutOfMemoryError

    parts = ("decoding", "beside_generate", "batched", "change_of_z", "prefill", "decomposition")
    for part in parts:
        monkeypatch.setattr(shape.gpu, part, too_large)
    monkeypatch.setattr(shape, "_training_step", too_large)
    monkeypatch.setattr(shape, "search_generation", too_large)
    said, rows = measured("tiny", None)
    assert [row.name for row in rows] == ["resident"]
    assert "prefill: not measured: out of memory" in said
    assert said.index("measuring a training step") == len(said) - 2


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's script")
def test_the_script_for_a_gpu_runs_the_gpu_tests_and_the_shape_and_tells_what_failed(tmp_path):
    """Python is one that writes down what it is asked for, and fails the tests."""
    python, asked = tmp_path / "python", tmp_path / "asked"
    python.write_text(f'#!/bin/sh\necho "$*" >>{asked}\n[ "$2" != pytest ]\n')
    python.chmod(0o755)
    command = ["sh", Path(shape.__file__).with_name("gpu_session.sh"), tmp_path / "new", "tiny"]
    done = subprocess.run(command, env={**os.environ, "PYTHON": str(python)}, capture_output=True)
    assert done.returncode == 1, done.stderr
    files = {path.name for path in (tmp_path / "new").iterdir()}
    assert files == {"card.txt", "tests.txt", "log.txt"}
    _card, tests, bench = asked.read_text().splitlines()
    assert tests.startswith("-m pytest -q -m gpu tests/")
    assert "tests/svf/test_kernels.py" in tests
    parser = argparse.ArgumentParser()
    bench_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(bench.split()[2:])
    assert (options.shape, options.out) == ("tiny", tmp_path / "new" / "figures.jsonl")


def test_a_big_shape_has_goals_and_a_tiny_one_none():
    row = Row(GOALS[0].name, GOALS[0].variant, 0.8, GOALS[0].unit)
    assert goals_of("llama3-8b", row) == [GOALS[0]]
    assert goals_of("tiny", row) == []


def test_more_memory_than_the_card_has_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card = argparse.Namespace(total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: card)
    with pytest.raises(T2LocalError, match=r"--vram is 12 GiB and this GPU has 8\.0"):
        shape._cap(12)


def test_the_decomposition_row_of_the_table_is_the_one_that_is_measured():
    """Its name says how many matrices are really decomposed: four shapes in Llama-3-8B."""
    size = SHAPES["llama3-8b"]
    small = size.num_key_value_heads * size.head_dim
    whole, middle = size.hidden_size, size.intermediate_size
    shapes = {(whole, whole), (small, whole), (middle, whole), (whole, middle)}
    names = [goal.variant for goal in GOALS if goal.name == "decomposition"]
    number = 7 * size.num_hidden_layers
    assert names == [f"{number} matrices, from {len(shapes)} decomposed, one of each shape"]


# --- Random models of a real shape: the size is the real one's, the weights are 4-bit ones.


CPU = torch.device("cpu")


def test_the_8b_shape_has_the_parameters_of_llama_3_8b():
    with torch.device("meta"):
        model = LlamaForCausalLM(SHAPES["llama3-8b"])
    assert sum(p.numel() for p in model.parameters()) == 8_030_261_248


@pytest.fixture(scope="module")
def loaded():
    if problem := nf4_problem():
        pytest.skip(f"no NF4 here: {problem}")
    return random_shape("tiny", CPU, torch.float32)


def test_every_linear_layer_of_the_blocks_is_4_bit_and_the_rest_is_not(loaded):
    config = SHAPES["tiny"]
    kinds = {name: type(m).__name__ for name, m in loaded.model.named_modules() if "_proj" in name}
    assert len(kinds) == 7 * config.num_hidden_layers
    assert set(kinds.values()) == {"Linear4bit"}
    assert loaded.model.lm_head.weight.dtype == torch.float32
    assert loaded.quantization == "nf4"


def test_a_twin_shares_the_scales_of_4_bit_layers_too(loaded):
    pairs = zip(nf4_states(loaded.model), nf4_states(twin(loaded.model)), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)
    assert len(nf4_states(loaded.model)) == 7 * SHAPES["tiny"].num_hidden_layers


def test_it_reads_and_writes_like_any_model(loaded):
    ids = torch.tensor([[5, 80, 81, 82]])
    logits = loaded.model(ids).logits
    assert logits.shape == (1, 4, SHAPES["tiny"].vocab_size)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.01
    cached = loaded.model(ids[:, :3], use_cache=True).past_key_values
    step = loaded.model(ids[:, 3:], past_key_values=cached).logits
    assert torch.allclose(step[:, 0], logits[:, 3], atol=1e-4)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("Hello")) == "Hello"
