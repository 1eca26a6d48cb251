import pytest

from t2local.adapt.dispatch import (
    HEAD_CHARACTERS,
    TAIL_CHARACTERS,
    classification_prompt,
    decide,
    label_probabilities,
    without_question,
)
from t2local.svf import Gains, Mixture

SHARES = {"math": 0.6, "code": 0.3, "other": 0.1}
EXPERTS = ("math", "code")
WHEEL = Mixture({"code": 2.0}, strength=0.5, gains=Gains(mlp=0.0))


def test_soft_alphas_are_the_probabilities_and_other_stays_with_the_base():
    decision = decide("prompt", SHARES, EXPERTS, True, 0.4, WHEEL)
    assert decision.mixture.alpha == {"math": 0.6, "code": 0.3}
    assert decision.chosen == "math"


def test_hard_gives_the_winner_alone():
    assert decide("prompt", SHARES, EXPERTS, False, 0.4, WHEEL).mixture.alpha == {"math": 1.0}


def test_strength_and_gains_are_the_wheels_but_its_alphas_are_not():
    mixture = decide("prompt", SHARES, EXPERTS, True, 0.4, WHEEL).mixture
    assert (mixture.strength, mixture.gains) == (WHEEL.strength, WHEEL.gains)


@pytest.mark.parametrize(
    ("shares", "threshold", "word"),
    [
        ({"math": 0.2, "other": 0.8}, 0.0, "subject"),
        ({"math": 0.6, "other": 0.4}, 0.7, "threshold"),
        ({"law": 0.9, "other": 0.1}, 0.0, "law"),
    ],
)
def test_other_low_confidence_and_missing_experts_go_to_the_base_with_a_word(
    shares, threshold, word
):
    decision = decide("prompt", shares, EXPERTS, True, threshold, WHEEL)
    assert decision.mixture.is_base
    assert word in decision.note


def test_probabilities_sum_to_one_over_the_labels(workshop):
    shares = label_probabilities(workshop.loaded, "What is 2 + 2?", ("math", "code", "other"))
    assert list(shares) == ["math", "code", "other"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_the_classifier_expert_changes_what_pass_one_says(workshop):
    base = label_probabilities(workshop.loaded, "What is 2 + 2?")
    with workshop.adapter.using(Mixture({"reader": 1.0})):
        adapted = label_probabilities(workshop.loaded, "What is 2 + 2?")
    assert base != adapted


def test_a_long_message_is_read_at_both_ends():
    prompt = classification_prompt("begin " + "x" * 5000 + " end")
    assert "begin" in prompt
    assert "end\n" in prompt
    assert len(prompt) < HEAD_CHARACTERS + TAIL_CHARACTERS + 200


def test_without_a_question_the_user_decides():
    assert without_question("base", WHEEL).mixture.is_base
    assert without_question("manual", WHEEL).mixture == WHEEL
    assert without_question("classifier", WHEEL, "math").mixture.alpha == {"math": 1.0}
    assert without_question("classifier", WHEEL, "base").mixture.is_base
