import pytest
import torch

from t2local.adapt.applier import Applier
from t2local.errors import T2LocalError
from t2local.svf import Gains, Mixture

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
