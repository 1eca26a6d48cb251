"""Searches on a two-layer random model: batches against one at a time, resume, refusals."""

import pytest
import torch

from t2local.adapt.answering import score_choices
from t2local.adapt.applier import Applier
from t2local.adapt.candidates import Candidates, ShotScorer
from t2local.adapt.cem import EXPERT, LAYERS, MATRIX, CEMConfig, begin, population
from t2local.adapt.few_shot import draw_shots, search
from t2local.errors import Cancelled, T2LocalError
from t2local.progress import CancelToken, drain
from t2local.svf import attach
from t2local.tasks.rows import Example
from tests.adapt.conftest import random_z

WORDS = ("red", "blue", "dark green")
CHOICES = [
    Example(f"Colour of {i * 37}?", WORDS[i % 3], {"choices": list(WORDS), "label": i % 3})
    for i in range(7)
]  # fmt: skip
TEXTS = [Example(f"Say {word} {i}!", word) for i, word in enumerate("abcd")]


@pytest.fixture
def made(tiny_loaded):
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model)
    return loaded, svf, {"math": random_z(svf, 1), "code": random_z(svf, 2)}


@pytest.mark.parametrize("sharing", [EXPERT, LAYERS, MATRIX])
def test_a_population_of_choices_scores_as_one_candidate_at_a_time(made, sharing):
    loaded, svf, experts = made
    candidates, config = Candidates(svf, experts, sharing), CEMConfig(population=6)
    alpha = population(begin(config, candidates.n_groups, 2), config)
    scorer = ShotScorer(loaded, CHOICES, "choice", 8)
    found = scorer.scores(candidates, alpha)
    for b in range(len(alpha)):
        z = {name: rows[b] for name, rows in candidates.z(alpha).items()}
        with svf.using(z), torch.no_grad():
            scored = score_choices(loaded, CHOICES)
        right = [
            float(s.argmax() == e.columns["label"]) for s, e in zip(scored, CHOICES, strict=True)
        ]
        likelihood = [
            s.log_softmax(0)[e.columns["label"]] for s, e in zip(scored, CHOICES, strict=True)
        ]
        assert found.accuracy[b] == pytest.approx(sum(right) / 7)
        assert float(found.log_likelihood[b]) == pytest.approx(float(sum(likelihood)) / 7, abs=1e-4)


def test_a_population_that_writes_scores_as_one_candidate_at_a_time(made):
    loaded, svf, experts = made
    candidates, config = Candidates(svf, experts, EXPERT), CEMConfig(population=5)
    alpha = population(begin(config, 1, 2), config)
    scorer = ShotScorer(loaded, TEXTS, "contains", 6)
    together = scorer.scores(candidates, alpha)
    alone = [scorer.scores(candidates, row[None]) for row in alpha]
    assert together.accuracy.tolist() == [float(s.accuracy) for s in alone]
    expected = torch.tensor([float(s.log_likelihood) for s in alone])
    assert torch.allclose(together.log_likelihood, expected, atol=1e-4)


@pytest.mark.parametrize("sharing", [EXPERT, LAYERS, MATRIX])
def test_the_mixture_found_gives_the_z_of_the_best_candidate(made, sharing):
    loaded, svf, experts = made
    config = CEMConfig(population=6, generations=2, sharing=sharing)
    found = drain(search(loaded, svf, experts, CHOICES, "choice", config))
    z = Applier(svf, experts).z_of(found.mixture)
    with svf.using(z), torch.no_grad():
        scored = score_choices(loaded, CHOICES)
    pairs = zip(scored, CHOICES, strict=True)
    right = sum(int(s.argmax()) == e.columns["label"] for s, e in pairs)
    assert right / 7 == pytest.approx(found.accuracy)


def test_a_search_cancelled_and_resumed_equals_one_that_was_not(made, tmp_path):
    loaded, svf, experts = made
    config, cancel = CEMConfig(population=6, generations=5), CancelToken()
    whole = drain(search(loaded, svf, experts, CHOICES, "choice", config))
    work = search(loaded, svf, experts, CHOICES, "choice", config, tmp_path, cancel)
    first = [next(work), next(work)]
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(work)
    events = []
    again = drain(search(loaded, svf, experts, CHOICES, "choice", config, tmp_path), events.append)
    assert events[:2] == first
    assert again == whole
    assert [g.number for g in events] == [1, 2, 3, 4, 5]


def test_a_retrained_expert_begins_a_new_search(made, tmp_path):
    loaded, svf, experts = made
    config = CEMConfig(population=6, generations=1)
    drain(search(loaded, svf, experts, CHOICES, "choice", config, tmp_path))
    experts["math"] = random_z(svf, 9)
    drain(search(loaded, svf, experts, CHOICES, "choice", config, tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_state_is_begun_anew(made, tmp_path):
    loaded, svf, experts = made
    config = CEMConfig(population=6, generations=1)
    request = (loaded, svf, experts, CHOICES, "choice", config, tmp_path)
    found = drain(search(*request))
    for path in tmp_path.iterdir():
        path.write_text('{"schema": 1}')
    assert drain(search(*request)) == found


def test_an_expert_that_yields_nan_never_wins(made):
    loaded, svf, experts = made
    experts["broken"] = {n: torch.full_like(row, 1e38) for n, row in experts["math"].items()}
    config = CEMConfig(population=8, generations=1)
    found = drain(search(loaded, svf, experts, CHOICES, "choice", config))
    assert found.accuracy == found.accuracy
    assert found.mixture.alpha["broken"] == 0.0


def test_a_candidate_that_writes_under_nan_is_never_right_and_spoils_no_other(made):
    loaded, svf, experts = made
    experts["broken"] = {n: torch.full_like(row, 1e38) for n, row in experts["math"].items()}
    candidates = Candidates(svf, experts, EXPERT)
    alpha = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]])
    scorer = ShotScorer(loaded, [Example("Say it!", "")], "length", 6)
    found = scorer.scores(candidates, alpha).accuracy
    assert found.isnan().tolist() == [False, True, False]
    assert found[0] == scorer.scores(candidates, alpha[:1]).accuracy[0]


def test_shots_are_drawn_by_the_seed_and_too_few_are_refused():
    config = CEMConfig(shots=3)
    assert draw_shots(CHOICES, config) == draw_shots(CHOICES, config)
    assert len(draw_shots(CHOICES, config)) == 3
    with pytest.raises(T2LocalError, match="2 examples"):
        draw_shots(CHOICES[:2], config)


def test_what_cannot_be_searched_is_refused(made):
    loaded, svf, _ = made
    with pytest.raises(T2LocalError, match="no expert"):
        Candidates(svf, {}, EXPERT)
    with pytest.raises(T2LocalError, match="no reward"):
        ShotScorer(loaded, CHOICES, "beauty", 8)
    with pytest.raises(T2LocalError, match="longest shot"):
        ShotScorer(loaded, [Example("x" * 600, "y")], "exact", 8)
