"""Many threads on one engine: answers, previews, a training that adopts, memory that runs out.

What each forward obeys is looked at inside the model: the `z` in force, and afterwards its logits
beside those of the same tokens read alone under the `z` that was asked for.
"""

import random
import sys
import threading
from collections import Counter

import pytest
import torch

from t2local.adapt.dispatch import Dispatched, Done, Steered
from t2local.engine.engine import Engine
from t2local.engine.requests import ChatRequest, Controls
from t2local.models.decode.out_of_memory import out_of_memory_told
from t2local.models.decode.sampling import Sampling
from t2local.svf import Mixture
from tests.engine.watched import RED, Watched

ASKS = [({"role": "user", "content": text},) for text in ("What is 2 + 2?", "What is ice? Say.")]
GREEDY = Sampling(temperature=0.0, max_new_tokens=8, repetition_penalty=1.0)
MIXTURES = [
    Mixture(),
    Mixture({"math": 1.0}),
    Mixture({"code": 1.0}),
    Mixture({"math": 0.5, "code": 0.5}),
    Mixture({RED: 1.0}),
    Mixture({RED: 0.5, "math": 0.5}),
]
TOKENS_ALIKE = 50
SESSIONS = ("one", "two", "three")
# Operations of each kind, an answer's being one token: 10,000 in both ways to make steps.
SHARES = {"tokens": 900, "previews": 120, "steps": 150, "wheel": 1930, "forget": 1900}


@pytest.fixture
def often():
    """Threads take turns 250 times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["plain steps", "captured steps"])
def watched(request, model_folder, engine, monkeypatch, often):
    """`captured steps`: as on a GPU, with the fixed cache and the buffers; nothing is replayed."""
    monkeypatch.setattr("t2local.models.decode.generate._stops", lambda loaded: set())
    if request.param == "captured steps":
        monkeypatch.setattr("t2local.models.decode.cuda_graphs.why_not", lambda loaded: "")
        monkeypatch.setattr("t2local.models.decode.cuda_graphs.SMALLEST", 128)
        engine = Engine(str(model_folder)).load()
        assert engine._ready().workshop.applier._graphs is not None
    found = Watched(engine, monkeypatch)
    found.adopt()
    yield found
    for hook in found.hooks:
        hook.remove()


def speaking(watched: Watched, session: str) -> None:
    """Answers, one after the other; some with pass 1, some beside the base model."""
    chance = random.Random(session)
    while (said := watched.done["tokens"]) < SHARES["tokens"]:
        mixture, ask = chance.choice(MIXTURES), chance.choice(ASKS)
        if chance.random() < 0.7:  # what is asked for again is rebuilt, and stays in buffers
            mixture = MIXTURES[said // TOKENS_ALIKE % len(MIXTURES)]
        strategy = "classifier" if chance.random() < 0.1 else "manual"
        controls = Controls(strategy, mixture=mixture)
        asked = ChatRequest(ask, controls, GREEDY, compare=chance.random() < 0.1)
        with watched.asking("reader" if strategy == "classifier" else mixture) as here:
            with watched.maybe_short("answers"):
                for event in watched.engine.answer(session, asked):
                    if isinstance(event, Dispatched):
                        here.expected = event.dispatch.mixture
                        here.logits.clear()
                    elif isinstance(event, Steered):
                        here.expected = event.mixture
                assert isinstance(event, Done)
            watched.done["tokens"] += len(here.logits)
            watched.to_check.append((watched.prompt(ask), here.logits))


def previewing(watched: Watched) -> None:
    """Next-token bars, of the base model and then of a mixture."""
    chance = random.Random(5)
    while watched.done["previews"] < SHARES["previews"]:
        mixture, ask = chance.choice(MIXTURES), chance.choice(ASKS)
        with watched.asking(Mixture()) as here:  # `Previews._likeliest` tells what comes next
            with watched.maybe_short("previews"):
                watched.engine.next_tokens("another", ChatRequest(ask), mixture, 5)
            watched.to_check += [(watched.prompt(ask), [step]) for step in here.logits]
        watched.done["previews"] += 1


def training(watched: Watched) -> None:
    """Steps with a gradient, and an expert to adopt after every ninth."""
    ids = torch.tensor([watched.prompt(ASKS[0])])
    while watched.done["steps"] < SHARES["steps"]:
        z = {n: row.clone().requires_grad_() for n, row in watched.fixed["code"].items()}
        with (
            watched.asking("code"),
            watched.maybe_short("steps"),
            watched.svf.using(z),  # still held when memory runs out
            out_of_memory_told(watched.loaded, watched.engine._forget),
        ):
            watched.loaded.model(ids).logits.square().mean().backward()
            assert all(row.grad is not None for row in z.values())
        watched.done["steps"] += 1
        if watched.done["steps"] % 9 == 0:
            watched.adopt()


def turning(watched: Watched) -> None:
    """The wheels of the answers, and what else a page asks for meanwhile."""
    engine, chance = watched.engine, random.Random(6)
    while watched.done["wheel"] < SHARES["wheel"]:
        action, mixture = chance.random(), chance.choice(MIXTURES)
        if action < 0.02:
            engine.stop(chance.choice(SESSIONS))
        elif action < 0.3:
            engine.steer(chance.choice(SESSIONS), mixture)
        elif action < 0.6:
            assert engine.status.ready
        elif action < 0.8:
            assert RED in [e.name for e in engine.experts()]
        else:
            rms = engine.deltas(mixture)
            assert all(value > 0 for value in rms.values()) is not mixture.is_base
        watched.done["wheel"] += 1


def forgetting(watched: Watched) -> None:
    """What is kept is asked back, as by a search that runs out of memory."""
    while watched.done["forget"] < SHARES["forget"]:
        watched.engine._forget()
        watched.done["forget"] += 1


def test_ten_thousand_operations_without_an_error_or_a_wrong_z(watched):
    works = [lambda s=session: speaking(watched, s) for session in SESSIONS]
    works += [lambda w=w: w(watched) for w in (previewing, training, turning, forgetting)]
    errors: list[BaseException] = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)
            watched.done.update(dict.fromkeys(SHARES, 10**6))  # nobody goes on

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "a deadlock"
    if errors:
        raise errors[0]
    assert not watched.faults, Counter(watched.faults)
    assert sum(watched.done[kind] for kind in SHARES) >= 5000
    assert watched.check_logits() >= SHARES["tokens"]
    assert sum(n for kind, n in watched.done.items() if kind.startswith("short")) >= 8
    captured = watched.engine._ready().workshop.applier._graphs
    assert captured is None or len(captured._filled) >= 1
    assert watched.svf.lock._owner is None
    assert not watched.engine._moments._using
