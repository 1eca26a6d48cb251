from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from t2local.adapt import applier as applying
from t2local.adapt import two_pass
from t2local.adapt.applier import Applier, RoundedSteps
from t2local.adapt.dispatch import Controls, Steered, Token
from t2local.adapt.two_pass import Steering, answer
from t2local.errors import T2LocalError
from t2local.models.decode.generate import PrefixCache
from t2local.models.decode.sampling import Sampling
from t2local.models.groups.codes import rounded
from t2local.progress import CancelToken
from t2local.svf import Gains, Mixture, attach

IDS = torch.arange(5, 25)[None]


def logits(workshop):
    with torch.no_grad():
        return workshop.loaded.model(IDS).logits


def test_an_empty_or_weightless_mixture_is_the_base_model_bit_for_bit(workshop):
    base = logits(workshop)
    for mixture in (Mixture(), Mixture({"math": 0.0}), Mixture({"math": 1.0}, strength=0.0)):
        with workshop.applier.using(mixture):
            assert torch.equal(logits(workshop), base)


def test_one_expert_at_alpha_one_is_that_expert(workshop):
    applier = workshop.applier
    with applier.using(Mixture({"math": 1.0})):
        mixed = logits(workshop)
    with applier.svf.using(applier.experts["math"]):
        assert torch.equal(logits(workshop), mixed)


def test_a_held_z_is_prepared_once_for_all_forwards_without_a_gradient(workshop, monkeypatch):
    """Of a z that asks for a gradient it was prepared anew for every token that was sampled."""
    svf, prepared = workshop.applier.svf, []
    prepare = type(svf)._deltas
    monkeypatch.setattr(type(svf), "_deltas", lambda *a: prepared.append(1) or prepare(*a))
    monkeypatch.setattr(applying, "may_rebuild", lambda loaded: False)
    z = {n: row.clone().requires_grad_() for n, row in workshop.applier.experts["math"].items()}
    hold = applying.holding(workshop.loaded, svf, z)
    assert not prepared
    held = []
    for _ in range(3):
        with torch.no_grad(), hold():
            held.append(logits(workshop))
    assert len(prepared) == 1
    with hold():
        learning = workshop.loaded.model(IDS).logits
    assert len(prepared) == 2
    assert torch.allclose(learning, held[0], atol=1e-5)
    assert torch.equal(held[0], held[2])
    learning.sum().backward()
    assert all(row.grad.any() for row in z.values())


def test_rebuilt_matrices_give_the_same_answer_as_the_branch(workshop):
    mixture = Mixture({"math": 0.5, "code": 0.5})
    rebuilding = Applier(workshop.applier.svf, workshop.applier.experts, rebuild_limit=1)
    with rebuilding.using(mixture):
        branch = logits(workshop)
    rebuilding.settle(mixture)
    with rebuilding.using(mixture):
        assert torch.allclose(logits(workshop), branch, atol=1e-4)
    assert not torch.equal(logits(workshop), branch)  # restored


def test_beside_base_the_second_row_is_the_base_model(workshop):
    base = logits(workshop)
    with torch.no_grad(), workshop.applier.using(Mixture({"math": 1.0}), beside_base=True):
        both = workshop.loaded.model(IDS.expand(2, -1)).logits
    assert torch.allclose(both[1:], base, atol=1e-5)
    assert not torch.allclose(both[:1], base, atol=1e-2)


def test_keys_tell_mixtures_apart_and_ignore_zeros_and_order(workshop):
    key = workshop.applier.key
    assert key(Mixture({"math": 1.0, "code": 0.0})) == key(Mixture({"math": 1.0}))
    assert key(Mixture({"a": 1.0, "b": 2.0})) == key(Mixture({"b": 2.0, "a": 1.0}))
    own, turned = {"m": {"a": 1.0, "b": 2.0, "c": 0.0}}, {"m": {"b": 2, "a": 1}}
    assert key(Mixture(by_matrix=own)) == key(Mixture(by_matrix=turned))
    assert key(Mixture({"c": 0.0}, by_matrix=own)).experts == {"a", "b"}
    distinct = [
        Mixture(),
        Mixture({"math": 1.0}),
        Mixture({"math": 0.5}),
        Mixture({"math": 1.0}, strength=0.5),
        Mixture({"math": 1.0}, gains=Gains(late=0.0)),
    ]
    assert len({key(m) for m in distinct}) == len(distinct)


def test_an_unknown_expert_is_named_with_those_there_are(workshop):
    with pytest.raises(T2LocalError, match=r"no expert 'maths'.*code, math"):
        workshop.applier.check(Mixture({"maths": 1.0}))


# --- Long answers of a float model come from an 8-bit copy. Of weights that are whole steps already
# it is exact, which shows that nothing else moves.

ASK = ({"role": "user", "content": "What is 2 + 2?"},)
MATH, CODE = Mixture({"math": 1.0}), Mixture({"code": 0.5, "math": 0.25})
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=64)


@pytest.fixture
def exact(workshop, tiny_loaded, monkeypatch):
    """A workshop whose weights and bases are whole steps; the model never ends by itself."""
    loaded = tiny_loaded("llama")
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = rounded(module.weight).dense()
    monkeypatch.setattr("t2local.models.decode.generate._stops", lambda loaded: set())
    svf = attach(loaded.model, "all", "int8")
    applier = Applier(svf, workshop.applier.experts)
    return replace(workshop, loaded=loaded, applier=applier, prefixes=PrefixCache())


