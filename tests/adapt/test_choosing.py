from dataclasses import replace

import pytest
import torch

from t2local.adapt.answering import answer_examples
from t2local.adapt.choosing import Labels, common_labels, fitted_temperature, leading
from t2local.adapt.dispatch import ADAPTED_ROW, BASE_ROW, Controls, Dispatched, Done, Token
from t2local.adapt.two_pass import answer
from t2local.models.decode.sampling import Sampling
from t2local.svf import Mixture
from t2local.tasks.rows import Example

COLOURS = ("red", "green", "dark blue")
ROWS = [
    Example(f"Colour of thing number {n}?", "red", {"choices": list(COLOURS)}) for n in range(12)
]
SHORT = Sampling(temperature=0.0, max_new_tokens=6, seed=0)
BY_HAND = Controls("manual", mixture=Mixture({"math": 1.0}))


@pytest.fixture
def choosing(workshop):
    """A workshop whose *math* was trained to choose among colours."""
    return replace(workshop, choosers={"math": Labels(COLOURS)})


def said(workshop, text, controls=BY_HAND, **options):
    messages = ({"role": "user", "content": text},)
    first, *middle, done = answer(workshop, messages, controls, SHORT, **options)
    assert isinstance(first, Dispatched)
    assert isinstance(done, Done)
    assert all(isinstance(event, Token) for event in middle)
    return first.dispatch, middle, done


def test_it_answers_with_one_of_its_labels_and_the_accuracy_of_training(choosing):
    with choosing.applier.using(BY_HAND.mixture):
        measured = [each.text for each in answer_examples(choosing.loaded, ROWS)]
    in_chat = [said(choosing, row.prompt)[2].texts[0] for row in ROWS]
    assert in_chat == measured
    assert set(in_chat) <= set(COLOURS)


def test_the_card_has_the_probabilities_of_all_labels_the_likeliest_first(choosing):
    dispatch, (token,), done = said(choosing, "Colour?")
    shares = list(dispatch.choice.shares.values())
    assert dispatch.choice.expert == "math"
    assert set(dispatch.choice.shares) == set(COLOURS)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert (token.text, done.finish) == (dispatch.choice.label, "stop")
    assert done.tokens == token.tokens > 0


def test_the_temperature_of_its_policy_flattens_them(choosing):
    flat = replace(choosing, choosers={"math": Labels(COLOURS, temperature=50.0)})
    sharp, even = (said(w, "Colour?")[0].choice.shares for w in (choosing, flat))
    assert list(sharp) == list(even)
    assert max(even.values()) < max(sharp.values())
    assert max(even.values()) - min(even.values()) < 0.1


def test_it_writes_where_a_person_wants_that(choosing):
    dispatch, _, done = said(choosing, "Colour?", replace(BY_HAND, write=True))
    assert dispatch.choice is None
    assert done.texts == said(replace(choosing, choosers={}), "Colour?")[2].texts


def test_the_base_model_beside_it_chooses_too(choosing):
    dispatch, tokens, done = said(choosing, "Colour?", compare=True)
    assert [token.row for token in tokens] == [ADAPTED_ROW, BASE_ROW]
    assert set(done.texts) <= set(COLOURS)
    assert done.texts[ADAPTED_ROW] == dispatch.choice.label


def test_the_base_model_and_other_experts_write(choosing):
    for controls in (Controls("base"), Controls("manual", mixture=Mixture({"code": 1.0}))):
        assert said(choosing, "Colour?", controls)[0].choice is None


def test_a_chat_longer_than_one_forward_is_written(choosing, monkeypatch):
    monkeypatch.setattr("t2local.adapt.choosing.MOST_TOKENS", 20)
    assert said(choosing, "Colour? " * 10)[0].choice is None


def test_a_model_that_gives_nan_writes(choosing):
    broken = {n: torch.full_like(z, torch.nan) for n, z in choosing.applier.experts["math"].items()}
    choosing.applier.experts["math"] = broken
    assert said(choosing, "Colour?")[0].choice is None


def test_a_windowed_model_chooses_within_its_window(choosing):
    choosing.loaded.model.config.sliding_window = 16
    assert said(choosing, "Colour of a very large number of things?")[0].choice is None


@pytest.mark.parametrize(
    ("mixture", "name"),
    [
        (Mixture({"a": 1.0}), "a"),
        (Mixture({"a": 0.6, "b": 0.4}), "a"),
        (Mixture({"a": 0.3, "b": 0.6}), "b"),
        (Mixture({"a": 0.3}), ""),  # the base model weighs 0.7
        (Mixture({"a": 0.5}), "a"),
        (Mixture({"a": -1.0}), ""),
        (Mixture({}), ""),
        (Mixture({"a": 1.0}, by_matrix={"m": {"a": 1.0}}), ""),
        (Mixture({"a": 1.0}, strength=0.0), ""),
    ],
)
def test_in_a_mixture_the_expert_that_weighs_most_decides(mixture, name):
    assert leading(mixture) == name


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        ([["a", "b"], ["b", "a"], ["a", "b"]], ("a", "b")),
        ([["a", "b"], ["a", "c"]], ()),
        ([["a", "a"]], ()),
        ([["a"]], ()),
        ([], ()),
        ([[str(n) for n in range(41)]], ()),
    ],
)
def test_labels_are_what_every_row_offers(rows, labels):
    assert common_labels(rows) == labels


def drawn(sharpness, seed, n=400, labels=3):
    """Scores that say of each row how likely its labels are, told `sharpness` times too loudly."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, labels, generator=generator)
    right = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return list(sharpness * logits), right.tolist()


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
def test_at_the_fitted_temperature_rows_are_right_as_often_as_it_says(sharpness):
    scores, right = drawn(sharpness, 0)
    temperature = fitted_temperature(scores, right)
    assert temperature == pytest.approx(sharpness, rel=0.25)
    shares = (torch.stack(drawn(sharpness, 1)[0]) / temperature).softmax(-1)
    sure, place = shares.max(-1)
    hits = place == torch.tensor(drawn(sharpness, 1)[1])
    assert float(hits.float().mean()) == pytest.approx(float(sure.mean()), abs=0.06)


def test_a_few_rows_that_are_all_right_do_not_make_it_certain():
    scores = [torch.tensor([1.0, 0.0, 0.0])] * 12
    temperature = fitted_temperature(scores, [0] * 12)
    assert 0.9 < float((scores[0] / temperature).softmax(-1)[0]) < 0.99
