"""How well and how fast *similarity* dispatches: kinds of task that no shipped expert has seen.

Each of the eight kinds in `assets/kinds.jsonl` in turn is a new expert of forty rows, of which a
quarter is held out: its print holds the other thirty, and no `z` is needed to dispatch. Asked are
the kind's own unseen prompts, our questions for the shipped experts, and everyday messages that are
in no print. The layer and the shrinkage were chosen on these kinds: they are no proof of others.
"""

import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch

from t2local.adapt import two_pass
from t2local.adapt.dispatch import (
    BASE,
    CLASSIFIER,
    OTHER,
    SIMILARITY,
    Controls,
    Reading,
    Token,
    decide,
    first_pass,
)
from t2local.adapt.similarity import Discriminant
from t2local.adapt.two_pass import Workshop
from t2local.bench.table import Measured, Row, interleaved, ratio
from t2local.models.decode.embedding import embed
from t2local.models.decode.sampling import Sampling
from t2local.paths import PROJECT_ROOT
from t2local.statistics import paired_difference
from t2local.svf import Mixture
from t2local.tasks.datasets import DECIDING, HELD_OUT, everyday_messages, probes

KINDS = PROJECT_ROOT / "assets" / "kinds.jsonl"
PRINTED = 30  # of forty rows: a quarter is held out
FEW, MANY = 2, 20  # experts that pass 1 tells apart
GREETING = "Good morning! How did you sleep, and what are your plans for the day?"


def kinds() -> dict[str, list[str]]:
    """Kind of task -> its prompts, written by hand for this purpose."""
    rows = map(json.loads, KINDS.read_text(encoding="utf-8").splitlines())
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["kind"], []).append(row["prompt"])
    return found


def new_experts(workshop: Workshop, most: int) -> Measured:
    """Recall of a new expert's own prompts, and what it takes of others'; `most` kinds."""
    told = workshop.available.prints
    assert told is not None, "no prints"
    foreign = vectors(workshop, [*_questions(), *everyday_messages(HELD_OUT)])
    recalls, takings, strays = {}, {}, {}
    for kind, prompts in itertools.islice(kinds().items(), most):
        own = vectors(workshop, prompts)
        found = told.joined_by(kind, own[:PRINTED])
        recalls[kind] = _share(found, kind, own[PRINTED:])
        takings[kind] = _share(found, kind, foreign)
        strays[kind] = 1.0 - _share(told, OTHER, own)
    rows = [
        Row(name, kind, share, unit)
        for name, unit, shares in (
            ("a new expert found", "of its own", recalls),
            ("a new expert takes", "of others'", takings),
            ("given to an expert before there is one", "of its own", strays),
        )
        for kind, share in shares.items()
    ]
    ratios = {
        "similarity_recall_of_a_new_expert": sum(recalls.values()) / len(recalls),
        "similarity_recall_least": min(recalls.values()),
        "similarity_taken_from_others": sum(takings.values()) / len(takings),
        "similarity_taken_most": max(takings.values()),
        "similarity_strays": sum(strays.values()) / len(strays),
    }
    return Measured(rows, ratios)


def against_the_classifier(workshop: Workshop, most: int) -> Measured:
    """Both on our questions for the shipped experts and everyday messages, paired."""
    asked = [(text, name) for name, rows in by_expert().items() for text in rows[:most]]
    asked += [(text, OTHER) for text in everyday_messages(HELD_OUT)[:most]]
    right = {
        name: [
            float(a == b) for a, (_, b) in zip(_given(workshop, name, asked), asked, strict=True)
        ]
        for name in (CLASSIFIER, SIMILARITY)
    }
    mean, low, high = paired_difference(right[CLASSIFIER], right[SIMILARITY])
    rows = [
        Row("dispatched rightly", name, sum(marks) / len(marks), f"of {len(asked)}")
        for name, marks in right.items()
    ]
    rows += [
        Row("similarity − classifier", name, value, "share")
        for name, value in (("mean", mean), ("95 % from", low), ("95 % to", high))
    ]
    return Measured(rows, {"similarity_minus_classifier_low_end": low})


