"""The filters are transformers' own; the draw inverts the distribution; bad settings are named."""

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from t2local.errors import T2LocalError
from t2local.models.decode import sampling as module
from t2local.models.decode.sampling import (
    FEW,
    MANY,
    PATIENCE,
    Lookup,
    Sampling,
    choose,
    choose_and_tell,
    draw,
    keep_top_k,
    keep_top_p,
    penalise,
    scores_of,
)


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.randn(5, 3000, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 3000, (5, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_the_penalty_is_that_of_transformers(scores, ids, penalty):
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    assert torch.equal(penalise(scores, ids, penalty), expected)


@pytest.mark.parametrize("k", [1, 5, 2999])
def test_top_k_is_that_of_transformers(scores, ids, k):
    assert torch.equal(keep_top_k(scores, k), TopKLogitsWarper(k)(ids, scores))
    assert keep_top_k(scores, 0) is scores


@pytest.mark.parametrize("p", [0.01, 0.5, 0.95, 0.99])
@pytest.mark.parametrize("fast_top", [3, 1024])
def test_top_p_is_that_of_transformers(scores, ids, p, fast_top, monkeypatch):
    monkeypatch.setattr(module, "FAST_TOP", fast_top)
    assert torch.equal(keep_top_p(scores, p), TopPLogitsWarper(p)(ids, scores))


def test_all_filters_together_are_those_of_transformers(scores, ids):
    sampling = Sampling(temperature=0.6, top_k=50, top_p=0.9, repetition_penalty=1.2)
    expected = scores
    for warp in (
        RepetitionPenaltyLogitsProcessor(1.2),
        TemperatureLogitsWarper(0.6),
        TopKLogitsWarper(50),
        TopPLogitsWarper(0.9),
    ):
        expected = warp(ids, expected)
    uniform = torch.linspace(0, 0.999, 5, dtype=torch.float64)
    assert torch.equal(choose(scores, ids, sampling, uniform), draw(expected.softmax(-1), uniform))


def test_a_draw_follows_the_distribution_and_never_takes_what_is_filtered():
    scores = torch.tensor([[0.5, 0.0, 0.2, 0.3]]).log()
    uniform = torch.linspace(0, 1 - 1e-9, 10_000, dtype=torch.float64)
    tokens = draw(scores.softmax(-1).expand(10_000, -1).contiguous(), uniform)
    share = tokens.bincount(minlength=4) / 10_000
    assert torch.allclose(share, torch.tensor([0.5, 0.0, 0.2, 0.3]), atol=1e-3)


def test_one_number_and_one_distribution_give_one_token(scores, ids):
    twice = scores[:1].expand(2, -1)
    for u in torch.rand(50, generator=torch.Generator().manual_seed(2)):
        left, right = choose(twice, ids[:2], Sampling(repetition_penalty=1.0), u.expand(2))
        assert left == right


def test_temperature_zero_is_greedy(scores, ids):
    greedy = Sampling(temperature=0, repetition_penalty=1.0)
    assert torch.equal(choose(scores, ids, greedy, torch.rand(5)), scores.argmax(-1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", None),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("top_k", 2.5),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", 0),
        ("max_new_tokens", float("inf")),
        ("seed", -1),
        ("seed", "seven"),
    ],
)
def test_a_bad_setting_is_named_with_its_range(name, value):
    with pytest.raises(T2LocalError, match=rf"{name} is .*; it must be .* from .* to "):
        Sampling(**{name: value})


def test_a_seed_is_a_sequence_and_none_is_another_each_time():
    numbers = [torch.rand(4, generator=Sampling(seed=seed).generator()) for seed in (1, 1, 2)]
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])
    fresh = [torch.rand(4, generator=Sampling().generator()) for _ in range(2)]
    assert not torch.equal(*fresh)


@pytest.mark.parametrize("vocabulary", [7, 1000, 4096, 5 * 1024])
def test_a_draw_inverts_the_whole_distribution_in_any_number_of_parts(vocabulary):
    generator = torch.Generator().manual_seed(vocabulary)
    scores = 3 * torch.randn(200, vocabulary, generator=generator)
    scores[:, ::3] = -torch.inf
    probabilities, uniform = scores.softmax(-1), torch.rand(200, generator=generator).double()
    exact = scores.double().softmax(-1)
    tokens = draw(probabilities, uniform)
    until = exact.cumsum(-1).gather(1, tokens[:, None])[:, 0]
    taken = exact.gather(1, tokens[:, None])[:, 0]
    assert (taken > 0).all()
    assert (until > uniform - 1e-6).all()
    assert (until - taken < uniform + 1e-6).all()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_what_is_told_of_a_choice_is_how_likely_it_was(scores, ids, temperature):
    sampling = Sampling(temperature, top_k=20, top_p=0.9, repetition_penalty=1.2)
    uniform = torch.linspace(0, 0.999, 5, dtype=torch.float64)
    tokens, likely = choose_and_tell(scores, ids, sampling, uniform)
    assert torch.equal(tokens, choose(scores, ids, sampling, uniform))
    if temperature == 0:
        assert torch.equal(likely, torch.zeros(5))
    else:
        meant = scores_of(scores, ids, sampling).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        assert torch.allclose(likely, meant, atol=1e-5)


# --- Guesses of the next tokens.


def test_what_followed_the_last_three_tokens_is_guessed_to_follow_again():
    ids = [*range(20), 7, 8, 9]
    assert Lookup().guess(ids) == [10, 11, 12][:FEW]
    assert Lookup().guess([*range(20), 7, 8]) == []  # 19, 7, 8 is new
    assert Lookup().guess([1, 2]) == Lookup().guess([1, 2, 3]) == []


def test_the_latest_of_several_places_counts_and_no_guess_goes_beyond_the_end():
    assert Lookup().guess([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3])[0] == 5
    assert Lookup().guess([1, 1, 1, 1]) == [1]


def test_a_growing_sequence_is_read_once_and_found_whole():
    grown, ids = Lookup(), []
    for token in [*range(50), *range(50)]:
        ids.append(token)
        assert grown.guess(ids) == Lookup().guess(ids)


def test_right_guesses_make_longer_ones_and_wrong_ones_make_few():
    ids, sure, unsure = [*range(20), 7, 8, 9], Lookup(), Lookup()
    for _ in range(5):
        sure.learn(FEW, FEW)
        unsure.learn(FEW, 0)
    assert len(sure.guess(ids)) == MANY
    made = [bool(unsure.guess(ids)) for _ in range(3 * PATIENCE)]
    assert sum(made) == 3
