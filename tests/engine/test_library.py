"""Experts come and go while answers run: later answers see the change, running ones finish."""

import pytest

from t2local.adapt.applier import Applier
from t2local.adapt.dispatch import Done, Steered, Token
from t2local.engine.requests import ChatRequest, Controls
from t2local.errors import T2LocalError
from t2local.models.decode.sampling import Sampling
from t2local.svf import Mixture

ASK = ({"role": "user", "content": "What is 2 + 2?"},)
GREEDY = Sampling(temperature=0.0, max_new_tokens=12, repetition_penalty=1.0)


def ask(engine, name, strategy="manual", session="s"):
    controls = Controls(strategy, mixture=Mixture({name: 1.0}))
    return engine.answer(session, ChatRequest(ASK, controls, GREEDY))


def said(events):
    return next(e for e in events if isinstance(e, Done)).texts[0]


def names(engine):
    return [expert.name for expert in engine.experts()]


@pytest.mark.parametrize("strategy", ["manual", "classifier", "prompt"])
def test_an_answer_in_progress_with_a_deleted_expert_finishes_as_it_would_have(engine, strategy):
    whole = said(ask(engine, "math", strategy))
    answer = ask(engine, "math", strategy)
    next(event for event in answer if isinstance(event, Token))
    engine.library.delete("math")
    engine.library.delete("reader")
    assert said(answer) == whole
    with pytest.raises(T2LocalError, match="no expert 'math'"):
        list(ask(engine, "math"))


def test_the_wheel_of_an_answer_in_progress_still_knows_a_deleted_expert(engine):
    answer = ask(engine, "code")
    next(event for event in answer if isinstance(event, Token))
    engine.library.delete("math")
    engine.steer("s", Mixture({"math": 1.0}))
    assert any(isinstance(event, Steered) for event in answer)


def test_delete_and_undo_through_the_engine(engine):
    before = said(ask(engine, "math"))
    engine.library.delete("math")
    assert names(engine) == ["code", "reader"]
    assert [deleted.name for deleted in engine.library.deleted()] == ["math"]
    assert engine.library.restore("math") == "math"
    assert said(ask(engine, "math")) == before


def test_a_renamed_expert_answers_under_its_new_name_alone(engine):
    before = said(ask(engine, "math"))
    engine.library.rename("math", "sums")
    assert said(ask(engine, "sums")) == before
    with pytest.raises(T2LocalError, match="no expert 'math'"):
        list(ask(engine, "math"))


def test_without_the_classifier_its_strategy_goes_and_comes_back(engine):
    engine.library.delete("reader")
    assert "classifier" not in engine.strategies()
    engine.library.restore("reader")
    assert engine.strategies()[0] == "classifier"


def test_what_was_taken_meanwhile_comes_back_under_another_name(engine):
    engine.library.delete("math")
    engine.library.rename("code", "math")
    assert engine.library.restore("math") == "math-2"
    assert names(engine) == ["math", "math-2", "reader"]


def test_a_shared_file_comes_in_and_one_of_other_weights_does_not(engine, tmp_path, tiny_folder):
    shared = engine.library.share("math", tmp_path)
    with pytest.raises(T2LocalError, match="already"):
        engine.library.import_file(shared)
    assert engine.library.import_file(shared, "friend") == ("friend", "")
    assert said(ask(engine, "friend")) == said(ask(engine, "math"))
    shared.write_bytes(shared.read_bytes().replace(b'"svf1-', b'"svf1x'))
    with pytest.raises(T2LocalError, match="another basis"):
        engine.library.import_file(shared, "foreign")
    assert "foreign" not in names(engine)


def test_a_name_in_training_is_taken(engine, monkeypatch):
    monkeypatch.setattr(engine.library, "in_training", lambda: {"red"})
    with pytest.raises(T2LocalError, match="an expert 'red' already"):
        engine.library.rename("math", "red")


def test_a_preview_of_an_expert_that_is_deleted_meanwhile_is_as_before(engine, monkeypatch):
    controls = Controls("manual", mixture=Mixture({"math": 1.0}))
    asked = ChatRequest(ASK, controls, GREEDY)
    before = engine.next_tokens("s", asked, controls.mixture)
    check = Applier.check

    def checked(applier, mixture):
        check(applier, mixture)
        engine.library.delete("math")

    monkeypatch.setattr(Applier, "check", checked)
    found = engine.next_tokens("s", asked, controls.mixture)
    assert [word for word, _ in found.adapted] == [word for word, _ in before.adapted]