def first_tokens(workshop: Workshop, rounds: int) -> Measured:
    """Seconds to the first token of a base answer, dispatched or not, with few and many experts."""
    told = workshop.available.prints
    assert told is not None, "no prints"
    few, many = (replicated(told, count) for count in (FEW, MANY))
    ways = {
        "no dispatch": (told, BASE),
        f"{FEW} experts": (few, SIMILARITY),
        f"{MANY} experts": (many, SIMILARITY),
    }
    for known in (few, many):
        known.fit()
    actions = {name: partial(_first_token, workshop, *way) for name, way in ways.items()}
    seconds = interleaved(actions, rounds)
    rows = [
        Row("first token", name, statistics.median(taken), "s") for name, taken in seconds.items()
    ]
    return Measured(
        rows,
        {
            "first_token_similarity_over_none": ratio(
                seconds[f"{FEW} experts"], seconds["no dispatch"]
            ),
            "first_token_twenty_experts_over_two": ratio(
                seconds[f"{MANY} experts"], seconds[f"{FEW} experts"]
            ),
        },
    )


def by_expert() -> Mapping[str, list[str]]:
    """Shipped skill -> our own questions of its task."""
    return {name: [e.prompt for e in rows] for name, rows in probes().items() if name != DECIDING}


def vectors(workshop: Workshop, texts: Sequence[str]) -> torch.Tensor:
    """Messages as the base model reads them, each alone: `[n, d]`."""
    chats = [[{"role": "user", "content": text}] for text in texts]
    return embed(workshop.loaded, chats, lambda: workshop.applier.using(Mixture()))


def replicated(told: Discriminant, count: int) -> Discriminant:
    """The same prints as those of `count` experts, some moved a little."""
    *experts, _ = told.prints
    generator = torch.Generator().manual_seed(0)
    found = {}
    for number, name in zip(range(count), itertools.cycle(experts), strict=False):
        rows = told.prints[name].float()
        noise = torch.randn(rows.shape, generator=generator) * rows.std()
        found[f"{name} {number}"] = rows + 0.3 * noise * (number >= len(experts))
    return Discriminant({**found, OTHER: told.prints[OTHER]})


def _first_token(workshop: Workshop, told: Discriminant, strategy: str) -> None:
    workshop.forget()
    seen = replace(workshop, available=replace(workshop.available, prints=told))
    messages = ({"role": "user", "content": GREETING},)
    # Whoever is chosen, the base model answers: the threshold leaves no expert.
    controls = Controls(strategy, threshold=1.0)
    sampling = Sampling(temperature=0.0, max_new_tokens=4, seed=0)
    with closing(two_pass.answer(seen, messages, controls, sampling)) as events:
        next(event for event in events if isinstance(event, Token))


def _questions() -> list[str]:
    return [text for rows in by_expert().values() for text in rows]


def _share(told: Discriminant, kind: str, rows: torch.Tensor) -> float:
    """How many of the messages `rows` `[n, d]` are given to `kind`, or for *other* to nobody."""
    skills = told.labels[:-1]
    decisions = [decide(Controls(SIMILARITY), p, skills) for p in told.probabilities(rows)]
    given = [d.chosen if d.mixture.alpha else OTHER for d in decisions]
    return given.count(kind) / len(given)


def _given(workshop: Workshop, strategy: str, asked: Sequence[tuple[str, str]]) -> list[str]:
    """To whom each message goes, *other* for the base model."""
    under: Callable = workshop.applier.using
    reading = Reading(workshop.loaded, workshop.available, under)
    found = []
    for start in range(0, len(asked), 8):
        part = [text for text, _ in asked[start : start + 8]]
        found += first_pass(reading, part, Controls(strategy))
    return [d.chosen if d.mixture.alpha else OTHER for d in found]
