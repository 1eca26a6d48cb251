import json
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import psutil
import pytest
import torch

from t2local.adapt import two_pass
from t2local.adapt.context import TooLong
from t2local.adapt.dispatch import STRATEGIES, Dispatched, Done, Steered, Strategy, Token
from t2local.cli.main import main
from t2local.engine import loading
from t2local.engine.answers import Asked
from t2local.engine.engine import Engine
from t2local.engine.evaluations import EvaluationPlan
from t2local.engine.requests import ChatRequest, Controls
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore, read_expert, write_expert
from t2local.models.decode.generate import Decoder
from t2local.models.decode.sampling import Sampling
from t2local.progress import drain
from t2local.svf import Mixture
from t2local.svf.model import FairLock
from t2local.ui.chat.wheel import create_wheel
from t2local.ui.messages import explained

ASK = ({"role": "user", "content": "What is 2 + 2?"},)
GREEDY = Sampling(temperature=0.0, max_new_tokens=16, repetition_penalty=1.0)
MATH, CODE = Mixture({"math": 1.0}), Mixture({"code": 1.0})


def request(strategy="manual", mixture=MATH, **options):
    return ChatRequest(ASK, Controls(strategy, mixture=mixture), GREEDY, **options)


def text(events):
    return next(e for e in events if isinstance(e, Done)).texts[0]


def test_status_goes_from_starting_to_ready_in_the_background(model_folder):
    engine = Engine(str(model_folder))
    assert not engine.status.ready
    engine.start()
    deadline = time.monotonic() + 30
    while not engine.status.ready and time.monotonic() < deadline:
        time.sleep(0.02)
    assert engine.status.ready
    status, process = engine.status, psutil.Process().memory_info().rss
    assert 0 < status.resident_bytes < status.memory_bytes
    assert status.memory_bytes == pytest.approx(process, rel=0.2), "of all that there is"


def test_a_model_that_cannot_be_loaded_is_one_sentence_in_the_status(tmp_path):
    engine = Engine(str(tmp_path))
    engine.start()
    deadline = time.monotonic() + 30
    while engine.status.error is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert str(tmp_path.name) in engine.status.error
    with pytest.raises(T2LocalError, match="not ready"):
        next(engine.answer("s", request()))


def test_experts_and_strategies(engine):
    assert [(e.name, e.kind, e.usable) for e in engine.experts()] == [
        ("code", "skill", True), ("math", "skill", True), ("reader", "classifier", True),
    ]  # fmt: skip
    assert engine.strategies() == ["classifier", "prompt", "manual", "base"]


def by_length(strategy, reading, messages):
    """Short messages are called math, long ones code."""
    called = [("math", "code") if len(m) < 40 else ("code", "math") for m in messages]
    return [{likely: 0.75, other: 0.25} for likely, other in called]


def test_a_strategy_that_is_added_to_the_table_is_known_everywhere(
    engine, model_folder, monkeypatch, tmp_path, capsys
):
    added = Strategy("by-length", "the length of the message", ("skills",), probabilities=by_length)
    monkeypatch.setitem(STRATEGIES, added.name, added)
    assert added.name in engine.strategies()
    with gr.Blocks():
        assert (added.name, added.name) in create_wheel().strategy.choices
    assert "the length of the message (by-length)" in explained("strategy")
    row = tmp_path / "rows.jsonl"
    row.write_text(
        '{"prompt": "thing?", "answer": "red", "choices": ["red", "blue"], "label": 0}\n'
    )
    desk, names = engine.evaluations, ("by-length", "by-length:hard")
    assert set(names) <= set(desk.names())
    found = drain(desk.run(EvaluationPlan((str(row),), names))).records
    alphas = [next(iter(found["rows", name].values())).alpha for name in names]
    assert alphas == [{"math": 0.75, "code": 0.25}, {"math": 1.0}]

    ask = ("ask", "Hi", "--strategy", "by-length", "--model", str(model_folder), "--json")
    assert main([*ask, "--max-new-tokens", "3"]) == 0
    decided = json.loads(capsys.readouterr().out)["dispatch"]
    assert decided["alpha"] == {"math": 0.75, "code": 0.25}
    mixed = Mixture({"code": 0.25, "math": 0.75})
    told = text(engine.answer("s", request("by-length", Mixture())))
    assert told == text(engine.answer("s", request("manual", mixed)))


@pytest.mark.parametrize("strategy", ["classifier", "prompt", "manual", "base"])
def test_every_strategy_answers(engine, strategy):
    events = list(engine.answer("s", request(strategy)))
    assert isinstance(events[0], Dispatched)
    assert isinstance(events[-1], Done)


