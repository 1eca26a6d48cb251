"""How fast the branch is, how long a person waits, and what a mixture search costs.

Decomposing, changing z, a z a row, decoding token by token: ratios are taken round by round between
things that ran in turn. A start, pass 1 and next-token bars are measured through the engine, as the
page calls it. The untouched model is a twin that shares every weight with the adapted one. Pure
measurements.
"""

import copy
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from t2local.adapt.answering import answer_examples
from t2local.adapt.applier import may_rebuild
from t2local.adapt.candidates import Candidates, ShotScorer
from t2local.adapt.cem import EXPERT
from t2local.adapt.dispatch import BASE, Done, asking_strategies
from t2local.bench.table import Measured, Row, interleaved, random_z, ratio, timed
from t2local.engine.engine import Engine
from t2local.engine.requests import ChatRequest, Controls, EngineStatus
from t2local.errors import T2LocalError
from t2local.models.decode.generate import Decoder
from t2local.models.decode.sampling import Sampling
from t2local.models.load.loader import LoadedModel
from t2local.models.load.quantized import nf4_states
from t2local.svf import Mixture, SVFModel, Z, attach, compose
from t2local.svf.basis import is_attention
from t2local.svf.model import FactoredModel
from t2local.tasks.files import read_examples
from t2local.tasks.rows import Example
from t2local.tasks.sandbox import check_allowed, run_code, run_tests
from t2local.tasks.tables import read_rows

CHANGES = 20  # changes of z timed in each round, since one takes a millisecond
WARM_UP_TOKENS = 2  # the first reads the prompt


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in modules of its own, sharing every weight: it stays untouched."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    shared |= {id(state): state for state in nf4_states(model)}
    return copy.deepcopy(model, shared)


def decomposition(model: PreTrainedModel, basis: str) -> tuple[Measured, SVFModel]:
    """Seconds to attach with an empty cache and with a full one; the model stays attached."""
    attached: list[SVFModel] = []
    with tempfile.TemporaryDirectory() as folder:

        def attach_again() -> None:
            if attached:
                attached.pop().detach()
            attached.append(attach(model, "all", basis, Path(folder)))

        rows = [
            Row("decomposition", variant, timed(attach_again), "s")
            for variant in ("fresh", "cached")
        ]
    return Measured(rows, {}), attached[0]


def change_of_z(svf: SVFModel, rounds: int, rebuild: bool) -> Measured:
    """Seconds to put another z in force: given, from sliders, or by rebuilding every matrix."""
    zs = [random_z(svf, seed=seed) for seed in range(2)]
    experts = {str(seed): random_z(svf, seed=seed) for seed in range(3)}
    mixtures = [Mixture(dict.fromkeys(experts, 0.3 + 0.1 * k)) for k in range(2)]

    def given() -> None:
        for turn in range(CHANGES):
            with svf.using(zs[turn % 2]):
                pass

    def from_sliders() -> None:
        for turn in range(CHANGES):
            with svf.using(compose(experts, mixtures[turn % 2])):
                pass

    actions = {"z given": given, "three sliders moved": from_sliders}
    if rebuild:
        actions["all matrices rebuilt"] = lambda: svf.rebuild(zs[0])
    seconds = interleaved(actions, rounds)
    for name in ("z given", "three sliders moved"):
        seconds[name] = [taken / CHANGES for taken in seconds[name]]
    rows = [Row("change of z", n, 1e3 * statistics.median(s), "ms") for n, s in seconds.items()]
    if not rebuild:
        return Measured(rows, {})
    faster = ratio(seconds["all matrices rebuilt"], seconds["z given"])
    return Measured(rows, {"rebuild_over_change_of_z": faster})


def rows_of_z(svf: SVFModel, ids: torch.Tensor, rounds: int) -> Measured:
    """Tokens/s of a batch `ids` `[B, T]` with a different z a row and with one shared z."""
    zs = {"one shared z": random_z(svf), "a z for each row": random_z(svf, len(ids))}

    @torch.no_grad()
    def forward(name: str) -> None:
        with svf.using(zs[name]):
            svf.model(ids, logits_to_keep=1)

    seconds = interleaved({name: lambda name=name: forward(name) for name in zs}, rounds)
    rows = [
        Row(f"batch of {len(ids)}", name, ids.numel() / statistics.median(taken), "tokens/s")
        for name, taken in seconds.items()
    ]
    throughput = ratio(seconds["one shared z"], seconds["a z for each row"])
    return Measured(rows, {"throughput_z_per_row_over_shared": throughput})


