from dataclasses import replace

import pytest
import torch

from t2local.adapt import two_pass
from t2local.adapt.applier import BASE_KEY, Applier
from t2local.adapt.dispatch import Controls, Done, Steered, Token
from t2local.adapt.two_pass import Steering, answer
from t2local.errors import T2LocalError
from t2local.models.decode.generate import PrefixCache
from t2local.models.decode.int8 import Packer
from t2local.models.decode.sampling import Sampling
from t2local.progress import CancelToken
from t2local.svf import Gains, Mixture
from tests.models.decode.products import float_product

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


# --- Answers whose mixture stays are packed: exact products show that nothing else moves.

ASK = ({"role": "user", "content": "What is 2 + 2?"},)
MATH, CODE = Mixture({"math": 1.0}), Mixture({"code": 0.5, "math": 0.25})
SAMPLED = Sampling(temperature=0.7, max_new_tokens=64)  # no seed: packed on the way
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=64)


@pytest.fixture
def packing(workshop, monkeypatch):
    """The workshop with a packer; the model never ends by itself."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr("t2local.models.fit.anatomy.ENGINES", {torch.backends.quantized.engine})
    workshop.loaded.model.generation_config.eos_token_id = None
    monkeypatch.setattr("t2local.models.decode.generate._stops", lambda loaded: set())
    before = workshop.applier
    packer = Packer(workshop.loaded, float_product)
    applier = Applier(before.svf, before.experts, packer=packer)
    return replace(workshop, applier=applier, prefixes=PrefixCache())


def speak(workshop, mixture, sampling=GREEDY, **options):
    return list(answer(workshop, ASK, Controls("manual", mixture=mixture), sampling, **options))


@pytest.mark.parametrize("mixture", [Mixture(), MATH, CODE])
def test_a_packed_answer_is_the_exact_one_where_products_are_exact(workshop, packing, mixture):
    exact = speak(workshop, mixture)[-1]
    packed = speak(packing, mixture)[-1]
    assert packing.applier.packed(mixture) is not None
    assert workshop.applier.packed(mixture) is None
    assert (packed.texts, packed.tokens) == (exact.texts, exact.tokens)
    again = speak(packing, mixture)[-1]  # from the kept copy and the kept prefix
    assert again.texts == exact.texts


def test_an_answer_to_be_repeated_is_packed_before_its_first_token(packing):
    for sampling in (GREEDY, replace(SAMPLED, seed=4)):
        events = answer(packing, ASK, Controls("manual", mixture=MATH), sampling)
        next(events)  # what was decided
        next(events)  # a token
        assert packing.applier.packed(MATH) is not None
        events.close()
        packing.applier._packed.clear()


def test_others_are_packed_between_tokens_once_they_go_on(packing):
    ready = {}
    for event in answer(packing, ASK, Controls("manual", mixture=MATH), SAMPLED):
        if isinstance(event, Token):
            ready[event.tokens] = packing.applier.packed(MATH) is not None
    after = [n for n, packed in ready.items() if packed]
    assert min(after) > two_pass.PACK_AFTER
    assert ready[max(ready)]


@pytest.mark.parametrize("options", [{"compare": True}, {}])
def test_side_by_side_and_short_answers_stay_exact(packing, options):
    short = replace(GREEDY, max_new_tokens=64 if options else two_pass.WORTH_PACKING - 1)
    speak(packing, MATH, short, **options)
    assert packing.applier.packed(MATH) is None


def test_what_came_from_8_bits_is_counted_and_none_where_answers_are_to_be_exact(workshop, packing):
    packed = speak(packing, MATH)[-1]
    assert packed.int8_tokens == packed.tokens - 1  # the first comes with the prompt
    exact = speak(packing, MATH, replace(GREEDY, exact=True))[-1]
    assert exact.int8_tokens == 0
    assert speak(workshop, MATH)[-1].int8_tokens == 0
    assert len(packing.prefixes._kept) == 2, "nor is a prefix taken over"
    sampled = speak(packing, CODE, SAMPLED)[-1]
    assert 0 < sampled.int8_tokens < sampled.tokens - two_pass.PACK_AFTER


def test_a_turn_of_the_wheel_goes_back_to_the_branch_at_once(workshop, packing):
    def turned(shop):
        steering, seen = Steering(), []
        for event in answer(shop, ASK, Controls("manual", mixture=MATH), GREEDY, steering):
            seen.append(event)
            if isinstance(event, Token) and event.tokens >= 20:
                steering.steer(CODE)
        return seen

    exact, packed = turned(workshop), turned(packing)
    assert packed[-1].texts == exact[-1].texts
    steps = [next(e.at_token for e in seen if isinstance(e, Steered)) for seen in (exact, packed)]
    assert steps[0] == steps[1]


def test_stopping_while_it_is_packed_leaves_nothing_half_done(packing):
    cancel = CancelToken()
    events = answer(packing, ASK, Controls("manual", mixture=MATH), GREEDY, cancel=cancel)
    next(events)
    cancel.cancel()
    last = list(events)[-1]
    assert isinstance(last, Done)
    assert last.finish == "cancelled"
    assert packing.applier.packed(MATH) is None
    assert speak(packing, MATH)[-1].finish == "length"


def test_another_mixture_gives_up_what_is_half_packed_and_few_copies_are_kept(packing):
    applier = packing.applier
    applier.pack_on(MATH)
    mixtures = [Mixture({"math": a}) for a in (0.1, 0.2, 0.3, 0.4)]
    for mixture in mixtures:
        while applier.pack_on(mixture):
            pass
    assert [applier.packed(m) is not None for m in mixtures] == [False, True, True, True]
    assert applier.packed(MATH) is None


def test_copies_outlive_a_restock_where_their_experts_do(packing):
    applier = packing.applier
    for mixture in (Mixture(), MATH, CODE):
        while applier.pack_on(mixture):
            pass
    retrained = {**applier.experts, "code": applier.experts["reader"]}
    after = Applier(applier.svf, retrained, packer=Packer(packing.loaded, float_product))
    after.take_over(applier)
    assert after.key(Mixture()) == BASE_KEY
    assert after.packed(Mixture()) is applier.packed(Mixture())
    assert after.packed(MATH) is applier.packed(MATH)
    assert after.packed(CODE) is None
