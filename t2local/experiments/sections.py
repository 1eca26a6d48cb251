"""What is compared, a function a claim: each gives rows of plain values. Numbers as in the README.

Every variant is trained on ARC-Easy by the same loop, rows, steps and batches; only what its name
says differs. z has the paper's learning rate, 2e-3; LoRA the better of `LORA_RATES` on validation
rows, the first of which moves the weights as far a step as z does.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from t2local.experiments.laboratory import Laboratory, Learnt, compared
from t2local.experts import Expert
from t2local.proof.book import Cell
from t2local.proof.measured_sets import ARITHMETIC, TRAINED, MeasuredSet
from t2local.svf import Mixture, compose
from t2local.tasks.datasets import Curriculum, curriculum
from t2local.training.config import LORA, NEXT_TOKEN, TrainConfig

LORA_RATES = (2e-3, 5e-4)
SIZES = (200, 50, 10)
GRID = (0.0, 1 / 3, 2 / 3, 1.0)

Sets = Mapping[str, MeasuredSet]


def source_and_config(steps: int) -> tuple[Curriculum, TrainConfig]:
    return curriculum("arc-easy"), TrainConfig(steps=steps, validate_every=max(steps // 4, 1))


def as_lora(lab: Laboratory, source: Curriculum, config: TrainConfig) -> TrainConfig:
    """LoRA at the rate that validates best; on an attached model."""
    tried = [replace(config, method=LORA, learning_rate=rate) for rate in LORA_RATES]
    learnt = [lab.learn(f"LoRA at {c.learning_rate:g}", source, c) for c in tried]
    best = max(range(len(tried)), key=lambda i: learnt[i].cell["validation"])
    return tried[best]


def methods(lab: Laboratory, sets: Sets, steps: int) -> list[Cell]:
    """1 and 2: SVF and LoRA, each by policy gradient and by next-token prediction (Table 4)."""
    source, config = source_and_config(steps)
    rows: list[Cell] = []
    with lab.attached():
        lora = as_lora(lab, source, config)
        variants = {
            "SVF, policy gradient": config,
            "LoRA, policy gradient": lora,
            "SVF, next-token": replace(config, objective=NEXT_TOKEN),
            "LoRA, next-token": replace(lora, objective=NEXT_TOKEN),
        }
        learnt = {name: lab.learn(name, source, c) for name, c in variants.items()}
        for one in learnt.values():
            rows += _on_sets(lab, one, sets)
        ours, theirs = list(learnt.values())[:2]
        rows += [
            {"variant": "SVF − LoRA, policy gradient", "set": s.name}
            | compared(_right(lab, theirs, s), _right(lab, ours, s))
            for s in sets.values()
        ]
    return rows


def targets(lab: Laboratory, sets: Sets, steps: int) -> list[Cell]:
    """3: which matrices are adapted (Table 4)."""
    source, config = source_and_config(steps)
    rows: list[Cell] = []
    for kind in ("mlp", "attention", "all"):
        config = replace(config, targets=kind)
        with lab.attached(kind):
            rows += _on_sets(lab, lab.learn(f"SVF, {kind}", source, config), sets)
    return rows


def overfitting(lab: Laboratory, sets: Sets, steps: int) -> list[Cell]:
    """6: held-out against training accuracy with fewer rows; the last step counts, not the best."""
    source, config = source_and_config(steps)
    rows: list[Cell] = []
    with lab.attached():
        lora = as_lora(lab, source, config)
        for size in SIZES:
            few = tuple(random.Random(size).sample(list(source.train), size))
            part = replace(source, train=few, validation=few)
            seen = MeasuredSet(f"its {size} training rows", few)
            for name, c in (("SVF", config), ("LoRA", lora)):
                once = replace(c, validate_every=steps)
                one = lab.learn(f"{name}, {size} rows", part, once, last=True)
                shown = _on_sets(lab, one, {seen.name: seen, TRAINED: sets[TRAINED]})
                rows += [row | {"rows": size, "method": name} for row in shown]
    return rows


def composition(lab: Laboratory, sets: Sets, experts: Mapping[str, Expert]) -> list[Cell]:
    """8: two experts at α from 0 to 1 each, accuracy on both tasks."""
    first, second = "reasoning", "math"
    own = {first: sets[TRAINED], second: sets[ARITHMETIC]}
    rows: list[Cell] = []
    with lab.attached():
        for a in GRID:
            for b in GRID:
                mixture = Mixture({first: a, second: b})
                for task in own.values():
                    key = ("mixture", *_digests(experts, (first, second)), round(a, 4), round(b, 4))
                    right = lab.under(key, _composed(lab, experts, mixture), task)
                    row = {first: a, second: b, "set": task.name}
                    rows.append(row | compared(lab.base(task), right))
    return rows


def transfer(lab: Laboratory, sets: Sets, expert: Expert) -> list[Cell]:
    """5: an expert on a fine-tuned copy of its model: in order, and with each z shuffled."""
    with lab.attached() as svf:
        device = next(iter(svf.singular_values.values())).device
        shuffled = {n: _shuffled(row, n) for n, row in expert.z.items()}
        task = sets[TRAINED]
        rows = []
        for name, z in (("in order", expert.z), ("shuffled", shuffled)):
            key = ("transferred", name, *_digests({expert.name: expert}, (expert.name,)))
            placed = {n: row.to(device) for n, row in z.items()}
            right = lab.under(key, lambda placed=placed: placed, task)
            rows.append({"variant": name, "set": task.name} | compared(lab.base(task), right))
    return rows


def _shuffled(z: torch.Tensor, name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(name) + z.numel())
    return z[torch.randperm(len(z), generator=generator)]


def _composed(lab: Laboratory, experts: Mapping[str, Expert], mixture: Mixture) -> Callable:
    def made():
        sigma = lab.svf.singular_values
        z = compose({n: experts[n].z for n in mixture.experts}, mixture)
        return {name: row.to(sigma[name].device) for name, row in z.items()}

    return made


def _digests(experts: Mapping[str, Expert], names: Sequence[str]) -> list[float]:
    """A retrained expert keeps its name, not its z."""
    return [float(sum(row.double().sum() for row in experts[name].z.values())) for name in names]


def _right(lab: Laboratory, learnt: Learnt, rows: MeasuredSet) -> list[float]:
    return lab.right(learnt.key, learnt.holding, rows)


def _on_sets(lab: Laboratory, learnt: Learnt, sets: Sets) -> list[Cell]:
    about = {k: learnt.cell[k] for k in ("numbers", "steps", "best_step", "train_s")}
    return [
        {"variant": learnt.name, "set": rows.name}
        | compared(lab.base(rows), _right(lab, learnt, rows))
        | about
        for rows in sets.values()
    ]