def decoding(
    loaded: LoadedModel,
    untouched: PreTrainedModel,
    svf: SVFModel,
    prompt: Sequence[int],
    tokens: int,
    rebuild: bool,
) -> Measured:
    """Tokens/s at batch 1 with a KV cache: one token of each variant in turn, greedy."""
    z = random_z(svf)
    mlp = {name: row for name, row in z.items() if not is_attention(name)}
    in_force: dict[str, Callable[[], AbstractContextManager]] = {
        "base": nullcontext,
        "mlp": lambda: svf.using(mlp),
        "all": lambda: svf.using(z),
    }
    if rebuild:
        matrices = svf.rebuild(z)
        in_force["rebuilt"] = lambda: svf.using_rebuilt(matrices)
    greedy = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=tokens + 8, seed=0)
    models = {name: untouched if name == "base" else loaded.model for name in in_force}
    decoders = {
        name: Decoder(replace(loaded, model=model), prompt, greedy)
        for name, model in models.items()
    }

    def one_token(name: str) -> None:
        decoder = decoders[name]
        with in_force[name]():
            decoder.push(decoder.sample(decoder.logits()))

    actions = {name: lambda name=name: one_token(name) for name in in_force}
    seconds = interleaved(actions, tokens, WARM_UP_TOKENS)
    rows = [Row("decode", n, 1 / statistics.median(taken), "tokens/s") for n, taken in
            seconds.items()]  # fmt: skip
    ratios = {
        f"decode_{name}_over_base": ratio(seconds["base"], taken)
        for name, taken in seconds.items()
        if name != "base"
    }
    return Measured(rows, ratios)


# --- How long a person waits: for a start, for pass 1, for next-token bars after a slider's move.

ANSWER_TOKENS = 128
QUESTIONS = (
    "Tom has 12 boxes with 8 pencils each and gives away 17 pencils. How many are left?",
    "Write a Python function that returns the second largest number of a list.",
    "Which property of water lets insects walk on the surface of a pond?",
)
STORY = "Tell me a long story about a lighthouse keeper and the sea, with many details."


def opened(model: str, quantize: str, basis: str) -> EngineStatus:
    """Where an engine with this model stands; for a process of its own. Raises `T2LocalError`."""
    engine = Engine(model, quantize, basis)
    engine.load()
    return engine.status


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


# --- Starting a program that a model wrote, which a reward does thousands of times.

BARE = "a bare interpreter"


def program_start(rounds: int) -> Measured:
    """Milliseconds until an empty program has ended in the sandbox, and until a test has passed.

    Beside them an interpreter that is started and does nothing. Raises `T2LocalError` where no
    program is run.
    """
    bare = [sys.executable, "-I", "-S", "-E", "-c", "pass"]
    actions = {
        BARE: lambda: subprocess.run(bare, check=True),
        "run to its end": lambda: run_code("pass"),
        "one test": lambda: run_tests("def one(): return 1", ["assert one() == 1"]),
    }
    check_allowed()
    seconds = interleaved(actions, rounds)
    rows = [
        Row("program in the sandbox", name, 1000 * statistics.median(taken), "ms")
        for name, taken in seconds.items()
    ]
    return Measured(rows, {"program_over_bare": ratio(seconds["one test"], seconds[BARE])})


# --- Reading a table of examples.


