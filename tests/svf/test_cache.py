"""Bases on disk: work that is done is not done again, and a damaged file is never used."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from t2local.errors import Cancelled, T2LocalError
from t2local.progress import CancelToken, drain
from t2local.svf import attach, attaching, attachment, basis
from t2local.svf.basis import BasisCache, decompose, rounded, weight_digest
from tests.svf.support import logits, random_z

CPU = torch.device("cpu")
WEIGHT = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def decomposed(monkeypatch) -> list[torch.Tensor]:
    """The matrices decomposed from now on."""
    calls = []

    def counting(weight: torch.Tensor):
        calls.append(weight)
        return decompose(weight)

    monkeypatch.setattr(attachment, "decompose", counting)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_save_then_load_is_the_identity(tmp_path, dtype):
    store, digest = BasisCache(tmp_path), weight_digest(WEIGHT)
    basis = rounded(decompose(WEIGHT), dtype)
    assert store.load(digest, dtype, CPU) is None
    store.save(digest, dtype, basis)
    found = store.load(digest, dtype, CPU)
    assert found.side == basis.side
    assert torch.equal(found.vectors, basis.vectors)
    assert found.vectors.dtype == dtype
    assert torch.equal(found.sigma, basis.sigma)
    assert torch.equal(found.dense(), basis.dense())
    assert store.load(digest, torch.float16, CPU) is None
    assert store.load(weight_digest(-WEIGHT), dtype, CPU) is None


def test_a_second_attach_decomposes_nothing_and_gives_the_same_bits(tiny, tmp_path, decomposed):
    first = attach(tiny("llama"), cache_folder=tmp_path)
    assert len(decomposed) == 14
    second = attach(tiny("llama"), cache_folder=tmp_path)
    assert len(decomposed) == 14
    z = random_z(first)
    with first.using(z), second.using(z):
        assert torch.equal(logits(first.model), logits(second.model))
    attach(tiny("llama"), "mlp", cache_folder=tmp_path)
    assert len(decomposed) == 14
    attach(tiny("llama"), basis_dtype="int8", cache_folder=tmp_path)
    assert len(decomposed) == 28


def test_a_cut_off_decomposition_goes_on_where_it_stopped(tiny, tmp_path, decomposed):
    cancel = CancelToken()

    def stop_at_five(event) -> None:
        if event.done == 5:
            cancel.cancel()

    with pytest.raises(Cancelled):
        drain(attaching(tiny("llama"), cache_folder=tmp_path, cancel=cancel), stop_at_five)
    assert 5 <= len(decomposed) < 14
    resumed = attach(tiny("llama"), cache_folder=tmp_path)
    assert len(decomposed) == 14
    whole, z = attach(tiny("llama")), random_z(resumed)
    with resumed.using(z), whole.using(z):
        assert torch.equal(logits(resumed.model), logits(whole.model))


def cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(_content: bytes) -> bytes:
    return b""


def of_another_kind(_content: bytes) -> bytes:
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


def zeros_inside(content: bytes) -> bytes:
    return content[:2000] + bytes(len(content) - 2000)


@pytest.mark.parametrize("damage", [cut_in_half, empty, of_another_kind, zeros_inside])
def test_a_damaged_file_is_computed_again(tiny, tmp_path, decomposed, damage):
    first = attach(tiny("llama"), cache_folder=tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 14
    files[3].write_bytes(damage(files[3].read_bytes()))
    second, z = attach(tiny("llama"), cache_folder=tmp_path), random_z(first)
    assert len(decomposed) == 15
    with first.using(z), second.using(z):
        assert torch.equal(logits(first.model), logits(second.model))
    attach(tiny("llama"), cache_folder=tmp_path)
    assert len(decomposed) == 15  # it was mended


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(tiny, tmp_path, monkeypatch):
    def full(path: Path, content: bytes) -> None:
        path.open("wb").write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    untouched = tiny("llama")
    with pytest.raises(T2LocalError, match=r"disk is full.*free some space"):
        attach(untouched, cache_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert attach(untouched).matrix_names  # without a cache it still works


def test_without_a_folder_nothing_is_kept():
    store = BasisCache(None)
    store.save("digest", torch.float32, decompose(WEIGHT))
    assert store.load("digest", torch.float32, CPU) is None


def test_bases_of_another_version_are_made_anew_and_that_is_said(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(basis, "CONVENTION", "an older one")
    attach(tiny("llama"), cache_folder=tmp_path)
    monkeypatch.undo()
    old = set(tmp_path.glob("*.safetensors"))
    events = []
    drain(attaching(tiny("llama"), cache_folder=tmp_path), events.append)
    assert "anew" in events[0].stage
    new = set(tmp_path.glob("*.safetensors"))
    assert len(new) == len(old) == 14
    assert not new & old
    drain(attaching(tiny("llama"), cache_folder=tmp_path), events.append)
    assert "anew" not in events[-1].stage


def test_a_disk_too_small_is_told_before_anything_is_computed(tiny, tmp_path, monkeypatch):
    attach(tiny("llama"), "mlp", cache_folder=tmp_path / "half")
    kept = sum(p.stat().st_size for p in (tmp_path / "half").iterdir())
    attach(tiny("llama"), cache_folder=tmp_path / "whole")
    whole = sum(p.stat().st_size for p in (tmp_path / "whole").iterdir())
    disk = SimpleNamespace(free=whole - kept)
    monkeypatch.setattr(basis.shutil, "disk_usage", lambda _: disk)
    assert attach(tiny("llama"), cache_folder=tmp_path / "half").matrix_names
    disk.free = 1000
    with pytest.raises(T2LocalError, match=r"bases of this model take .* GB in .*T2LOCAL_HOME"):
        attach(tiny("llama"), cache_folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()
