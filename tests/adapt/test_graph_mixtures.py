"""Answers by CUDA graphs: what is said is what the forward says, and a new z is only copied.

On the CPU a graph is stood in for by a call that, like a graph, is fixed at its capture: it runs
under what was in force then, on the tensors of then.
"""

from dataclasses import replace

import pytest
import torch

from t2local.adapt.applier import Applier, GraphMixtures
from t2local.adapt.dispatch import Controls, Steered, Token
from t2local.adapt.two_pass import Steering, Workshop, answer
from t2local.models.decode.cuda_graphs import GraphSteps, StepDecoder, why_not
from t2local.models.decode.generate import PrefixCache
from t2local.models.decode.sampling import Sampling
from t2local.models.load.loader import describe
from t2local.progress import CancelToken
from t2local.svf import Mixture, attach
from tests.adapt.conftest import random_z
from tests.conftest import byte_tokenizer

ASK = ({"role": "user", "content": "What is 2 + 2?"},)
MATH, CODE = Mixture({"math": 1.0}), Mixture({"code": 0.5, "math": 0.25})
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=40)
SAMPLED = Sampling(temperature=0.7, max_new_tokens=40, seed=3)


class Replayed:
    """A step as it was captured."""

    def __init__(self, decoder, around, logits):
        self.decoder, self.around, self.logits = decoder, around, logits

    @torch.no_grad()
    def replay(self):
        with self.around():
            self.logits.copy_(self.decoder._forward())


@pytest.fixture
def captures(monkeypatch):
    """The variants that were captured, in order."""
    found, build = [], StepDecoder.__init__

    def built(decoder, *given):
        build(decoder, *given)
        decoder.captured = True

    def captured(decoder, variant, around):
        found.append(variant)
        lengths = [layer.cumulative_length.clone() for layer in decoder._cache.layers]
        with around():
            logits = decoder._forward()
        decoder._rewind(lengths)
        decoder._graphs[variant] = (Replayed(decoder, around, logits), logits)

    monkeypatch.setattr(StepDecoder, "__init__", built)
    monkeypatch.setattr(StepDecoder, "_capture", captured)
    return found


@pytest.fixture
def capturing(workshop, captures, monkeypatch):
    """The workshop with CUDA graphs; the model never ends by itself."""
    monkeypatch.setattr("t2local.models.decode.generate._stops", lambda loaded: set())
    before = workshop.applier
    steps = GraphMixtures(before.svf, GraphSteps(workshop.loaded))
    applier = Applier(before.svf, before.experts, graphs=steps)
    return replace(workshop, applier=applier, prefixes=PrefixCache())


def speak(workshop, mixture, sampling=GREEDY, ask=ASK, **options):
    return list(answer(workshop, ask, Controls("manual", mixture=mixture), sampling, **options))


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("mixture", [Mixture(), MATH, CODE], ids=["base", "math", "two"])
def test_what_is_said_is_what_the_forward_says(workshop, capturing, captures, mixture, sampling):
    exact, found = (speak(shop, mixture, sampling)[-1] for shop in (workshop, capturing))
    assert (found.texts, found.tokens, found.finish) == (exact.texts, exact.tokens, exact.finish)
    assert captures == ["base" if mixture.is_base else "adapted 0"]
    assert speak(capturing, mixture, sampling)[-1].texts == exact.texts  # from the kept prefix
    assert len(captures) == 1


def test_sliders_that_move_in_mid_answer_capture_nothing_again(workshop, capturing, captures):
    ways = [CODE, Mixture({"math": -0.5}), Mixture(), replace(MATH, strength=0.3), CODE]

    def turned(shop):
        steering, seen, left = Steering(), [], list(ways)
        for event in answer(shop, ASK, Controls("manual", mixture=MATH), GREEDY, steering):
            seen.append(event)
            if isinstance(event, Token) and event.tokens >= 6 * (len(ways) + 1 - len(left)):
                steering.steer(left.pop(0)) if left else None
        return seen

    exact, found = turned(workshop), turned(capturing)
    assert sum(isinstance(event, Steered) for event in found) == len(ways)
    assert found[-1].texts == exact[-1].texts
    assert speak(workshop, MATH)[-1].texts != exact[-1].texts
    assert captures == ["adapted 0", "base"]


def test_a_chat_goes_on_from_its_kept_prefix_and_an_answer_is_continued(workshop, capturing):
    def chat(shop):
        said = []
        for continued in (False, True):
            last = {"role": "assistant", "content": "".join(said)}
            ask = (*ASK, last) if continued else ASK
            said.append(speak(shop, MATH, ask=ask, continue_last=continued)[-1].texts[0])
        again = (*ASK, {"role": "assistant", "content": said[0]}, *ASK)
        return [*said, speak(shop, MATH, ask=again)[-1].texts[0]]

    assert chat(capturing) == chat(workshop)
    (kept,) = capturing.prefixes._kept.values()
    assert kept.cache.get_seq_length() == len(kept.ids[0])


def test_stopping_leaves_a_prefix_that_serves_the_next_answer(workshop, capturing):
    cancel, events = CancelToken(), []
    for event in answer(capturing, ASK, Controls("manual", mixture=MATH), GREEDY, cancel=cancel):
        events.append(event)
        if isinstance(event, Token) and event.tokens >= 5:
            cancel.cancel()
    assert events[-1].finish == "cancelled"
    assert len(capturing.prefixes._kept) == 1
    assert speak(capturing, MATH)[-1].texts == speak(workshop, MATH)[-1].texts


