"""What is compared, a function a claim: each gives rows of plain values, numbered as the claims."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from t2local.adapt.cem import LIGHT, LOG_LIKELIHOOD, MATRIX, CEMConfig
from t2local.adapt.dispatch import CLASSIFIER, PROMPT
from t2local.adapt.few_shot import Found, draw_shots, search
from t2local.evaluation.benchmark_tasks import question_set
from t2local.evaluation.measure import Scored, evaluate
from t2local.evaluation.questions import LIKELIHOOD, QuestionSet
from t2local.evaluation.tally import Evaluation
from t2local.evaluation.variants import HARD, Held, Subject, Variant, asking, base, mixed
from t2local.experiments.laboratory import (
    ARITHMETIC,
    TRAINED,
    Cell,
    Laboratory,
    Learnt,
    MeasuredSet,
    Right,
    compared,
)
from t2local.experts import Expert
from t2local.progress import Progress
from t2local.statistics import paired_difference
from t2local.svf import Mixture, compose
from t2local.tasks.benchmarks import load_task, show_first_test
from t2local.tasks.datasets import Dataset, dataset
from t2local.tasks.rows import Example
from t2local.training.config import LORA, NEXT_TOKEN, TrainConfig

LORA_RATES = (2e-3, 5e-4)
SIZES = (200, 50, 10)
GRID = (0.0, 1 / 3, 2 / 3, 1.0)

Sets = Mapping[str, MeasuredSet]


def source_and_config(steps: int) -> tuple[Dataset, TrainConfig]:
    return dataset("arc-easy"), TrainConfig(steps=steps, validate_every=max(steps // 4, 1))


def as_lora(lab: Laboratory, source: Dataset, config: TrainConfig) -> TrainConfig:
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


# --- 4 and 7: every strategy on sets that no expert was trained on, and what pass 1 costs.
#
# Mixtures are found by CEM on shots of the set's *training* split (HumanEval, which has none: of
# MBPP's), never on what is scored. Answers and seconds are those of `evaluation.measure`. Each
# mixture is also compared with the best single expert, which is chosen by what is scored: a bar
# that nobody without the answers could choose.

SETS = {
    "chosen": ("arc_challenge", "easy_vqa", "easy_vqa_more"),
    "written": ("gsm8k",),
    "programs": ("humaneval",),
}  # by section of the proof
SHOT_TOKENS = 96  # that a candidate writes in answer to a shot
# Name -> how it is searched, on every set; then where answers are chosen, which takes no writing.
EVERYWHERE = {"few-shot": {}, "few-shot, light": LIGHT}
WHERE_CHOSEN = {
    "few-shot, per layer": {"sharing": MATRIX},
    "few-shot by likelihood, 20 shots": {"objective": LOG_LIKELIHOOD, "shots": 20},
    "few-shot by likelihood, 20 shots, per layer": {
        "objective": LOG_LIKELIHOOD,
        "shots": 20,
        "sharing": MATRIX,
    },
}


@dataclass(frozen=True)
class Unseen:
    """A set, where its shots come from, and the reward that a search maximises.

    `rest`: the rows of `shots` as they are scored, of which those are that no search draws: the
    same mixtures once more, on rows that nobody has looked at while they were chosen.
    """

    name: str
    shots: Callable[[QuestionSet], list[Example]]
    reward: str
    rest: Callable[[QuestionSet], list[Example]] | None = None

    def asked(self, limit: int) -> QuestionSet:
        """What is scored."""
        asked = question_set(self.name, limit)
        if self.rest is None:
            return asked
        rows = self.shots(asked)
        configs = [_config(how) for how in (EVERYWHERE | WHERE_CHOSEN).values()]
        drawn = [shot for config in configs for shot in draw_shots(rows, config)]
        first = asked.questions[0]
        others = [
            replace(first, example=row, user=first.user.replace(first.example.prompt, row.prompt))
            for row, known in zip(self.rest(asked), rows, strict=True)
            if not any(known is shot for shot in drawn)
        ]
        return replace(asked, questions=tuple(others))


def _choices(name: str) -> Callable[[QuestionSet], list[Example]]:
    return lambda asked: load_task(name, "train")


def _same_answers(asked: QuestionSet) -> list[Example]:
    """easy-VQA's training questions with the answers that the set offers, without pictures."""
    rows = _with_pictures(asked)
    return [replace(e, columns={n: e.columns[n] for n in ("choices", "label")}) for e in rows]


def _with_pictures(asked: QuestionSet) -> list[Example]:
    """The same as they are scored: a picture, which nobody is shown, tells two of them apart."""
    kinds = asked.questions[0].example.columns["choices"]
    rows = [e for e in load_task("easy_vqa", "train") if e.answer in kinds]
    offered = [{"choices": kinds, "label": kinds.index(e.answer)} for e in rows]
    return [replace(e, columns={**e.columns, **c}) for e, c in zip(rows, offered, strict=True)]


