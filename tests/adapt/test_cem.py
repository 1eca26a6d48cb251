import math

import pytest
import torch

from t2local.adapt import cem
from t2local.adapt.cem import ACCURACY, LIGHT, LOG_LIKELIHOOD, CEMConfig
from t2local.errors import T2LocalError


def run(config, score, n_groups=1, n_experts=2):
    search = cem.begin(config, n_groups, n_experts)
    for _ in range(config.generations):
        alpha = cem.population(search, config)
        accuracy, log_likelihood = score(alpha)
        search, _ = cem.advance(search, config, alpha, accuracy, log_likelihood)
    return search


def near(target):
    def score(alpha):
        distance = (alpha - torch.tensor(target)).square().sum((1, 2))
        return torch.zeros(len(alpha)), -distance

    return score


@pytest.mark.parametrize("n_groups", [1, 5])
def test_it_finds_the_optimum_by_likelihood_alone_where_accuracies_tie(n_groups):
    found = run(CEMConfig(generations=30, population=128), near([0.8, 0.3]), n_groups)
    assert torch.allclose(found.best, torch.tensor([0.8, 0.3]).expand(n_groups, 2), atol=0.1)


def test_the_best_so_far_never_gets_worse_and_is_candidate_0():
    config = CEMConfig(population=8)
    search, best = cem.begin(config, 1, 2), -math.inf
    for _ in range(8):
        alpha = cem.population(search, config)
        if search.best is not None:
            assert torch.equal(alpha[0], search.best)
        search, _ = cem.advance(search, config, alpha, *near([0.8, 0.3])(alpha))
        assert search.best_scores[1] >= best
        best = search.best_scores[1]


def test_the_first_generation_tries_the_base_model_and_each_expert_alone():
    config = CEMConfig()
    first = cem.population(cem.begin(config, 3, 2), config)
    assert first.shape == (32, 3, 2)
    for alone in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]):
        assert (first == torch.tensor(alone)).all((1, 2)).any(), alone


def test_candidates_stay_in_range_and_normalised_ones_sum_to_one():
    config = CEMConfig(low=-1.0, high=2.0)
    drawn = cem.population(cem.begin(config, 4, 3), config)
    assert drawn.min() >= -1
    assert drawn.max() <= 2
    config = CEMConfig(normalised=True)
    drawn = cem.population(cem.begin(config, 4, 3), config)
    assert torch.allclose(drawn.sum(-1), torch.ones(32, 4))


def test_the_objective_ranks_and_the_other_measure_breaks_ties():
    accuracy, likelihood = torch.tensor([0.5, 0.5, 0.2]), torch.tensor([-3.0, -2.0, -1.0])
    assert cem.ranking(accuracy, likelihood, ACCURACY) == [1, 0, 2]
    assert cem.ranking(accuracy, likelihood, LOG_LIKELIHOOD) == [2, 1, 0]


def test_equal_elites_do_not_end_the_search():
    config = CEMConfig(population=8)
    alpha = torch.ones(8, 1, 2)
    after, _ = cem.advance(cem.begin(config, 1, 2), config, alpha, torch.ones(8), torch.ones(8))
    assert (after.spread > 0).all()
    assert cem.population(after, config).unique(dim=0).shape[0] > 1


def test_a_candidate_that_yields_nan_comes_last():
    accuracy = torch.tensor([math.nan, 0.0, 0.1])
    assert cem.ranking(accuracy, torch.tensor([0.0, -9.0, -9.0]), ACCURACY) == [2, 1, 0]


def test_rows_of_z_are_mixtures_of_the_experts():
    changes = torch.tensor([[0.1, 0.2], [0.4, -0.2]])
    rows = cem.z_rows(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]]), changes)
    assert torch.allclose(rows, torch.tensor([[1.1, 1.2], [1.25, 1.0], [1.0, 1.0]]))


def test_the_light_mode_costs_three_percent():
    assert CEMConfig(**LIGHT).evaluations == pytest.approx(0.03 * CEMConfig().evaluations)


@pytest.mark.parametrize(
    "wrong",
    [{"population": 1}, {"elite_share": 0.0}, {"low": 1.0, "high": 0.0}, {"shots": 2},
     {"sharing": "row"}, {"objective": "beauty"}, {"generations": 0}],
)  # fmt: skip
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(T2LocalError):
        CEMConfig(**wrong)
