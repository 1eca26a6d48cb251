"""Whose answers can be compared: the base model, experts, what they were, mixtures, strategies.

A key carries a digest of the expert's z, so votes count for what answered and not for its name: an
expert that was trained further begins anew, and its earlier version keeps what it has.
"""

import json
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from t2local.adapt.dispatch import BASE, FEW_SHOT, MANUAL, Controls, strategy_of
from t2local.adapt.few_shot import z_digest
from t2local.engine.requests import mixture_json
from t2local.engine.shelf import Shelf
from t2local.errors import T2LocalError
from t2local.svf import Mixture

DIGITS = 8  # of a digest


@dataclass(frozen=True)
class Contender:
    """`key`: what votes name it; `label`: for a person; `controls`: how it answers."""

    key: str
    label: str
    controls: Controls


def contenders_of(
    shelf: Shelf, strategies: Sequence[str], mixture_of: Callable[[str], Mixture]
) -> list[Contender]:
    """All that can answer. `mixture_of`: a kept mixture by its name; may raise `T2LocalError`."""
    digests = {name: z_digest({"": expert.z})[:DIGITS] for name, expert in shelf.usable.items()}
    found = [Contender(BASE, BASE, Controls(MANUAL, mixture=Mixture()))]
    for name in shelf.mixable:
        alone = Controls(MANUAL, mixture=Mixture({name: 1.0}))
        found.append(Contender(f"{name}@{digests[name]}", name, alone))
    for version in shelf.earlier:
        alone = Controls(MANUAL, mixture=Mixture({version.alias: 1.0}))
        digest = z_digest({"": version.expert.z})[:DIGITS]
        key = f"{version.expert.name}@{digest}"
        if key not in {each.key for each in found}:
            found.append(Contender(key, version.label, alone))
    for name in strategies:
        kind, _, kept = name.partition(":")
        if kind == FEW_SHOT and kept:
            try:
                mixture = mixture_of(kept)
            except T2LocalError:  # of experts that are gone
                continue
            parts = [digests.get(each, "") for each in mixture.experts]
            about = json.dumps([mixture_json(mixture), parts], sort_keys=True)
            key = f"{name}@{uuid.uuid5(uuid.NAMESPACE_OID, about).hex[:DIGITS]}"
            found.append(Contender(key, f"mixture {kept}", Controls(name)))
        elif strategy_of(name).asks:
            found.append(Contender(name, f"by {name}", Controls(name)))
    return found


def label_of(key: str, known: Collection[Contender] = ()) -> str:
    """For a person; of a contender that is gone the name that it had."""
    for contender in known:
        if contender.key == key:
            return contender.label
    name, _, digest = key.partition("@")
    return f"{name.removeprefix(FEW_SHOT + ':')} (another version, {digest})" if digest else name
