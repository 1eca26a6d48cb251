"""`bench --shape`: every row of the table runs on a tiny shape; a big one says what is missing."""

import argparse
import math

import pytest
import torch

from t2local.bench import gpu, shape
from t2local.bench.shape import GOALS, NOT_MEASURED, run_shape
from t2local.errors import T2LocalError
from t2local.models.load.quantized import nf4_problem


def arguments(shape: str, json: bool = True, vram: float | None = None) -> argparse.Namespace:
    return argparse.Namespace(shape=shape, vram=vram, quick=True, json=json)


@pytest.fixture
def without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_tiny_shape_measures_what_the_table_asks_of_a_big_one(without_cuda, capsys, monkeypatch):
    if problem := nf4_problem():
        pytest.skip(f"no NF4 here: {problem}")
    monkeypatch.setattr(shape, "search_generation", small_search)
    reports = []
    run_shape(arguments("tiny"), reports.append)
    (found,) = reports
    assert found.keys() == {"command", "commit", "machine", "model", "rows", "ratios"}
    assert all(math.isfinite(row["value"]) and row["value"] > 0 for row in found["rows"])
    small = {"top-8": "top-256", "batch 8": "batch 32", "prefill 64": "prefill 2048"}
    small |= {"14 matrices": "224 matrices", "2 sequences of 64": "8 sequences of 512"}
    labels = {f"{row['name']}: {row['variant']}" for row in found["rows"]}
    for less, full in small.items():
        labels = {label.replace(less, full) for label in labels}
    assert labels >= {f"{goal.name}: {goal.variant}" for goal in GOALS}
    assert "PyTorch products" in capsys.readouterr().err


def small_search(*_effort) -> gpu.Measured:
    """The search has tests of its own and takes a minute in 4 bits on a CPU."""
    return gpu.Measured([], {"search_32_tokens_batched_over_one_by_one": 1.0})


def test_without_a_gpu_each_row_reads_not_measured_with_one_command(without_cuda, capsys):
    run_shape(arguments("llama3-8b", json=False, vram=12), None)
    output = capsys.readouterr()
    assert output.out.count(NOT_MEASURED) == len(GOALS) == 13
    assert "python -m t2local bench --shape llama3-8b --vram 12" in output.err
    assert "pass" not in output.out
    reports = []
    run_shape(arguments("llama3-8b"), reports.append)
    assert {row["value"] for row in reports[0]["rows"]} == {None}


def test_more_memory_than_the_card_has_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card = argparse.Namespace(total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: card)
    with pytest.raises(T2LocalError, match=r"--vram is 12 GiB and this GPU has 8\.0"):
        shape._cap(12)


def test_the_decomposition_row_of_the_table_is_the_one_that_is_measured():
    """Its name says how many matrices are really decomposed: four shapes in Llama-3-8B."""
    from t2local.bench.shape import SHAPES

    size = SHAPES["llama3-8b"]
    small = size.num_key_value_heads * size.head_dim
    whole, middle = size.hidden_size, size.intermediate_size
    shapes = {(whole, whole), (small, whole), (middle, whole), (whole, middle)}
    names = [goal.variant for goal in GOALS if goal.name == "decomposition"]
    number = 7 * size.num_hidden_layers
    assert names == [f"{number} matrices, from {len(shapes)} decomposed, one of each shape"]
