"""What the proof's parts share: cells that are computed once, and the dispatchers' confusion."""

import pytest
import torch

from t2local.adapt.dispatch import LABELS, label_probabilities
from t2local.experiments import laboratory
from t2local.experiments.laboratory import Book, Laboratory
from t2local.experts import Expert
from t2local.experts.expert import CLASSIFIER
from t2local.tasks.datasets import Dataset
from t2local.tasks.rows import Example


def test_a_cell_is_made_once_and_anew_for_other_parts(tmp_path):
    book, made = Book(tmp_path, ("model",)), []

    def make():
        made.append(1)
        return {"n": len(made)}

    assert book.cell(("a", 1), make) == {"n": 1} == book.cell(("a", 1), make)
    assert book.cell(("a", 2), make) == {"n": 2}
    assert Book(tmp_path, ("other",)).cell(("a", 1), make) == {"n": 3}
    for path in tmp_path.iterdir():
        path.write_text("{")
    assert book.cell(("a", 1), make) == {"n": 4}, "a damaged cell is made again"


def test_a_tensor_comes_back_and_is_made_again_without_its_file(tmp_path):
    book, made = Book(tmp_path, ()), []

    def make():
        made.append(1)
        return torch.arange(3.0), {"n": len(made)}

    for _ in range(2):
        flat, about = book.tensor(("z",), make)
        assert flat.tolist() == [0, 1, 2]
        assert about == {"n": 1}
    next(tmp_path.glob("*.safetensors")).write_bytes(b"broken")
    assert book.tensor(("z",), make)[1] == {"n": 2}


# --- The confusion of the proof is that of the chat's own pass 1, remembered.


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
