"""Memory that runs out while an answer is made: one sentence, and the model stays usable."""

from dataclasses import replace

import pytest
import torch

from t2local.adapt.dispatch import Controls
from t2local.adapt.two_pass import answer
from t2local.errors import T2LocalError
from t2local.models.decode.out_of_memory import out_of_memory, out_of_memory_told
from t2local.models.decode.sampling import Sampling
from t2local.svf import Mixture
from tests.adapt.conftest import workshop

__all__ = ["workshop"]

ASKED = [{"role": "user", "content": "How many legs have seven spiders?"}]
GREEDY = Sampling(temperature=0.0, max_new_tokens=6)
MATH = Controls("manual", mixture=Mixture({"math": 1.0}))
SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


def said(workshop) -> str:
    return list(answer(workshop, ASKED, MATH, GREEDY))[-1].texts[0]


@pytest.mark.parametrize("error", SHORTAGES, ids=["gpu", "cpu", "python"])
@pytest.mark.parametrize("forwards", [0, 3])
def test_a_shortage_in_a_layer_is_one_sentence_and_the_next_answer_is_right(
    workshop, error, forwards
):
    expected, left = said(workshop), [forwards]

    def short(*_):
        if not left[0]:
            raise error
        left[0] -= 1

    layer = workshop.loaded.model.model.layers[1].mlp.down_proj.base
    hook = layer.register_forward_pre_hook(short)
    with pytest.raises(T2LocalError) as told:
        said(workshop)
    hook.remove()
    sentence = str(told.value)
    assert "this machine's memory" in sentence
    assert f"{workshop.loaded.context_length:,} tokens" in sentence
    for way in ("shorten the chat", "--basis int8", "--quantize nf4", "MLP"):
        assert way in sentence
    assert said(workshop) == expected


def test_what_helps_depends_on_the_model(workshop):
    small = replace(workshop.loaded, quantization="nf4", device="cuda:0")
    with pytest.raises(T2LocalError) as told, out_of_memory_told(small, lambda: None):
        raise SHORTAGES[0]
    assert "the GPU's memory" in str(told.value)
    assert "nf4" not in str(told.value)


def test_caches_go_and_the_failed_tensors_with_them(tiny_loaded):
    forgotten, held = [], []

    def forward():
        scores = torch.ones(8)
        held.append(scores.untyped_storage()._weak_ref())
        raise SHORTAGES[0]

    with (
        pytest.raises(T2LocalError),
        out_of_memory_told(tiny_loaded(), lambda: forgotten.append(True)),
    ):
        forward()
    assert forgotten == [True]
    assert torch.UntypedStorage._expired(held[0])


def test_another_error_stays_what_it_is(tiny_loaded):
    assert not out_of_memory(RuntimeError("shapes do not match"))
    with (
        pytest.raises(RuntimeError, match="shapes"),
        out_of_memory_told(tiny_loaded(), lambda: None),
    ):
        raise RuntimeError("shapes do not match")
