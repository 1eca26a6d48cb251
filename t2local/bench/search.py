"""A generation of a mixture search: the whole population in batches, against one at a time.

Three ways to score the same candidates on the same shots: rows of z in one batch; one candidate
after another under its own z, unrebuilt; and with every matrix rebuilt for each candidate, as the
reference repository does. The two slow ones are timed on a few candidates and scaled, since all
candidates cost the same. Pure measurements.
"""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from t2local.adapt.answering import answer_examples
from t2local.adapt.applier import may_rebuild
from t2local.adapt.candidates import Candidates, ShotScorer
from t2local.adapt.cem import EXPERT
from t2local.bench.table import Measured, Row, interleaved, random_z, ratio
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, Z
from t2local.svf.factored import FactoredModel
from t2local.tasks.rows import Example

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
    loaded: LoadedModel, svf: SVFModel, rounds: int = 3, population: int = POPULATION
) -> Measured:
    """Candidates a second for one-token choices and for 32 written tokens, each way."""
    experts = {str(seed): random_z(svf, seed=seed) for seed in range(EXPERTS)}
    factored = FactoredModel(svf) if may_rebuild(loaded) else None
    candidates = Candidates(svf, experts, EXPERT, factored)
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(population, 1, EXPERTS, generator=generator)  # [B, 1, K]
    rows, ratios = [], {}
    for task in ("one token", f"{NEW_TOKENS} tokens"):
        actions = _ways(loaded, candidates, alpha, task == "one token")
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


def shots(choose: bool) -> list[Example]:
    """Ten short prompts: one of four words is right, or anything is written."""
    texts = [f"{MESSAGES[i % len(MESSAGES)]} ({i})" for i in range(SHOTS)]
    if not choose:
        return [Example(text, "") for text in texts]
    ask = "Is this math, code, reasoning or other?"
    columns = {"choices": [f" {label}" for label in LABELS], "label": 0}
    return [Example(f"{ask} {text}", LABELS[0], columns) for text in texts]


def _ways(
    loaded: LoadedModel, candidates: Candidates, alpha: torch.Tensor, choose: bool
) -> dict[str, Callable[[], object]]:
    """The three ways as actions; the slow ones score `ONE_BY_ONE` candidates."""
    examples = shots(choose)
    svf, few = candidates.svf, alpha[:ONE_BY_ONE]
    scorer = ShotScorer(loaded, examples, "choice" if choose else "length", NEW_TOKENS)

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