def reading(rounds: int, n_rows: int) -> Measured:
    """Seconds to read a table, and how long that is beside pandas and its own readers.

    Both end with a row a dictionary, as a program goes through them. Raises `T2LocalError` where a
    reader of workbooks is missing.
    """
    import pandas

    if importlib.util.find_spec("openpyxl") is None:
        raise T2LocalError("openpyxl is missing, by which pandas reads workbooks; pip install it.")
    table = pandas.DataFrame(
        {
            "prompt": [f"What is {i} plus {i % 97}, said in words?" for i in range(n_rows)],
            "answer": [f"It is {i + i % 97}." for i in range(n_rows)],
            "price": [i / 4 for i in range(n_rows)],
        }
    )
    readers = {
        "JSONL": (lambda p: table.to_json(p, orient="records", lines=True),
                  lambda p: pandas.read_json(p, lines=True)),
        "CSV": (lambda p: table.to_csv(p, index=False), pandas.read_csv),
        "XLSX": (lambda p: table.to_excel(p, index=False), pandas.read_excel),
    }  # fmt: skip
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, (write, read) in readers.items():
            path = Path(folder) / f"table.{kind.lower()}"
            write(path)
            seconds = interleaved(
                {
                    "own": partial(read_rows, path),
                    "pandas": lambda path=path, read=read: read(path).to_dict("records"),
                    "examples": partial(read_examples, path),
                },
                rounds if kind != "XLSX" else max(1, rounds // 3),
            )
            name = f"reading {n_rows:,} rows of {kind}"
            rows.append(Row(name, "rows", statistics.median(seconds["own"]), "s"))
            rows.append(Row(name, "examples", statistics.median(seconds["examples"]), "s"))
            rows.append(Row(name, "pandas", statistics.median(seconds["pandas"]), "s"))
            ratios[f"read_{kind.lower()}_over_pandas"] = ratio(seconds["own"], seconds["pandas"])
    return Measured(rows, ratios)


# --- A generation of a mixture search: the whole population in batches, against one at a time.
#
# Three ways to score the same candidates on the same shots: rows of z in one batch; one candidate
# after another under its own z, unrebuilt; and with every matrix rebuilt for each candidate, as the
# reference repository does. The two slow ones are timed on a few candidates and scaled, since all
# candidates cost the same.

POPULATION, SHOTS, EXPERTS = 32, 10, 3
NEW_TOKENS = 32
ONE_BY_ONE = 4  # candidates that the slow ways are timed on
LABELS = ("math", "code", "reasoning", "other")
MESSAGES = (
    "Tom has 12 boxes with 8 pencils and gives away 17. How many are left?",
    "Write a function that reverses a string.",
    "Why does ice float on water?",
    "Good morning, how are you?",
    "What is 15 percent of 240?",
)


def search_generation(
    loaded: LoadedModel,
    svf: SVFModel,
    rounds: int = 3,
    population: int = POPULATION,
    n_shots: int = SHOTS,
) -> Measured:
    """Candidates a second for one-token choices and for 32 written tokens, each way."""
    experts = {str(seed): random_z(svf, seed=seed) for seed in range(EXPERTS)}
    factored = FactoredModel(svf) if may_rebuild(loaded) else None
    candidates = Candidates(svf, experts, EXPERT, factored)
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(population, 1, EXPERTS, generator=generator)  # [B, 1, K]
    rows, ratios = [], {}
    for task in ("one token", f"{NEW_TOKENS} tokens"):
        actions = _ways(loaded, candidates, alpha, shots(task == "one token", n_shots))
        if not may_rebuild(loaded):
            actions.pop("rebuilding")
        seconds = interleaved(actions, rounds, warm_up=0)
        few = min(ONE_BY_ONE, population)
        for name, taken in seconds.items():
            if name != "batched":
                seconds[name] = [s * population / few for s in taken]
        rows += [
            Row(f"search, {task}", name, population / statistics.median(taken), "candidates/s")
            for name, taken in seconds.items()
        ]
        for name in [name for name in actions if name != "batched"]:
            key = f"search_{task}_batched_over_{name}".replace(" ", "_")
            ratios[key] = ratio(seconds[name], seconds["batched"])
    return Measured(rows, ratios)


def shots(choose: bool, number: int = SHOTS) -> list[Example]:
    """Short prompts: one of four words is right, or anything is written."""
    texts = [f"{MESSAGES[i % len(MESSAGES)]} ({i})" for i in range(number)]
    if not choose:
        return [Example(text, "") for text in texts]
    ask = "Is this math, code, reasoning or other?"
    columns = {"choices": [f" {label}" for label in LABELS], "label": 0}
    return [Example(f"{ask} {text}", LABELS[0], columns) for text in texts]


def _ways(
    loaded: LoadedModel, candidates: Candidates, alpha: torch.Tensor, examples: list[Example]
) -> dict[str, Callable[[], object]]:
    """The three ways as actions; the slow ones score `ONE_BY_ONE` candidates."""
    svf, few = candidates.svf, alpha[:ONE_BY_ONE]
    reward = "choice" if "choices" in examples[0].columns else "length"
    scorer = ShotScorer(loaded, examples, reward, NEW_TOKENS)

    def answer(around: Callable[[], AbstractContextManager]) -> object:
        return answer_examples(loaded, examples, NEW_TOKENS, around=around)

    def one_by_one(hold: Callable[[Z], Callable[[], AbstractContextManager]]) -> None:
        for row in few:
            answer(hold({name: z[0] for name, z in candidates.z(row[None]).items()}))

    def rebuilt(z: Z) -> Callable[[], AbstractContextManager]:
        matrices = svf.rebuild(z)
        return lambda: svf.using_rebuilt(matrices)

    return {
        "batched": lambda: scorer.scores(candidates, alpha),
        "one_by_one": lambda: one_by_one(lambda z: lambda: svf.using(z)),
        "rebuilding": lambda: one_by_one(rebuilt),
    }
