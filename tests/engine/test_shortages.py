"""Memory that runs out in whatever the engine does: one sentence, and the model stays usable."""

from contextlib import contextmanager

import pytest
import torch

from t2local.adapt.cem import CEMConfig
from t2local.engine.evaluations import EvaluationPlan
from t2local.engine.requests import ChatRequest, Controls
from t2local.errors import T2LocalError
from t2local.models.decode.sampling import Sampling
from t2local.progress import drain
from t2local.svf import Mixture
from t2local.tasks.rows import Example

ASK = ({"role": "user", "content": "What is 2 + 2?"},)
MATH = Mixture({"math": 1.0})
GREEDY = Sampling(temperature=0.0, max_new_tokens=5)
SHOTS = [Example(f"{i}?", "ab"[i % 2], {"choices": ["a", "b"], "label": i % 2}) for i in range(4)]


def request(strategy: str, compare: bool = False) -> ChatRequest:
    return ChatRequest(ASK, Controls(strategy, mixture=MATH), GREEDY, compare)


def measured(engine, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a?", "answer": "b"}\n{"prompt": "c?", "answer": "d"}\n')
    plan = EvaluationPlan((str(path),), ("base", "math"), max_new_tokens=4)
    results = drain(engine.evaluations.run(plan)).results
    return [(result.strategy, result.n, result.correct) for result in results]


WORKS = {
    "pass 1": lambda engine, _: engine.dispatch(request("prompt")).chosen,
    "the preview": lambda engine, _: engine.next_tokens("s", request("manual"), MATH).adapted,
    "an answer": lambda engine, _: list(engine.answer("s", request("manual")))[-1].texts,
    "base beside adapted": lambda engine, _: (
        list(engine.answer("s", request("manual", compare=True)))[-1].texts
    ),
    "a search": lambda engine, _: (
        drain(engine.searches.search(SHOTS, "choice", CEMConfig(5, generations=2))).mixture
    ),
    "a measurement": measured,
}
CASES = [(name, n) for name in WORKS for n in (0, 1) if (name, n) != ("pass 1", 1)]  # it has one
SAID = {"the preview": "next word", "a search": "search", "a measurement": "measurement"}


@contextmanager
def shortage(engine, forwards):
    """After so many forwards a matrix of the last layer finds no memory."""
    left = [forwards]

    def short(*_):
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    layer = engine._ready().loaded.model.model.layers[-1].mlp
    hook = layer.register_forward_pre_hook(short)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize(("name", "forwards"), CASES)
def test_it_is_told_in_one_sentence_and_the_same_work_is_right_afterwards(
    engine, tmp_path, name, forwards
):
    with shortage(engine, forwards), pytest.raises(T2LocalError) as told:
        WORKS[name](engine, tmp_path)
    sentence = str(told.value)
    assert f"{SAID.get(name, 'answer')} needed more than this machine's memory" in sentence
    assert "--quantize nf4" in sentence
    assert not engine.jobs.busy()
    found = WORKS[name](engine, tmp_path)
    engine.models._opened = engine._ready().restocked(lambda _: [])  # nothing is kept
    assert WORKS[name](engine, tmp_path) == found


def test_a_new_answer_follows_any_shortage(engine, tmp_path):
    expected = WORKS["an answer"](engine, tmp_path)
    for name in WORKS:
        with shortage(engine, 0), pytest.raises(T2LocalError):
            WORKS[name](engine, tmp_path)
        assert WORKS["an answer"](engine, tmp_path) == expected
        assert not engine._ready().svf.lock._owner, "the model is not held any more"
