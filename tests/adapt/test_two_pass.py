import threading
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from t2local.adapt import two_pass
from t2local.adapt.context import fit
from t2local.adapt.dispatch import (
    ADAPTED_ROW,
    BASE_ROW,
    CLASSIFIER,
    Available,
    Controls,
    Dispatched,
    Done,
    Steered,
    Token,
)
from t2local.adapt.two_pass import Steering, answer, dispatch
from t2local.errors import T2LocalError
from t2local.models.decode.generate import PrefixCache
from t2local.models.decode.sampling import Sampling
from t2local.progress import CancelToken
from t2local.svf import Mixture
from tests.conftest import CHATML

ASK = ({"role": "user", "content": "What is 2 + 2?"},)
GREEDY = Sampling(temperature=0.0, max_new_tokens=12, repetition_penalty=1.0, seed=0)
MATH = Mixture({"math": 1.0})


def manual(mixture):
    return Controls("manual", mixture=mixture)


def events(workshop, strategy, sampling=GREEDY, **options):
    return list(answer(workshop, ASK, strategy, sampling, **options))


def test_events_come_in_order_and_the_tokens_spell_the_answer(workshop):
    first, *tokens, done = events(workshop, manual(MATH))
    assert isinstance(first, Dispatched)
    assert isinstance(done, Done)
    assert "".join(t.text for t in tokens if isinstance(t, Token)) == done.texts[0]


def test_base_and_adapted_differ_and_beside_each_other_equal_one_at_a_time(workshop):
    base = events(workshop, Controls("base"))[-1].texts[0]
    adapted = events(workshop, manual(MATH))[-1].texts[0]
    both = events(workshop, manual(MATH), compare=True)[-1].texts
    assert base != adapted
    assert (both[ADAPTED_ROW], both[BASE_ROW]) == (adapted, base)


def test_the_classifier_strategy_gives_every_label_a_probability(workshop):
    decision = dispatch(workshop, "What is 2 + 2?", Controls(CLASSIFIER))
    assert set(decision.probabilities) == {"math", "code", "other"}
    assert decision.seconds > 0


def test_an_override_skips_pass_one(workshop):
    decision = dispatch(workshop, "hi", Controls("prompt", override="code"))
    assert decision.mixture.alpha == {"code": 1.0}
    assert not decision.probabilities
    assert decision.seconds == 0


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_a_classifier_that_gives_nan_sends_the_message_to_the_base_model_and_says_so(
    workshop, value, soft
):
    broken = {
        n: torch.full_like(row, value) for n, row in workshop.applier.experts["reader"].items()
    }
    workshop.applier.experts["reader"] = broken
    first, *_, done = events(workshop, Controls(CLASSIFIER, soft))
    decision = first.dispatch
    assert decision.mixture.is_base
    assert (decision.probabilities, decision.chosen) == ({}, "base")
    assert "NaN" in decision.note
    assert done.texts == events(workshop, Controls("base"))[-1].texts


def test_a_missing_classifier_is_named(workshop):
    without = replace(workshop, available=Available(("math", "code")))
    with pytest.raises(T2LocalError, match="no classifier expert"):
        events(without, Controls(CLASSIFIER))


def test_the_wheel_changes_the_very_next_token_and_equals_a_fresh_prefix(workshop):
    """After a turn of the wheel the rest is what the new mixture says after the same words."""
    steering, seen = Steering(), []
    for event in answer(workshop, ASK, manual(MATH), GREEDY, steering):
        seen.append(event)
        if isinstance(event, Token) and event.tokens == 4:
            steering.steer(Mixture({"code": 1.0}))
    turned = next(e for e in seen if isinstance(e, Steered))
    whole = seen[-1].texts[0]
    said = whole[: turned.at_character]
    rest = list(
        answer(
            workshop,
            (*ASK, {"role": "assistant", "content": said}),
            manual(Mixture({"code": 1.0})),
            Sampling(temperature=0.0, max_new_tokens=8, repetition_penalty=1.0),
            continue_last=True,
        )
    )[-1].texts[0]
    assert turned.at_token == 4
    assert whole == said + rest


def test_a_kept_prefix_changes_nothing_and_is_never_shared_between_mixtures(workshop):
    fresh = events(workshop, manual(MATH))[-1].texts
    again = events(workshop, manual(MATH))[-1].texts  # reuses the cache
    other = events(workshop, manual(Mixture({"code": 1.0})))[-1].texts
    clean = PrefixCache()
    object.__setattr__(workshop, "prefixes", clean)
    assert again == fresh
    assert events(workshop, manual(Mixture({"code": 1.0})))[-1].texts == other


def test_the_same_seed_gives_the_same_answer(workshop):
    warm = Sampling(temperature=1.0, max_new_tokens=12, seed=7)
    assert events(workshop, manual(MATH), warm)[-1].texts == (
        events(workshop, manual(MATH), warm)[-1].texts
    )


