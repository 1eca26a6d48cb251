"""Every section on a two-layer random model and a few rows: the rows it gives, and its memory."""

from dataclasses import replace

import pytest
import torch

from t2local.experiments import laboratory, sections
from t2local.experiments.laboratory import ARITHMETIC, TRAINED, Book, Laboratory, MeasuredSet
from t2local.experts import Expert
from t2local.tasks.datasets import Dataset
from t2local.tasks.rows import Example

WORDS = ("red", "green", "blue", "grey")


def row(i: int) -> Example:
    choices = [f"{word} {(i * 7 + k * 31) % 97}" for k, word in enumerate(WORDS)]
    return Example(f"Colour {i * i}?", choices[i % 4], {"choices": choices, "label": i % 4})


ROWS = tuple(map(row, range(24)))
STEPS = 4


@pytest.fixture
def sets():
    return {TRAINED: MeasuredSet(TRAINED, ROWS[:8]), ARITHMETIC: MeasuredSet(ARITHMETIC, ROWS[8:])}


@pytest.fixture
def lab(tiny_loaded, tmp_path, monkeypatch):
    source = Dataset("colours", ROWS[:12], ROWS[12:18], ROWS[18:])
    for module in (sections, laboratory):
        monkeypatch.setattr(module, "dataset", lambda name: source)
    loaded = tiny_loaded("llama")
    said = []
    made = Laboratory(loaded, Book(tmp_path / "book", (loaded.name,)), said.append)
    made.said = said
    return made


def random_expert(lab, name, seed):
    generator = torch.Generator().manual_seed(seed)
    with lab.attached() as svf:
        z = {n: 1 + 1.5 * torch.randn(r, generator=generator) for n, r in svf.ranks.items()}
        return Expert(name, lab.loaded.name, svf.fingerprint(z), z)


def test_methods_are_compared_on_the_same_rows_and_remembered(lab, sets):
    rows = sections.methods(lab, sets, STEPS)
    assert {row["variant"] for row in rows} == {
        "SVF, policy gradient", "LoRA, policy gradient", "SVF, next-token", "LoRA, next-token",
        "SVF − LoRA, policy gradient",
    }  # fmt: skip
    assert {(row["set"], row["n"]) for row in rows} == {(TRAINED, 8), (ARITHMETIC, 16)}
    lab.said.clear()
    assert sections.methods(lab, sets, STEPS) == rows
    assert not lab.said, "nothing is trained or scored again"


def test_targets_train_fewer_numbers(lab, sets):
    rows = sections.targets(lab, sets, STEPS)
    numbers = {row["variant"]: row["numbers"] for row in rows}
    assert numbers["SVF, mlp"] + numbers["SVF, attention"] == numbers["SVF, all"]


def test_few_rows_are_measured_on_themselves_and_on_held_out_ones(lab, sets, monkeypatch):
    monkeypatch.setattr(sections, "SIZES", (8, 5))
    rows = sections.overfitting(lab, sets, STEPS)
    assert {(r["rows"], r["method"], r["set"], r["n"]) for r in rows} == {
        (size, method, name, n)
        for size in (8, 5)
        for method in ("SVF", "LoRA")
        for name, n in ((f"its {size} training rows", size), (TRAINED, 8))
    }


def test_the_corner_of_a_composition_without_experts_is_the_base_model(lab, sets):
    experts = {n: random_expert(lab, n, i) for i, n in enumerate(("reasoning", "math"))}
    rows = sections.composition(lab, sets, experts)
    assert len(rows) == 2 * len(sections.GRID) ** 2
    corner = [r for r in rows if r["reasoning"] == r["math"] == 0]
    assert [r["difference"] for r in corner] == [0, 0]
    assert {r["adapted"] for r in rows} != {r["base"] for r in rows}


def test_a_transferred_expert_meets_a_model_of_other_weights(lab, sets):
    before = {n: p.clone() for n, p in lab.loaded.model.named_parameters()}
    other = laboratory.fine_tuned(lab, STEPS)
    weights = dict(other.loaded.model.named_parameters())
    assert any(not torch.equal(weights[name], p) for name, p in before.items())
    assert all(torch.equal(p, before[n]) for n, p in lab.loaded.model.named_parameters())
    rows = sections.transfer(other, sets, random_expert(lab, "reasoning", 0))
    assert [row["variant"] for row in rows] == ["in order", "shuffled"]


def test_a_set_changes_its_key_with_its_rows(sets):
    one = sets[TRAINED]
    assert one.key == MeasuredSet("another name", ROWS[:8]).key
    assert one.key != MeasuredSet(TRAINED, (replace(ROWS[0], prompt="?"), *ROWS[1:8])).key
