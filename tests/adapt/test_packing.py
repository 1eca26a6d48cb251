"""Answers whose mixture stays are packed: exact products show that nothing else moves."""

from dataclasses import replace

import pytest
import torch

from t2local.adapt import two_pass
from t2local.adapt.answer_stream import Done, Steered, Token
from t2local.adapt.applier import BASE_KEY, Applier
from t2local.adapt.dispatch import Controls
from t2local.adapt.two_pass import Steering, answer
from t2local.models.decode.int8 import Packer
from t2local.models.decode.prefix_cache import PrefixCache
from t2local.models.decode.sampling import Sampling
from t2local.progress import CancelToken
from t2local.svf import Mixture
from tests.models.decode.products import float_product

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
