"""The third strategy: a mixture found for a task from a few of its examples (paper, section 3.2).

`search` is a generator of one `Generation` after another. Its state is written after each, so a
search that was cancelled or cut off goes on where it was and ends in the same numbers. Departure
from the reference code: its shots come from the split that is then scored; here they are rows of a
file that the caller names, and the mixture remembers their hash so that an evaluation can refuse
them.
"""

import hashlib
import json
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from t2local import paths
from t2local.adapt import cem
from t2local.adapt.applier import may_rebuild
from t2local.adapt.candidates import Candidates, ShotScorer
from t2local.adapt.cem import EXPERT, CEMConfig, Search
from t2local.errors import T2LocalError
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import Mixture, SVFModel, Z
from t2local.svf.model import FactoredModel
from t2local.tasks.benchmarks import prompt_hashes
from t2local.tasks.files import content_hash
from t2local.tasks.rows import Example
from t2local.untrusted import file_bytes, parsed, typed

SCHEMA = 1


@dataclass(frozen=True)
class Generation:
    """One generation of `total`, counted from 1, of B candidates over K `experts`.

    `cloud`: each candidate's α `[K]` (its mean over matrices where they differ). `elites`: places
    in it, best first. `accuracy`, `log_likelihood`: a value a candidate. `best`: the α of the
    incumbent, `best_accuracy` and `best_log_likelihood` its scores.
    """

    number: int
    total: int
    experts: tuple[str, ...]
    cloud: tuple[tuple[float, ...], ...]
    elites: tuple[int, ...]
    accuracy: tuple[float, ...]
    log_likelihood: tuple[float, ...]
    best: tuple[float, ...]
    best_accuracy: float
    best_log_likelihood: float

    def __post_init__(self) -> None:
        n, k = len(self.cloud), len(self.experts)
        widths = {len(self.best), *map(len, self.cloud)}
        scores = {len(self.accuracy), len(self.log_likelihood)}
        if widths != {k} or scores != {n} or not all(0 <= place < n for place in self.elites):
            raise ValueError(f"generation {self.number} is not one of {n} candidates over {k}")


@dataclass(frozen=True)
class Found:
    """What a search returns: the mixture, its scores on the shots and each generation.

    `shot_prompts`: a hash of each shot's prompt (`tasks.benchmarks`).
    """

    mixture: Mixture
    accuracy: float
    log_likelihood: float
    shots: int
    shots_sha256: str
    generations: tuple[Generation, ...]
    evaluations: int
    shot_prompts: tuple[str, ...] = ()


def draw_shots(examples: Sequence[Example], config: CEMConfig) -> list[Example]:
    """`config.shots` of the examples, at random by the seed; all where there are fewer.

    Raises `T2LocalError` where there are fewer than `cem.LEAST_SHOTS`.
    """
    if len(examples) < cem.LEAST_SHOTS:
        raise T2LocalError(
            f"There are {len(examples)} examples; a mixture needs {cem.LEAST_SHOTS} "
            f"to {cem.MOST_SHOTS}: add some rows."
        )
    count = min(config.shots, len(examples))
    return random.Random(config.seed).sample(list(examples), count)