def _config(how: Mapping) -> CEMConfig:
    return CEMConfig(max_new_tokens=SHOT_TOKENS, **how)


UNSEEN = {
    "arc_challenge": Unseen("arc_challenge", _choices("arc_challenge"), "choice"),
    "easy_vqa": Unseen("easy_vqa", _same_answers, "choice"),
    "easy_vqa_more": Unseen("easy_vqa", _same_answers, "choice", _with_pictures),
    "gsm8k": Unseen("gsm8k", _choices("gsm8k"), "numeric"),
    "humaneval": Unseen(
        "humaneval", lambda asked: [show_first_test(e) for e in load_task("mbpp", "train")], "code"
    ),
}


def on_unseen_sets(
    lab: Laboratory,
    subject_of: Callable[[], Subject],
    names: Sequence[str],
    limit: int,
    max_new_tokens: int,
    lora: Callable[[], Learnt] | None,
) -> list[Cell]:
    """A row a set and strategy: base, each skill, dispatchers, found mixtures, LoRA, the oracle."""
    rows: list[Cell] = []
    with lab.attached():
        subject = subject_of()
        applier = lora() if lora else None
        for name in names:
            asked = UNSEEN[name].asked(limit)
            budget = None if asked.verdict == LIKELIHOOD else max_new_tokens
            ways = list(_variants(lab, subject, UNSEEN[name], asked, applier))
            found, right = _drained(lab, evaluate(subject, [asked], ways, True, budget))
            singles = {skill: right[skill] for skill in subject.skills if skill in right}
            extra = {way.name: _of_mixture(way, right, singles) for way in ways if way.shots}
            rows += [
                r.as_dict() | {"task": name} | extra.get(r.strategy, {}) for r in found.results
            ]
    return rows


def _of_mixture(way: Variant, right: Mapping[str, Right], singles: Mapping[str, Right]) -> Cell:
    """α, and mean, low, high of the paired difference to the single expert with most right."""
    alpha = {"alpha": dict(way.needed.alpha)}
    if way.name not in right or not singles:
        return alpha
    best = max(singles, key=lambda name: sum(singles[name]))
    over = paired_difference(singles[best], right[way.name])
    return alpha | {"best_single": best, "over_best_single": list(over)}


def _variants(
    lab: Laboratory, subject: Subject, unseen: Unseen, asked: QuestionSet, lora: Learnt | None
):
    yield base(subject)
    for skill in subject.skills:
        yield mixed(subject, skill, Mixture({skill: 1.0}))
    chosen = asked.verdict == LIKELIHOOD
    for end in ("", f":{HARD}") if chosen else ("",):  # what is written takes minutes a variant
        yield asking(subject, f"{PROMPT}{end}")
        yield asking(subject, f"{CLASSIFIER}{end}")
    searched = EVERYWHERE | (WHERE_CHOSEN if chosen else {})
    for name, how in searched.items():
        found = _found(lab, subject, unseen, asked, _config(how))
        yield mixed(subject, name, found.mixture, found.shot_prompts)
    if lora is not None:
        yield _as_variant(lora)


def _as_variant(lora: Learnt) -> Variant:
    key = ["lora", str(lora.key)]
    return Held("LoRA of arc_easy", key, lora.flat.numel(), lora.holding)


def _found(
    lab: Laboratory, subject: Subject, unseen: Unseen, asked: QuestionSet, config: CEMConfig
) -> Found:
    shots = draw_shots(unseen.shots(asked), config)
    experts = {name: subject.experts[name].z for name in subject.skills}
    svf, folder = subject.svf, lab.book.folder / "searches"
    events = search(subject.loaded, svf, experts, shots, unseen.reward, config, folder)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        stage = f"Searching a mixture for {unseen.name}: {event.best_accuracy:.2f}"
        lab.report(Progress(stage, event.number, event.total, "generations"))


def _drained(lab: Laboratory, events) -> tuple[Evaluation, dict[str, Right]]:
    """The evaluation, and 1.0 or 0.0 a prompt of each strategy."""
    right: dict[str, dict[int, float]] = {}
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value, {n: [v for _, v in sorted(r.items())] for n, r in right.items()}
        if isinstance(event, Scored):
            own = right.setdefault(event.strategy, {})
            own |= {record.index: float(record.right) for record in event.records}
            stage = f"{event.task} {event.strategy}, {event.correct} right"
            lab.report(Progress(stage, event.done, event.total, "prompts"))


def pass_times(rows: Sequence[Mapping]) -> list[Cell]:
    """Seconds of both passes of each dispatcher, and pass 1 as a share of pass 2 (Table 3)."""
    return [
        {
            "set": row["task"],
            "strategy": row["strategy"],
            "first_pass_s": row["first_pass_s"],
            "second_pass_s": row["second_pass_s"],
            "share": round(row["first_pass_s"] / row["second_pass_s"], 4),
        }
        for row in rows
        if row["first_pass_s"] and row["second_pass_s"]
    ]
