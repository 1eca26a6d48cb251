"""The report says what is there; NF4 is tried, not guessed."""

import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from t2local.models.fit import memory
from t2local.models.fit.memory import NOT_INSTALLED, device_report, peak_memory_bytes
from t2local.models.load import quantized


def test_the_report_of_this_machine():
    report = device_report()
    assert 0 < report.ram_free_bytes <= report.ram_total_bytes
    assert report.cpu_cores >= 1
    assert report.packages["torch"].startswith(torch.__version__.split("+")[0])
    assert NOT_INSTALLED not in (report.packages["transformers"], report.packages["safetensors"])
    assert len(report.gpus) == torch.cuda.device_count()
    assert report.quantizations == {kind: quantized.problem(kind) for kind in ("int8", "nf4")}


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(memory, "PACKAGES", ("no-such-package",))
    assert device_report().packages == {"no-such-package": NOT_INSTALLED}


def test_a_machine_without_bitsandbytes_says_why(monkeypatch):
    monkeypatch.setitem(quantized.sys.modules, "bitsandbytes", None)
    assert "need bitsandbytes" in quantized.nf4_problem()


@pytest.mark.parametrize(
    ("free", "share", "reserved", "expected"),
    [(70, 1.0, 10, 70), (70, 0.5, 10, 40), (30, 0.5, 10, 30), (70, 0.5, 60, 0)],
)
def test_what_is_free_on_a_gpu_is_within_the_cap(monkeypatch, free, share, reserved, expected):
    """`bench --vram` caps a large card to a small one's: no more than that may be planned."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda n: [None, (free, 100)][n])
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", [None, share].__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_reserved", [None, reserved].__getitem__)
    assert memory.free_bytes("cuda:1") == memory.free_bytes("cuda") == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="the peak is the GPU's where there is one")
def test_the_peak_of_memory_is_this_processs(monkeypatch):
    now = psutil.Process().memory_info().rss
    assert 0.5 * now < peak_memory_bytes() < psutil.virtual_memory().total
    of_windows = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=1, peak_wset=3 * 2**30))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil, "Process", lambda: of_windows)
    assert peak_memory_bytes() == 3 * 2**30
