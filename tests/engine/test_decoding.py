"""How answers are written is chosen by the model and the machine, and said with the reason."""

from dataclasses import replace

import pytest

from t2local.engine.engine import Engine
from t2local.engine.requests import ChatRequest, Controls
from t2local.models.decode.cuda_graphs import GraphSteps, StepDecoder
from t2local.models.decode.sampling import Sampling
from t2local.svf import Mixture

ASK = ({"role": "user", "content": "What is 2 + 2?"},)
LONG = Sampling(temperature=0.0, max_new_tokens=60)


@pytest.fixture
def rounding(monkeypatch):
    """Any model counts as worth rounding."""
    monkeypatch.setattr("t2local.engine.loading.ROUND_BYTES", 0)


def opened(folder, precision="auto"):
    return Engine(str(folder), precision=precision).load()._ready()


def test_a_quantised_model_and_an_exact_one_are_decoded_plainly(model_folder, rounding):
    assert "8-bit weights" in opened(model_folder).decoding()
    assert opened(model_folder, "exact").decoding() == "plain steps (exact answers were asked for)"
    whole = opened(model_folder)
    small = replace(whole, loaded=replace(whole.loaded, quantization="nf4"))
    assert "only float32 models" in small.decoding()


def test_a_very_small_model_is_not_rounded(engine):
    assert engine._ready().decoding().startswith("plain steps (so small a model")


@pytest.mark.parametrize("problem", ["", "operation not permitted"])
def test_where_steps_are_captured_it_is_tried(model_folder, monkeypatch, problem):
    monkeypatch.setattr("t2local.models.decode.cuda_graphs.why_not", lambda loaded: "")
    build = StepDecoder.__init__

    def built(decoder, *given):
        build(decoder, *given)
        decoder.problem = problem

    monkeypatch.setattr(StepDecoder, "__init__", built)
    found = opened(model_folder)
    assert isinstance(found.workshop.applier._graphs.steps, GraphSteps)
    captured = "captured steps (CUDA graphs); base beside adapted by plain ones"
    expected = f"plain steps ({problem})" if problem else captured
    assert found.decoding() == expected
    assert found.decoding() == expected


def test_the_status_counts_the_copies_there_are(engine, model_folder, rounding):
    whole = Engine(str(model_folder)).load()
    before, base = whole.status, engine.status
    assert before.resident_bytes == before.basis_bytes + before.copies_bytes + (
        base.resident_bytes - base.basis_bytes - base.copies_bytes
    )
    assert before.copies_bytes == whole._ready().workshop.applier.copies_bytes > 0  # the classifier
    asked = ChatRequest(ASK, Controls("manual", mixture=Mixture({"math": 1.0})), LONG)
    whole._ready().loaded.model.generation_config.eos_token_id = None
    done = list(whole.answer("s", asked))[-1]
    after = whole.status
    assert done.int8_tokens > 0
    assert after.copies_bytes > before.copies_bytes
    assert after.resident_bytes - after.copies_bytes == before.resident_bytes - before.copies_bytes