@pytest.fixture
def in_8_bits(exact):
    """The same with an 8-bit copy."""
    svf, experts = exact.applier.svf, exact.applier.experts
    applier = Applier(svf, experts, in_8_bits=RoundedSteps(exact.loaded, svf))
    return replace(exact, applier=applier, prefixes=PrefixCache())


def speak(workshop, mixture, sampling=GREEDY, **options):
    return list(answer(workshop, ASK, Controls("manual", mixture=mixture), sampling, **options))


@pytest.mark.parametrize("mixture", [Mixture(), MATH, CODE])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.7, max_new_tokens=64, seed=4)])
def test_an_answer_from_the_copy_is_the_exact_one(exact, in_8_bits, mixture, sampling):
    meant, found = (speak(shop, mixture, sampling)[-1] for shop in (exact, in_8_bits))
    assert (found.texts, found.tokens) == (meant.texts, meant.tokens)
    assert found.int8_tokens == found.tokens - 1  # the first comes with the prompt
    assert meant.int8_tokens == 0
    again = speak(in_8_bits, mixture, sampling)[-1]  # from the same copy and the kept prefix
    assert (again.texts, again.int8_tokens) == (meant.texts, found.int8_tokens)


def test_what_is_asked_again_is_answered_again_from_rounded_weights(workshop, monkeypatch):
    monkeypatch.setattr("t2local.models.decode.generate._stops", lambda loaded: set())
    svf, experts = workshop.applier.svf, workshop.applier.experts
    applier = Applier(svf, experts, in_8_bits=RoundedSteps(workshop.loaded, svf))
    shop = replace(workshop, applier=applier, prefixes=PrefixCache())
    sampling = Sampling(1.0, top_p=1.0, max_new_tokens=64, seed=4)
    first, second = (speak(shop, MATH, sampling)[-1] for _ in range(2))
    assert first.int8_tokens == first.tokens - 1
    assert (second.texts, second.int8_tokens) == (first.texts, first.int8_tokens)


def test_it_can_be_stopped_while_the_copy_is_made(in_8_bits, monkeypatch):
    cancel, made = CancelToken(), in_8_bits.applier.round_on

    def stopped():
        cancel.cancel()
        return made()

    monkeypatch.setattr(in_8_bits.applier, "round_on", stopped)
    done = speak(in_8_bits, MATH, cancel=cancel)[-1]
    assert (done.finish, done.tokens, done.int8_tokens) == ("cancelled", 1, 0)
    assert in_8_bits.applier.copies_bytes == 0
    monkeypatch.undo()
    assert speak(in_8_bits, MATH)[-1].int8_tokens > 0, "what was made of it is gone on with"


def test_without_memory_for_a_copy_answers_are_exact_and_it_is_said(exact, in_8_bits, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("t2local.models.decode.compiled_steps.rounded", full)
    found, meant = speak(in_8_bits, MATH)[-1], speak(exact, MATH)[-1]
    assert (found.texts, found.int8_tokens) == (meant.texts, 0)
    assert "no memory" in in_8_bits.applier.rounding_problem
    assert not in_8_bits.applier.rounds


def test_one_copy_serves_every_mixture_and_outlives_a_restock(in_8_bits):
    applier = in_8_bits.applier
    assert applier.copies_bytes == 0
    speak(in_8_bits, MATH)
    taken = applier.copies_bytes
    assert taken > 0
    speak(in_8_bits, CODE)
    assert applier.copies_bytes == taken
    after = Applier(
        applier.svf, applier.experts, in_8_bits=RoundedSteps(in_8_bits.loaded, applier.svf)
    )
    after.take_over(applier)
    assert after.copies_bytes == taken


@pytest.mark.parametrize("options", [{"compare": True}, {}])
def test_side_by_side_and_short_answers_stay_exact(in_8_bits, options):
    short = replace(GREEDY, max_new_tokens=64 if options else two_pass.WORTH_ROUNDING - 1)
    assert speak(in_8_bits, MATH, short, **options)[-1].int8_tokens == 0
    assert in_8_bits.applier.copies_bytes == 0


def test_answers_that_are_to_be_exact_are_and_share_no_prefix(in_8_bits):
    assert speak(in_8_bits, MATH)[-1].int8_tokens > 0
    assert speak(in_8_bits, MATH, replace(GREEDY, exact=True))[-1].int8_tokens == 0
    assert len(in_8_bits.prefixes._kept) == 2


def test_the_wheel_turns_from_the_copy_to_the_copy(exact, in_8_bits):
    def turned(shop):
        steering, seen = Steering(), []
        for event in answer(shop, ASK, Controls("manual", mixture=MATH), GREEDY, steering):
            seen.append(event)
            if isinstance(event, Token) and event.tokens >= 20:
                steering.steer(CODE)
        return seen

    meant, found = turned(exact), turned(in_8_bits)
    assert found[-1].texts == meant[-1].texts
    steps = [next(e.at_token for e in seen if isinstance(e, Steered)) for seen in (meant, found)]
    assert steps[0] == steps[1]


def test_bases_of_floats_are_rounded_for_the_copy_alone(workshop):
    svf, z = workshop.applier.svf, workshop.applier.experts["math"]
    steps = RoundedSteps(workshop.loaded, svf)
    before, cache = logits(workshop), DynamicCache()
    with torch.no_grad(), svf.using(z):
        meant = workshop.loaded.model(IDS, past_key_values=cache).logits[:, -1]
    assert steps.under(z) is None
    while steps.make_on():
        assert steps.held_bytes == 0
    variant = steps.under(z)
    cache.crop(-1)
    found = variant.step(variant.begin(cache, 4), IDS[0, -1:])
    assert 0 < float((found - meant).norm() / meant.norm()) < 0.05
    assert torch.equal(logits(workshop), before)
