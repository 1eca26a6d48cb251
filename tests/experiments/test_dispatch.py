"""The confusion of the proof is that of the chat's own pass 1, remembered."""

import pytest
import torch

from t2local.adapt.dispatch import LABELS, label_probabilities
from t2local.experiments import laboratory
from t2local.experiments.laboratory import Book, Laboratory
from t2local.experts import Expert
from t2local.experts.expert import CLASSIFIER
from t2local.tasks.datasets import Dataset
from t2local.tasks.rows import Example

ROWS = tuple(Example(f"message {i * i} " * (1 + i % 4), LABELS[i % 4]) for i in range(37))


def test_counts_are_what_pass_one_calls_each_message(tiny_loaded, tmp_path, monkeypatch):
    source = Dataset("topics", (), (), ROWS)
    monkeypatch.setattr(laboratory, "dataset", lambda name: source)
    loaded = tiny_loaded("llama")
    lab = Laboratory(loaded, Book(tmp_path, ("test",)), lambda event: None)
    with lab.attached() as svf:
        generator = torch.Generator().manual_seed(0)
        z = {n: 1 + torch.randn(r, generator=generator) for n, r in svf.ranks.items()}
        reader = Expert("reader", loaded.name, svf.fingerprint(z), z, kind=CLASSIFIER)
        expected = []
        for own in ({}, z):
            with svf.using(own):
                shares = [label_probabilities(loaded, [row.prompt])[0] for row in ROWS]
            called = [max(share, key=share.get) for share in shares]
            expected.append(sum(c == row.answer for c, row in zip(called, ROWS, strict=True)))
    found = laboratory.confusion(lab, {"classifier": reader})
    assert [row["strategy"] for row in found] == ["prompt", "classifier"]
    assert [row["accuracy"] * row["n"] for row in found] == pytest.approx(expected)
    assert all(sum(map(sum, row["counts"])) == len(ROWS) for row in found)
    monkeypatch.setattr(laboratory, "first_pass", None)
    assert laboratory.confusion(lab, {"classifier": reader}) == found
