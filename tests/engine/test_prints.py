"""A person's expert is dispatched to in the very next message, and says what a message is like."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from t2local.adapt.dispatch import SIMILARITY, Dispatched
from t2local.engine.engine import Seat
from t2local.engine.people import GUEST, OWNER, Account
from t2local.engine.requests import ChatRequest, Controls
from t2local.errors import T2LocalError
from t2local.experts import Library
from t2local.training.config import TrainConfig

QUICK = TrainConfig(
    steps=2, prompts_per_step=4, samples_per_prompt=2, max_new_tokens=4, validate_every=2
)


@pytest.fixture
def data(tmp_path):
    rows = [
        {"prompt": f"COLOUR-{i:02}-OF-WHAT?", "answer": "red", "choices": ["blue", "red"]}
        for i in range(24)
    ]
    path = tmp_path / "red.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture
def trained(engine, data, monkeypatch):
    """An engine with an expert *red*, and the name of its run, which measured no forgetting."""
    monkeypatch.setattr("t2local.training.runner.other_tasks", lambda *_: ())
    run = engine.training.start("red", data, "choice", "the steps below", QUICK)
    deadline = time.monotonic() + 60
    while engine.training.report(run).live:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return engine, run


def asked(text, strategy=SIMILARITY):
    return ChatRequest(({"role": "user", "content": text},), Controls(strategy))


def test_before_there_is_a_print_nobody_is_found_by_it(engine):
    assert SIMILARITY not in engine.strategies()


def test_a_new_expert_is_chosen_in_the_very_next_message(trained):
    engine, _ = trained
    assert engine.strategies()[0] == SIMILARITY
    own = engine.dispatch(asked("COLOUR-99-OF-WHAT?"))
    assert (own.chosen, set(own.mixture.alpha)) == ("red", {"red"})
    assert engine.dispatch(asked("Please tell me something about your day.")).chosen == "other"


def test_the_report_says_for_how_many_held_out_prompts_it_is_chosen(trained):
    engine, run = trained
    found = engine.training.report(run).found
    assert found.of_own == 6
    assert found.own >= 5
    assert found.taken <= found.of_others // 10


def test_its_prompts_are_shown_while_the_data_are_here(trained, data):
    engine, _ = trained
    prompts = engine.prompts_of("red")
    expert = Library(engine.models.ready().loaded.slug).load("red")
    assert len(prompts) == len(expert.prompt_print)
    first = next(engine.answer("chat", asked(prompts[3])))
    assert isinstance(first, Dispatched)
    nearest = first.dispatch.near[0]
    assert prompts[nearest.place] == prompts[3]
    Path(data).unlink()
    assert engine.prompts_of("red") == ()


def test_experts_without_a_print_or_a_run_show_no_prompts(trained):
    engine, _ = trained
    assert engine.prompts_of("math") == ()
    assert engine.prompts_of("nobody") == ()


def test_a_guest_is_dispatched_too_and_does_not_see_what_the_owner_trained_on(trained):
    engine, _ = trained
    guest = Seat(engine, Account("ben", GUEST, ""), engine.chats)
    with pytest.raises(T2LocalError, match="Only the owner of this t2local can see what"):
        guest.prompts_of("red")
    owner = Seat(engine, Account("anna", OWNER, ""), engine.chats)
    assert owner.prompts_of("red")


def test_an_older_expert_gets_its_print_from_its_runs_rows(trained):
    engine, _ = trained
    library = Library(engine.models.ready().loaded.slug)
    before = library.load("red")
    library.save(replace(before, prompt_print=None))
    engine.restock()
    assert SIMILARITY not in engine.strategies()
    assert engine.library.note_prompts("red") == len(before.prompt_print)
    assert engine.strategies()[0] == SIMILARITY


def test_an_expert_that_came_without_its_rows_says_what_to_do(engine):
    with pytest.raises(T2LocalError, match="No training run of 'math' is on this machine"):
        engine.library.note_prompts("math")


def test_a_copy_covers_its_originals_ground_and_both_say_so(trained):
    engine, _ = trained
    assert not any(expert.overlap for expert in engine.experts())
    engine.library.duplicate("red")
    told = {expert.name: expert.overlap for expert in engine.experts() if expert.overlap}
    assert set(told) == {"red", "red-copy"}
    assert "shares its messages with" in told["red-copy"]
    found = engine.dispatch(asked("COLOUR-99-OF-WHAT?"))
    assert set(found.mixture.alpha) == {"red", "red-copy"}
