"""Shots read as one tree begin their answers as if each had been read alone."""

import torch

from t2local.adapt.candidates import (
    Candidates,
    ShotScorer,
    answer_log_likelihoods,
    begin_answers,
    plant,
)
from t2local.adapt.cem import EXPERT
from t2local.models.decode.generate import Sampling, generate_batch
from t2local.svf import attach
from t2local.tasks.rows import WHOLE, Example
from t2local.training.preferences import Reference, log_likelihoods
from tests.adapt.conftest import random_z

PROMPTS = [[1, 40, 41, 42, 50], [1, 40, 41, 60], [1, 40, 41, 42, 43, 44, 45, 46]]
ANSWERS = [[[70, 71]], [], [[80], [81, 82, 83]]]
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=6)


def test_answers_begun_in_a_tree_are_those_of_each_shot_alone(tiny_loaded):
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model)
    zs = [random_z(svf, seed) for seed in (1, 2)]
    rows = {name: torch.stack([z[name] for z in zs]) for name in zs[0]}
    tree = plant(PROMPTS, ANSWERS)
    with svf.using(rows):
        totals, batch = begin_answers(loaded, tree, 2)
        assert torch.allclose(totals, answer_log_likelihoods(loaded, tree, 2), atol=1e-5)

    def own(kept):
        return svf.using(
            {name: row[[k // len(PROMPTS) for k in kept]] for name, row in rows.items()}
        )

    said = generate_batch(loaded, PROMPTS * 2, GREEDY, around_rows=own, begun=batch)
    alone = [
        generate_batch(loaded, [prompt], GREEDY, around=lambda z=z: svf.using(z))[0]
        for z in zs
        for prompt in PROMPTS
    ]
    assert said == alone


def test_a_tree_without_answers_has_no_likelihoods(tiny_loaded):
    loaded = tiny_loaded("llama")
    totals, batch = begin_answers(loaded, plant(PROMPTS, [[], [], []]), 1)
    assert totals.shape == (1, 0)
    assert batch.logits.shape[0] == len(PROMPTS)


def test_whole_answers_are_judged_by_what_moved_from_the_base_model(tiny_loaded):
    """As in training: the base model itself prefers nothing, and a short answer is no better."""
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model)
    z = random_z(svf, 1)
    pairs = [("a long answer of many words", "no"), ("no", "another long one, with words")]
    shots = [
        Example(f"question {i}?", pair[0], {"choices": list(pair), "label": 0, WHOLE: True})
        for i, pair in enumerate(pairs)
    ]
    scorer = ShotScorer(loaded, shots, "choice", 8)
    alpha = torch.tensor([0.0, 1.0, 2.0])[:, None, None]
    found = scorer.scores(Candidates(svf, {"one": z}, EXPERT), alpha)
    assert found.accuracy[0] == 0.5
    before = Reference(loaded, svf).of(shots)
    for row, strength in ((1, 1.0), (2, 2.0)):
        with svf.using({name: 1 + strength * (part - 1) for name, part in z.items()}):
            moved = [n - b for n, b in zip(log_likelihoods(loaded, shots), before, strict=True)]
        rose = [float(m[0] > max(0.0, float(m[1]))) for m in moved]
        assert found.accuracy[row] == sum(rose) / 2
        wanted = sum(float((0.1 * m).log_softmax(0)[0]) for m in moved) / 2
        assert abs(float(found.log_likelihood[row]) - wanted) < 1e-3