def test_two_sessions_at_once_never_get_each_others_z(engine):
    alone = {name: text(engine.answer(name, request(mixture=m))) for name, m in
             (("math", MATH), ("code", CODE))}  # fmt: skip
    together = {}

    def speak(name, mixture):
        together[name] = text(engine.answer(name, request(mixture=mixture)))

    threads = [threading.Thread(target=speak, args=a) for a in (("math", MATH), ("code", CODE))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone["math"] != alone["code"]
    assert together == alone


def test_steering_reaches_its_own_session_only(engine):
    one, two = engine.answer("one", request()), engine.answer("two", request())
    heads = [next(one), next(one), next(two), next(two)]
    engine.steer("one", CODE)
    rest_one, rest_two = list(one), list(two)
    assert any(isinstance(e, Steered) for e in rest_one)
    assert not any(isinstance(e, Steered) for e in rest_two)
    assert isinstance(heads[1], Token)


def test_stop_ends_the_sessions_answer_and_the_next_one_is_whole(engine):
    answer = engine.answer("s", request())
    next(answer), next(answer)
    engine.stop("s")
    assert list(answer)[-1].finish == "cancelled"
    assert text(engine.answer("s", request())) == text(engine.answer("other", request()))


def test_a_page_that_goes_away_leaves_nothing_behind(engine):
    answer = engine.answer("s", request())
    next(answer), next(answer)
    answer.close()
    engine.steer("s", CODE)  # nothing is running: nothing happens
    assert text(engine.answer("s", request())) == text(engine.answer("t", request()))


def test_next_tokens_are_probabilities_and_base_equals_adapted_without_experts(engine):
    bars = engine.next_tokens("s", request(), Mixture())
    assert bars.base == bars.adapted
    assert len(bars.base) == 10
    shares = [p for _, p in bars.base]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-5
    assert engine.next_tokens("s", request(), MATH).adapted != bars.base


def test_a_preview_of_a_long_prompt_lets_others_in_and_goes_on_where_it_stopped(
    engine, monkeypatch
):
    """Nobody waits for a whole prompt, and what was read is not read again."""
    reads, read, entered, enter = [], Decoder.read, [], FairLock.__enter__
    monkeypatch.setattr(two_pass, "PREFILL_TOKENS", 16)
    monkeypatch.setattr(loading, "MOST_S", 0.0)

    def counted(decoder, n_tokens):
        reads.append(decoder._ordinary_cache().get_seq_length())
        return read(decoder, n_tokens)

    def entering(lock):
        entered.append(lock._depth)
        return enter(lock)

    monkeypatch.setattr(Decoder, "read", counted)
    monkeypatch.setattr(FairLock, "__enter__", entering)
    long = ChatRequest(({"role": "user", "content": "tell me more " * 6},), Controls("base"))
    for _ in range(2):
        with pytest.raises(TooLong, match="when a slider is moved again"):
            engine.next_tokens("s", long, Mixture())
    assert reads == [0, 16], "a part at a time, each once"
    monkeypatch.setattr(loading, "MOST_S", 60.0)
    whole = engine.next_tokens("s", long, Mixture())
    assert entered.count(0) >= len(reads), "let go in between"
    assert reads == list(range(0, 16 * len(reads), 16))
    monkeypatch.setattr(two_pass, "PREFILL_TOKENS", 512)
    engine.models.opened.previews._kept.clear()
    at_once = engine.next_tokens("s", long, Mixture())
    assert dict(at_once.base) == pytest.approx(dict(whole.base), abs=1e-5)


def test_a_prompt_of_a_hundred_thousand_tokens_is_refused_at_once_while_others_are_answered(engine):
    long, short = (engine.chats.new().ask(text) for text in ("word " * 20_000, "What is 2 + 2?"))
    began = time.monotonic()
    for chat in (long, short):
        engine.answers.start(chat, Asked(Controls("prompt"), GREEDY))
    with pytest.raises(T2LocalError, match=r"more than .* tokens, and .* reads .* at most"):
        list(engine.answers.follow(long.id))
    list(engine.answers.follow(short.id))
    assert time.monotonic() - began < 5
    assert engine.chats.load(short.id).last_answer.timing["finish"] in ("stop", "length")
    assert engine.chats.load(long.id).messages == long.messages, "it can be edited and sent again"
    asked = ChatRequest(long.turns(), Controls("prompt"))
    with pytest.raises(TooLong):
        engine.next_tokens("s", asked, MATH)


def test_a_cpu_reads_fewer_tokens_at_a_time_the_larger_the_model_is():
    sizes = [2**n for n in range(20, 36)]
    found = [
        two_pass.tokens_at_a_time(SimpleNamespace(device="cpu", resident_bytes=size))
        for size in sizes
    ]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (512, 16)
    assert all(n * size <= 20e9 or n == 16 for n, size in zip(found, sizes, strict=True))
    gpu = SimpleNamespace(device="cuda:0", resident_bytes=2**35)
    assert two_pass.tokens_at_a_time(gpu) == 512


def test_the_preview_follows_the_words_said_so_far(engine):
    before = engine.next_tokens("s", request(), MATH)
    answer = engine.answer("s", request())
    first = [next(answer) for _ in range(6)]
    said = "".join(e.text for e in first if isinstance(e, Token))
    during = engine.next_tokens("s", request(), MATH)
    rest = "".join(e.text for e in answer if isinstance(e, Token))
    assert said
    assert during.adapted != before.adapted
    assert rest.startswith(during.adapted[0][0])  # greedy: the likeliest token comes next


def test_a_retrained_expert_of_the_same_name_never_meets_the_old_ones_cache(engine):
    old = engine.next_tokens("s", request(), MATH)
    list(engine.answer("s", request()))
    store = ExpertStore(engine.status.model_name)
    math, code = store.load("math"), store.load("code")
    engine.adopt(replace(math, z=code.z))
    assert engine.next_tokens("s", request(), MATH).adapted != old.adapted
    retrained, same_z = (engine.next_tokens("s", request(), m).adapted for m in (MATH, CODE))
    assert dict(retrained) == pytest.approx(dict(same_z), abs=1e-5)
    assert text(engine.answer("s", request())) == text(engine.answer("t", request(mixture=CODE)))


def test_the_classifier_cannot_be_mixed_into_an_answer(engine):
    with pytest.raises(T2LocalError, match="no expert 'reader'"):
        list(engine.answer("s", request(mixture=Mixture({"reader": 1.0}))))


def test_heat_map_and_spectrum(engine):
    assert not any(engine.deltas(Mixture()).values())
    assert all(engine.deltas(MATH).values())
    name = engine.matrix_names()[0]
    spectrum = engine.spectrum(name, MATH)
    assert len(spectrum.sigma) == len(spectrum.z)
    assert list(spectrum.sigma) == sorted(spectrum.sigma, reverse=True)
    with pytest.raises(T2LocalError, match="not an adapted matrix"):
        engine.spectrum("nonsense", MATH)


@pytest.mark.parametrize(
    ("messages", "mixture", "word"),
    [
        (({"role": "user", "content": "  "},), MATH, "empty"),
        (ASK, Mixture({"maths": 1.0}), "no expert 'maths'"),
    ],
)
def test_bad_input_is_one_sentence(engine, messages, mixture, word):
    asked = ChatRequest(messages, Controls("manual", mixture=mixture), GREEDY)
    with pytest.raises(T2LocalError, match=word):
        list(engine.answer("s", asked))


def test_a_damaged_expert_is_listed_with_its_problem_and_the_others_work(engine, model_folder):
    store = ExpertStore(engine.status.model_name)
    broken = store.own_folder / "code.safetensors"
    broken.write_bytes(b"nonsense")
    fresh = Engine(str(model_folder)).load()
    listed = {e.name: e for e in fresh.experts()}
    assert not listed["code"].usable
    assert "damaged" in listed["code"].warning
    assert listed["math"].usable


def test_an_expert_of_another_model_is_listed_as_refused(engine, model_folder):
    store = ExpertStore(engine.status.model_name)
    path = store.own_folder / "math.safetensors"
    expert = read_expert(path)
    write_expert(type(expert)(expert.name, "other-model", "svf1-0", expert.z), path)
    listed = {e.name: e for e in Engine(str(model_folder)).load().experts()}
    assert "trained on other-model" in listed["math"].warning
    assert not listed["math"].usable


def test_afterwards_the_base_model_is_bit_for_bit_itself(engine):
    model, ids = engine._trained_model()[0].model, torch.arange(5, 25)[None]
    with torch.no_grad():
        before = model(ids).logits
        list(engine.answer("s", request("classifier")))
        assert torch.equal(model(ids).logits, before)


def test_a_file_is_counted_in_the_models_own_tokens_and_cut_to_half_of_its_context(
    engine, tmp_path
):
    path = tmp_path / "legs.txt"
    path.write_text("eight legs\n" * 3)
    (short,) = engine.attached([str(path)], "", 8)
    tokenizer = engine._ready().loaded.tokenizer
    assert short.tokens == len(tokenizer(short.text, add_special_tokens=False)["input_ids"]) > 3
    path.write_text("eight legs\n" * 20_000)
    (long,) = engine.attached([str(path)], "", 8)
    assert 0 < long.tokens <= engine.status.context_length / 2 < long.of_tokens
