"""Cells are computed once, under all that they depend on."""

import torch

from t2local.experiments.laboratory import Book


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
