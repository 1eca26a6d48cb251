"""How long a person waits: for a start, for pass 1, for next-token bars after a slider's move.

Measured through the engine, as the page calls it. Knows nothing of how the numbers are shown.
"""

import statistics
import time

from t2local.adapt.answer_stream import BASE, Done
from t2local.adapt.dispatch import asking_strategies
from t2local.bench.speed import Measured
from t2local.engine.engine import Engine
from t2local.engine.requests import ChatRequest, Controls
from t2local.evaluation.bench_rows import Row, ratio, timed
from t2local.models.decode.sampling import Sampling
from t2local.svf import Mixture

ANSWER_TOKENS = 128
QUESTIONS = (
    "Tom has 12 boxes with 8 pencils each and gives away 17 pencils. How many are left?",
    "Write a Python function that returns the second largest number of a list.",
    "Which property of water lets insects walk on the surface of a pond?",
)
STORY = "Tell me a long story about a lighthouse keeper and the sea, with many details."


def start_seconds(model: str, quantize: str, basis: str) -> float:
    """Seconds from nothing to an engine that answers; for a process of its own."""
    return timed(lambda: Engine(model, quantize, basis).load())


def preview(engine: Engine, rounds: int) -> Measured:
    """Seconds from a slider's move to both models' next-token bars, a new mixture every time."""
    skill = next(info.name for info in engine.experts() if info.usable and info.kind == "skill")
    request = ChatRequest(({"role": "user", "content": f"{QUESTIONS[0]} {QUESTIONS[2]}"},))
    seconds = [
        timed(lambda k=k: engine.next_tokens("bench", request, Mixture({skill: 0.5 + 0.01 * k})))
        for k in range(rounds + 1)
    ]
    rows = [
        Row("next-token bars", "first", seconds[0], "s"),
        Row("next-token bars", "slider moved", statistics.median(seconds[1:]), "s"),
    ]
    return Measured(rows, {})


def first_pass(engine: Engine, rounds: int, tokens: int = ANSWER_TOKENS) -> Measured:
    """Pass 1 of each strategy beside the base model's answer of 128 tokens, in turn.

    `tokens`: how many are really generated; the answer's time is scaled to 128.
    """
    there = engine.strategies()
    asked = [strategy.name for strategy in asking_strategies() if strategy.name in there]
    seconds: dict[str, list[float]] = {name: [] for name in (*asked, "answer")}
    for turn in range(rounds):
        question = ({"role": "user", "content": QUESTIONS[turn % len(QUESTIONS)]},)
        for name in asked:
            decision = engine.dispatch(ChatRequest(question, Controls(name)))
            seconds[name].append(decision.seconds)
        seconds["answer"].append(_answer_seconds(engine, tokens))
    rows = [Row("first pass", name, statistics.median(seconds[name]), "s") for name in asked]
    rows.append(Row("answer", "base, 128 tokens", statistics.median(seconds["answer"]), "s"))
    ratios = {f"first_pass_{n}_over_answer": ratio(seconds[n], seconds["answer"]) for n in asked}
    return Measured(rows, ratios)


def _answer_seconds(engine: Engine, tokens: int) -> float:
    sampling = Sampling(temperature=0.0, max_new_tokens=tokens, seed=0)
    request = ChatRequest(({"role": "user", "content": STORY},), Controls(BASE), sampling)
    started = time.perf_counter()
    *_, done = engine.answer("bench", request)
    taken = time.perf_counter() - started
    assert isinstance(done, Done), done
    return taken * ANSWER_TOKENS / max(1, done.tokens)