def test_an_answer_ends_where_the_context_is_full(workshop, capturing):
    long = replace(GREEDY, max_new_tokens=4000)
    found, exact = (speak(shop, MATH, long)[-1] for shop in (capturing, workshop))
    assert found.texts == exact.texts
    assert found.context_used == found.context_length == workshop.loaded.context_length


def test_two_answers_at_once_share_the_model_and_not_the_fixed_cache(workshop, capturing, captures):
    exact = {key: speak(workshop, mixture)[-1] for key, mixture in (("a", MATH), ("b", CODE))}
    running = {
        "a": answer(capturing, ASK, Controls("manual", mixture=MATH), GREEDY),
        "b": answer(capturing, ASK, Controls("manual", mixture=CODE), GREEDY),
    }
    last = {}
    while running:
        for key, events in list(running.items()):
            event = next(events, None)
            if event is None:
                del running[key]
            last[key] = event or last[key]
    assert {key: done.texts for key, done in last.items()} == {k: d.texts for k, d in exact.items()}
    assert captures == ["adapted 0"]


def test_an_answer_that_is_dropped_gives_the_fixed_cache_back(capturing, captures):
    events = answer(capturing, ASK, Controls("manual", mixture=MATH), GREEDY)
    for _ in range(4):
        next(events)
    events.close()
    speak(capturing, Mixture())
    assert captures == ["adapted 0", "base"]


def test_base_beside_adapted_stays_with_the_forward(workshop, capturing, captures):
    found, exact = (speak(shop, MATH, compare=True)[-1] for shop in (capturing, workshop))
    assert found.texts == exact.texts
    assert captures == []


def test_what_cannot_be_captured_is_said_once_and_answered_all_the_same(
    workshop, capturing, captures, monkeypatch, caplog
):
    def refused(decoder, variant, around):
        captures.append(variant)
        decoder.problem, decoder.captured = "operation not permitted", False

    monkeypatch.setattr(StepDecoder, "_capture", refused)
    for mixture in (MATH, CODE):
        assert speak(capturing, mixture)[-1].texts == speak(workshop, mixture)[-1].texts
    assert captures == ["adapted 0"]
    assert [r.message for r in caplog.records if "plain steps" in r.message] == [
        "Answers are written by plain steps: operation not permitted."
    ]


def test_without_memory_for_a_fixed_cache_the_forward_answers(workshop, capturing, monkeypatch):
    def none_left(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(StepDecoder, "take_over", none_left)
    assert speak(capturing, MATH)[-1].texts == speak(workshop, MATH)[-1].texts
    assert capturing.applier.quick(MATH, may_round=True) is None


def test_graphs_outlive_a_restock_and_see_the_retrained_expert(workshop, capturing, captures):
    speak(capturing, MATH)
    before = capturing.applier
    experts = {**before.experts, "math": random_z(before.svf, 7)}
    steps = GraphMixtures(before.svf, GraphSteps(workshop.loaded))
    applier = Applier(before.svf, experts, graphs=steps)
    applier.take_over(before)
    exact = replace(workshop, applier=Applier(before.svf, experts))
    found = speak(replace(capturing, applier=applier), MATH)[-1].texts
    assert found == speak(exact, MATH)[-1].texts
    assert captures == ["adapted 0"]


def test_a_graph_serves_experts_of_some_matrices_with_their_branches_alone(workshop, capturing):
    svf = workshop.applier.svf
    part = {n: row for n, row in random_z(svf, 5).items() if "mlp" in n}
    applier = Applier(svf, {"math": part}, graphs=GraphMixtures(svf, GraphSteps(workshop.loaded)))
    with applier.quick(MATH, may_round=True).around():
        assert {n for n, layer in svf.layers.items() if n in layer.in_force.deltas} == set(part)
    exact = replace(workshop, applier=Applier(svf, {"math": part}))
    found = replace(capturing, applier=applier)
    assert speak(found, MATH)[-1].texts == speak(exact, MATH)[-1].texts


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma"])
def test_on_a_gpu_captured_tokens_are_plain_ones_and_no_z_is_captured_twice(
    tiny, family, monkeypatch
):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here; run `pytest -m gpu` on a machine that has one")
    monkeypatch.setattr("t2local.models.decode.generate._stops", lambda loaded: set())
    loaded = describe(tiny(family).cuda(), byte_tokenizer(), f"tiny-{family}")
    assert why_not(loaded) == ""
    svf = attach(loaded.model)
    experts = {"math": random_z(svf, 1), "code": random_z(svf, 2)}
    steps = GraphSteps(loaded)
    adapters = Applier(svf, experts), Applier(svf, experts, graphs=GraphMixtures(svf, steps))
    plain, capturing = (
        Workshop(loaded, applier, PrefixCache(), lambda: svf.lock) for applier in adapters
    )
    for mixture in (MATH, CODE, Mixture(), Mixture({"math": -0.5}), MATH):
        assert speak(capturing, mixture)[-1].texts == speak(plain, mixture)[-1].texts
    assert steps.problem == ""
    assert set(steps._decoder._graphs) == {"adapted 0", "base"}
    kept = list(steps._decoder._graphs.values())
    for mixture in (Mixture({"code": 1.5}), Mixture()):
        assert speak(capturing, mixture)[-1].texts == speak(plain, mixture)[-1].texts
    assert list(steps._decoder._graphs.values()) == kept
