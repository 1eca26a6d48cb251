"""Strategies on a set that no expert was trained for, on a two-layer model with random experts."""

import pytest
import torch

from t2local.adapt.cem import CEMConfig
from t2local.adapt.few_shot import draw_shots
from t2local.evaluation.questions import LIKELIHOOD, Question, QuestionSet
from t2local.evaluation.variants import Subject
from t2local.experiments import sections
from t2local.experiments.laboratory import Book, Laboratory
from t2local.experiments.sections import Unseen, on_unseen_sets
from t2local.experts import Expert
from t2local.experts.expert import CLASSIFIER, SKILL
from t2local.tasks.rows import Example

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