def test_a_long_prompt_read_in_pieces_gives_the_same_answer(workshop, monkeypatch):
    long = ({"role": "user", "content": "tell me more " * 20},)
    found = []
    for size in (1000, 32):
        monkeypatch.setattr(two_pass, "PREFILL_TOKENS", size)
        workshop.prefixes.clear()
        found.append(list(answer(workshop, long, manual(MATH), GREEDY))[-1].texts)
    assert found[0] == found[1]


def test_a_long_prompt_can_be_stopped_while_it_is_read(workshop, monkeypatch):
    monkeypatch.setattr(two_pass, "PREFILL_TOKENS", 32)
    cancel = CancelToken()
    long = ({"role": "user", "content": "tell me more " * 20},)
    events = answer(workshop, long, manual(MATH), GREEDY, cancel=cancel)
    next(events)
    cancel.cancel()
    assert list(events)[-1].tokens == 0


def test_an_expert_to_be_used_with_care_says_so_on_the_card(workshop):
    warned = replace(workshop, warnings={"code": "'code' is transferred."})
    strategy = Controls("prompt", override="code")
    assert "transferred" in dispatch(warned, "hi", strategy).note
    assert "transferred" not in dispatch(warned, "hi", Controls("base")).note


def test_stop_ends_after_the_current_token_and_keeps_what_was_said(workshop):
    cancel, seen = CancelToken(), []
    for event in answer(workshop, ASK, manual(MATH), GREEDY, cancel=cancel):
        seen.append(event)
        if isinstance(event, Token):
            cancel.cancel()
    assert seen[-1].finish == "cancelled"
    assert seen[-1].tokens == 1


def test_afterwards_the_model_is_the_base_model_again(workshop):
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = workshop.loaded.model(ids).logits
        events(workshop, manual(MATH))
        assert torch.equal(workshop.loaded.model(ids).logits, before)


def test_what_is_kept_is_given_back_only_while_nobody_else_holds_the_model(workshop):
    events(workshop, manual(MATH))
    assert workshop.prefixes._kept
    forgetting = threading.Thread(target=workshop.forget)
    with workshop.lock():
        forgetting.start()
        forgetting.join(timeout=0.1)
        assert forgetting.is_alive()
        assert workshop.prefixes._kept
        workshop.forget()  # whoever holds it may
        assert not workshop.prefixes._kept
    forgetting.join(timeout=10)
    assert not forgetting.is_alive()


# --- A model that thinks: its template opens the thinking, and drops it from earlier answers.

OPENING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


@pytest.fixture
def thinking(workshop):
    tokenizer = deepcopy(workshop.loaded.tokenizer)
    tokenizer.chat_template = OPENING
    return replace(workshop, loaded=replace(workshop.loaded, tokenizer=tokenizer))


def test_what_the_template_opened_belongs_to_the_answer(workshop, thinking):
    for compare in (False, True):
        seen = list(answer(thinking, ASK, manual(MATH), GREEDY, compare=compare))
        tokens = [event for event in seen if isinstance(event, Token)]
        for row, text in enumerate(seen[-1].texts):
            assert text.startswith("<think>\n")
            assert "".join(t.text for t in tokens if t.row == row) == text
    assert not events(workshop, manual(MATH))[-1].texts[0].startswith("<think>")


def test_an_opened_answer_is_read_again_as_it_was_said(thinking):
    tokenizer = thinking.loaded.tokenizer
    said = ({"role": "assistant", "content": "<think>\nhm, so"},)
    asked = fit(thinking.loaded, ASK, 12)
    assert asked.opening == "<think>\n"
    on = fit(thinking.loaded, ASK + said, 12, continue_last=True)
    assert on.ids == asked.ids + tokenizer.encode("hm, so", add_special_tokens=False)
    assert on.opening == ""
    begun = ({"role": "assistant", "content": ""},)
    assert fit(thinking.loaded, ASK + begun, 12, continue_last=True) == asked
    seen = list(answer(thinking, ASK + said, manual(MATH), GREEDY, continue_last=True))
    assert seen[0].context_tokens == len(on.ids)
    assert not seen[-1].texts[0].startswith("<think>")


def test_half_of_a_character_is_refused_by_the_engine_too(workshop):
    for role in ("system", "user", "assistant"):
        messages = ({"role": role, "content": "half \ud83d"}, *ASK)
        with pytest.raises(T2LocalError, match="is not UTF-8 text"):
            next(answer(workshop, messages, Controls("base"), GREEDY))
    with pytest.raises(T2LocalError, match="is not UTF-8 text"):
        dispatch(workshop, "half \udcff", Controls(CLASSIFIER))