def search(
    loaded: LoadedModel,
    svf: SVFModel,
    experts: Mapping[str, Z],
    shots: Sequence[Example],
    reward: str,
    config: CEMConfig,
    folder: Path | None = None,
    cancel: CancelToken | None = None,
) -> Generator[Generation, None, Found]:
    """Find α for `shots`; events as they come, `Found` in the end.

    `folder`: where the state is kept between generations; the same request goes on from there.
    Raises `T2LocalError` (no experts, shots that cannot be scored), `Cancelled`.
    """
    factored = FactoredModel(svf) if may_rebuild(loaded) else None
    candidates = Candidates(svf, experts, config.sharing, factored)
    scorer = ShotScorer(loaded, shots, reward, config.max_new_tokens)
    about = [svf.fingerprint(), z_digest(experts), content_hash(shots), reward, asdict(config)]
    state = _StateFile.of(folder, about)
    found = state.read() if state else None
    now, past = found or (cem.begin(config, candidates.n_groups, len(candidates.names)), [])
    yield from past
    while now.number < config.generations:
        if cancel is not None:
            cancel.raise_if_cancelled()
        alpha = cem.population(now, config)
        scores = scorer.scores(candidates, alpha, cancel)
        now, elites = cem.advance(now, config, alpha, scores.accuracy, scores.log_likelihood)
        generation = _generation(now, config, candidates, alpha, scores, elites)
        past = [*past, generation]
        if state:
            state.write(now, past)
        yield generation
    return Found(
        _mixture(now.best, candidates, config),
        *now.best_scores,
        len(shots),
        content_hash(shots),
        tuple(past),
        len(shots) * config.population * config.generations,
        prompt_hashes(shots),
    )


def _generation(now, config, candidates, alpha, scores, elites) -> Generation:
    return Generation(
        now.number,
        config.generations,
        candidates.names,
        tuple(tuple(row) for row in alpha.mean(1).tolist()),
        tuple(elites),
        tuple(scores.accuracy.tolist()),
        tuple(scores.log_likelihood.tolist()),
        tuple(now.best.mean(0).tolist()),
        *now.best_scores,
    )


def _mixture(best: Tensor, candidates: Candidates, config: CEMConfig) -> Mixture:
    """`best` `[G, K]` as a mixture; `alpha` is the mean where matrices differ."""
    alpha = _named(candidates, best.mean(0))
    if config.sharing == EXPERT:
        return Mixture(alpha)
    parts = {name: _named(candidates, best[group]) for name, group in candidates.groups.items()}
    return Mixture(alpha, by_matrix=parts)


def _named(candidates: Candidates, alpha: Tensor) -> dict[str, float]:
    values = (round(a, 6) for a in alpha.tolist())
    return dict(zip(candidates.names, values, strict=True))


def z_digest(experts: Mapping[str, Z]) -> str:
    """A retrained expert keeps its name, not its z. Matrices may come in any order."""
    digest = hashlib.sha256()
    for name, z in experts.items():
        digest.update(name.encode())
        for matrix, row in sorted(z.items()):
            digest.update(matrix.encode() + row.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class _State:
    """What a `_StateFile` holds."""

    schema: int
    number: int
    mean: Rows
    spread: Rows
    best: Rows
    best_scores: tuple[float, float]
    generations: tuple[Generation, ...]

    def as_search(self) -> Search:
        """Raises `ValueError` for rows of different lengths."""
        tensors = (torch.tensor(rows) for rows in (self.mean, self.spread, self.best))
        return Search(self.number, *tensors, self.best_scores)


@dataclass(frozen=True)
class _StateFile:
    """A search between two generations, on disk under a hash of what it depends on."""

    path: Path

    @classmethod
    def of(cls, folder: Path | None, about: list) -> "_StateFile | None":
        if folder is None:
            return None
        text = json.dumps(about, sort_keys=True)
        return cls(folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json")

    def read(self) -> tuple[Search, list[Generation]] | None:
        """None where there is nothing; a damaged file is begun anew."""
        try:
            stored = typed(_State, parsed(file_bytes(self.path), finite=False))
            if stored.schema != SCHEMA:
                return None
            return stored.as_search(), list(stored.generations)
        except (OSError, ValueError):
            return None

    def write(self, search: Search, past: Sequence[Generation]) -> None:
        tensors = {n: getattr(search, n).tolist() for n in ("mean", "spread", "best")}
        stored = {
            "schema": SCHEMA,
            "number": search.number,
            **tensors,
            "best_scores": list(search.best_scores),
            "generations": [asdict(generation) for generation in past],
        }
        with paths.atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(stored), encoding="utf-8")
