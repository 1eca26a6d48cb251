import pytest

from t2local.adapt.dispatch import (
    BASE,
    HEAD_CHARACTERS,
    OTHER,
    STRATEGIES,
    TAIL_CHARACTERS,
    Available,
    Controls,
    Reading,
    classification_prompt,
    decide,
    first_pass,
    label_probabilities,
    least,
    offered,
    without_question,
)
from t2local.errors import T2LocalError
from t2local.experts.expert import RESERVED, check_name
from t2local.svf import Gains, Mixture

SHARES = {"math": 0.6, "code": 0.3, "other": 0.1}
EXPERTS = ("math", "code")
WHEEL = Mixture({"code": 2.0}, strength=0.5, gains=Gains(mlp=0.0))
LABELS = ("math", "code", "other")
ASKED = ("What is 2 + 2?", "Write a loop in Python, please.", "hello there")


def controls(soft=True, threshold=0.1):
    return Controls("prompt", soft, threshold, WHEEL)


def test_soft_alphas_are_the_probabilities_and_other_stays_with_the_base():
    decision = decide(controls(), SHARES, EXPERTS)
    assert decision.mixture.alpha == {"math": 0.6, "code": 0.3}
    assert decision.chosen == "math"


def test_hard_gives_the_winner_alone():
    assert decide(controls(soft=False), SHARES, EXPERTS).mixture.alpha == {"math": 1.0}


def test_strength_and_gains_are_the_wheels_but_its_alphas_are_not():
    mixture = decide(controls(), SHARES, EXPERTS).mixture
    assert (mixture.strength, mixture.gains) == (WHEEL.strength, WHEEL.gains)


@pytest.mark.parametrize(
    ("shares", "threshold", "word"),
    [
        ({"math": 0.2, "other": 0.8}, 0.0, "subject"),
        ({"math": 0.6, "other": 0.4}, 0.7, "threshold of 0.85 for 2 kinds"),
        ({"law": 0.9, "other": 0.1}, 0.0, "law"),
    ],
)
def test_other_low_confidence_and_missing_experts_go_to_the_base_with_a_word(
    shares, threshold, word
):
    decision = decide(controls(threshold=threshold), shares, EXPERTS)
    assert decision.mixture.is_base
    assert word in decision.note


@pytest.mark.parametrize(("kinds", "winner"), [(4, 0.34), (4, 0.33), (20, 0.15), (2, 0.56)])
def test_a_winner_is_kept_by_how_many_it_has_beaten(kinds, winner):
    """0.34 is little of two kinds, and much of twenty."""
    rest = (1 - winner) / (kinds - 1)
    shares = {f"kind {n}": rest for n in range(kinds - 1)} | {"math": winner}
    experts = tuple(shares)
    assert not decide(Controls("prompt"), shares, experts).mixture.is_base
    nearly = 1 / kinds + 0.05 * (1 - 1 / kinds)
    weak = dict.fromkeys(shares, (1 - nearly) / (kinds - 1)) | {"math": nearly}
    assert decide(Controls("prompt"), weak, experts).mixture.is_base


def test_by_similarity_the_bar_does_not_depend_on_how_many_experts_there_are():
    for kinds in (2, 4, 20):
        assert least(Controls("similarity"), kinds) == pytest.approx(0.4)


def test_probabilities_sum_to_one_over_the_labels(workshop):
    (shares,) = label_probabilities(workshop.loaded, ASKED[:1], LABELS)
    assert list(shares) == ["math", "code", "other"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_the_classifier_expert_changes_what_pass_one_says(workshop):
    base = label_probabilities(workshop.loaded, ASKED[:1])
    with workshop.applier.using(Mixture({"reader": 1.0})):
        adapted = label_probabilities(workshop.loaded, ASKED[:1])
    assert base != adapted


def test_a_long_message_is_read_at_both_ends():
    prompt = classification_prompt("begin " + "x" * 5000 + " end")
    assert "begin" in prompt
    assert "end\n" in prompt
    assert len(prompt) < HEAD_CHARACTERS + TAIL_CHARACTERS + 200


def test_without_a_question_the_user_decides():
    def given(strategy, override=None):
        return without_question(Controls(strategy, mixture=WHEEL, override=override)).mixture

    assert given("base").is_base
    assert given("manual") == WHEEL
    assert given("few-shot:mine") == WHEEL
    assert given("classifier", "math").alpha == {"math": 1.0}
    assert given("classifier", "base").is_base


def reading(workshop):
    return Reading(workshop.loaded, workshop.available, workshop.applier.using)


@pytest.mark.parametrize("strategy", ["prompt", "classifier"])
def test_messages_in_one_batch_are_decided_as_one_at_a_time(workshop, strategy):
    together = first_pass(reading(workshop), ASKED, Controls(strategy))
    alone = [first_pass(reading(workshop), [m], Controls(strategy))[0] for m in ASKED]
    for one, other in zip(together, alone, strict=True):
        assert one.chosen == other.chosen
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("soft", [True, False])
def test_probabilities_that_are_not_finite_decide_nothing(value, soft):
    for shares in ({"math": value, "code": 0.5, "other": 0.5}, {}):
        decision = decide(controls(soft), shares, EXPERTS)
        assert decision.mixture.is_base
        assert (decision.chosen, decision.probabilities) == ("base", {})
        assert "NaN" in decision.note


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_message_of_a_batch_leaves_the_others_alone(workshop, monkeypatch, value):
    from t2local.adapt import dispatch

    real = dispatch.choice_scores

    def spoilt(*arguments):
        scores = real(*arguments)
        scores[1][0] = value
        return scores

    expected = first_pass(reading(workshop), ASKED, Controls("prompt"))
    monkeypatch.setattr(dispatch, "choice_scores", spoilt)
    found = first_pass(reading(workshop), ASKED, Controls("prompt"))
    assert [found[0], found[2]] == [expected[0], expected[2]]
    assert (found[1].chosen, found[1].probabilities) == ("base", {})


def test_what_is_offered_follows_from_what_is_there():
    assert offered() == ["classifier", "similarity", "prompt", "manual", "base"]
    assert offered(Available()) == ["base"]
    assert offered(Available(mixable=("draft",))) == ["manual", "base"]
    every = Available(EXPERTS, EXPERTS, "reader", LABELS, kept=("a", "b"))
    assert offered(every) == [
        "classifier", "prompt", "few-shot:a", "few-shot:b", "manual", "base",
    ]  # fmt: skip


def test_what_a_decision_may_be_called_instead_of_an_expert_cannot_be_an_experts_name():
    decided = [without_question(Controls(name)) for name, s in STRATEGIES.items() if not s.asks]
    assert {dispatch.chosen for dispatch in decided} | {BASE, OTHER} == set(RESERVED)
    for name in RESERVED:
        with pytest.raises(T2LocalError, match="already means something"):
            check_name(name.upper())


def test_an_unknown_strategy_is_refused_with_all_that_are_known():
    with pytest.raises(T2LocalError, match="no strategy 'guess'") as told:
        Controls("guess")
    assert all(name in str(told.value) for name in STRATEGIES)
