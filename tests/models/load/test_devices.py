"""What a model gets on a machine that is not as one would hope, and the sentence about it."""

import pytest
import torch

from t2local.models.load import devices
from t2local.models.load.loader import load_model
from t2local.progress import drain


@pytest.fixture
def gpus(monkeypatch):
    """`gpus((7, 5), ...)`: a machine with GPUs of these compute capabilities."""

    def have(*capabilities):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=0: capabilities[i])

    return have


@pytest.mark.parametrize(
    ("capabilities", "model_type", "expected"),
    [
        ([(8, 9)], "llama", torch.bfloat16),
        ([(9, 0), (7, 5)], "llama", torch.float16),
        ([(7, 5)], "gemma2", torch.float32),
        ([(6, 1)], "llama", torch.float32),
        ([], "llama", torch.float32),
    ],
)
def test_the_float_type_is_one_that_every_gpu_computes_in(gpus, capabilities, model_type, expected):
    gpus(*capabilities)
    assert devices.choose_dtype(10**9, model_type) == expected


def test_a_gpu_without_bfloat16_is_told(gpus):
    gpus((7, 5))
    (note,) = devices.notes("nf4", torch.float16)
    assert "compute capability 7.5" in note
    assert "float16" in note
    gpus((8, 0))
    assert devices.notes("nf4", torch.bfloat16) == ()


def test_the_freest_gpu_is_taken(gpus, monkeypatch):
    gpus((8, 0), (8, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: [(5, 9), (7, 9)][index])
    assert devices.choose_device() == "cuda:1"


def test_4_bits_without_a_gpu_run_and_are_told(tiny_folder, caplog):
    loaded = drain(load_model(str(tiny_folder()), "nf4"))
    (note,) = loaded.notes
    assert "4-bit weights run on the CPU" in note
    assert "no CUDA GPU was found" in note
    assert "--quantize none" in note
    assert note in caplog.text
    assert drain(load_model(str(tiny_folder()), "none")).notes == ()


def test_an_old_driver_is_told(monkeypatch):
    def too_old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    (note,) = devices.notes("none", torch.float32)
    assert "driver is too old for PyTorch's CUDA 12.8" in note
    assert "update the driver" in note


def test_a_gpu_that_this_pytorch_cannot_use_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", tmp_path / "version")
    assert devices.gpu_problem() == ""
    (tmp_path / "version").write_text("NVRM version")
    assert "built without CUDA" in devices.gpu_problem()
    (tmp_path / "version").unlink()
    monkeypatch.setattr(devices, "NVIDIA_DRIVER_WINDOWS", tmp_path / "nvcuda.dll")
    assert devices.gpu_problem() == ""
    (tmp_path / "nvcuda.dll").write_bytes(b"MZ")  # PyPI's PyTorch for Windows has no CUDA
    assert "install the CUDA build" in devices.gpu_problem()
