"""Every section on a two-layer random model and a few rows: the rows it gives, and its memory."""

from dataclasses import replace

import pytest
import torch

from t2local.adapt.cem import CEMConfig
from t2local.adapt.few_shot import draw_shots
from t2local.evaluation.questions import LIKELIHOOD, Question, QuestionSet
from t2local.evaluation.variants import Subject
from t2local.experiments import laboratory, sections
from t2local.experiments.laboratory import ARITHMETIC, TRAINED, Book, Laboratory, MeasuredSet
from t2local.experiments.sections import Unseen, on_unseen_sets
from t2local.experts import Expert
from t2local.experts.expert import CLASSIFIER, SKILL
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


# --- Strategies on a set that no expert was trained for, with random experts.


SMALL = {"population": 4, "generations": 1, "shots": 3}


def choices(first, last):
    columns = {"choices": ["red", "green", "blue"]}
    return [
        Example(f"Which colour has thing {i}?", "", columns | {"label": i % 3})
        for i in range(first, last)
    ]


@pytest.fixture
def rows(tiny_loaded, tmp_path, monkeypatch):
    asked = QuestionSet(
        "colours", "math", tuple(Question(e, e.prompt) for e in choices(0, 12)), LIKELIHOOD
    )
    monkeypatch.setattr(sections, "question_set", lambda name, limit: asked)
    shots = Unseen("colours", lambda asked: choices(20, 40), "choice")
    monkeypatch.setitem(sections.UNSEEN, "colours", shots)
    small = {name: how | SMALL for name, how in sections.WHERE_CHOSEN.items()}
    monkeypatch.setattr(sections, "EVERYWHERE", {"few-shot": SMALL})
    monkeypatch.setattr(sections, "WHERE_CHOSEN", small)
    loaded = tiny_loaded("llama")
    lab = Laboratory(loaded, Book(tmp_path, ("test",)), lambda event: None)

    def subject():
        experts = {}
        for seed, name in enumerate(("math", "code", "reader")):
            generator = torch.Generator().manual_seed(seed)
            z = {n: 1 + torch.randn(r, generator=generator) for n, r in lab.svf.ranks.items()}
            reads = name == "reader"
            experts[name] = Expert(
                name, loaded.name, lab.svf.fingerprint(z), z,
                kind=CLASSIFIER if reads else SKILL, labels=("math", "code") if reads else (),
            )  # fmt: skip
        return Subject(loaded, lab.svf, experts)

    return {r["strategy"]: r for r in on_unseen_sets(lab, subject, ("colours",), 12, 8, None)}


def test_every_strategy_answers_the_same_prompts(rows):
    assert {row["n"] for row in rows.values()} == {12}
    assert {"base", "math", "code", "prompt", "classifier", "few-shot", "oracle"} <= set(rows)
    assert set(sections.WHERE_CHOSEN) <= set(rows)
    best = max(rows[name]["correct"] for name in ("base", "math", "code"))
    assert rows["oracle"]["correct"] >= best


def test_a_mixture_is_compared_with_the_single_expert_that_has_most_right(rows):
    best = max(("math", "code"), key=lambda name: rows[name]["correct"])
    for name in ("few-shot", *sections.WHERE_CHOSEN):
        mean, low, high = rows[name]["over_best_single"]
        assert rows[name]["best_single"] == best
        assert mean == pytest.approx((rows[name]["correct"] - rows[best]["correct"]) / 12)
        assert low < mean < high
        assert set(rows[name]["alpha"]) == {"math", "code"}
    assert "over_best_single" not in rows["classifier"]


def test_rows_that_no_search_draws_are_scored_once_more(rows):
    shots = choices(20, 40)
    unseen = Unseen("colours", lambda asked: shots, "choice", lambda asked: shots)
    asked = unseen.asked(12)
    scored = [question.example for question in asked.questions]
    drawn = draw_shots(shots, CEMConfig(**SMALL))
    assert len(scored) == len(shots) - len(drawn)
    assert not [row for row in scored if row in drawn]
    assert all(question.user == question.example.prompt for question in asked.questions)
