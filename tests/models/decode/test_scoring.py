import pytest
import torch

from t2local.errors import T2LocalError
from t2local.models.decode import scoring
from t2local.models.decode.scoring import (
    choice_log_likelihoods,
    choice_scores,
    log_probabilities,
    log_probabilities_and_kl,
)
from tests.conftest import FAMILIES

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 11]]  # with an answer: the sliding windows' 8
CHOICES = [[[20], [21, 22, 23]], [[30, 31]], [[40, 41], [42], [43, 44, 45, 46]]]


def one_by_one(model, prompt, choice):
    logits = model(torch.tensor([prompt + choice])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, torch.tensor(choice)[:, None]).sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_choices_equal_one_forward_each(tiny, family):
    """The tree mask, the left padding and the positions hold in every family."""
    model = tiny(family)
    with torch.no_grad():
        packed = choice_log_likelihoods(model, PROMPTS, CHOICES)
        for prompt, row, found in zip(PROMPTS, CHOICES, packed, strict=True):
            expected = torch.stack([one_by_one(model, prompt, choice) for choice in row])
            assert torch.allclose(found, expected, atol=1e-4)


def test_what_is_longer_than_a_sliding_window_is_refused_in_words(tiny):
    with pytest.raises(T2LocalError, match="9 tokens, more than the 8"):
        choice_log_likelihoods(tiny("mistral"), [[5] * 8], [[[6]]])


def test_scores_divide_by_the_root_of_the_length(tiny):
    model = tiny("llama")
    with torch.no_grad():
        totals = choice_log_likelihoods(model, PROMPTS, CHOICES)
        scores = choice_scores(model, PROMPTS, CHOICES)
    roots = torch.tensor([1.0, 3.0]).sqrt()
    assert torch.allclose(scores[0], totals[0] / roots)


def test_chunks_change_neither_values_nor_gradients(tiny, monkeypatch):
    model, hidden = tiny("llama"), torch.randn(9, 64, requires_grad=True)
    targets = torch.arange(9)
    found = []
    for size in (100, 2):
        monkeypatch.setattr(scoring, "CHUNK_POSITIONS", size)
        values = log_probabilities(model, hidden, targets)
        (gradient,) = torch.autograd.grad(values.sum(), hidden)
        found.append((values, gradient))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_kl_over_the_vocabulary_is_zero_for_equal_states_and_positive_else(tiny):
    model, hidden, other = tiny("llama"), torch.randn(5, 64), torch.randn(5, 64)
    targets = torch.arange(5)
    same_log_probs, same = log_probabilities_and_kl(model, hidden, hidden, targets)
    _, different = log_probabilities_and_kl(model, hidden, other, targets)
    assert torch.allclose(same, torch.zeros(5), atol=1e-6)
    assert (different > 0).all()
    assert torch.allclose(same_log_probs, log_probabilities(model, hidden, targets), atol=1e-6)
