"""`bench`: the table's marks, and on the embedded model the JSON object with every row."""

import argparse
import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from t2local import paths
from t2local.bench.decoding import COMPILED
from t2local.bench.shape import GOALS
from t2local.bench.table import RATIO_BARS, ROW_BARS, Bar, Measured, Row
from t2local.cli import bench
from t2local.cli.bench import NOT_MEASURED, lines_of, run
from t2local.engine.requests import EngineStatus
from t2local.errors import T2LocalError
from t2local.experts import Expert, ExpertStore
from t2local.models.fit.catalogue import EMBEDDED, find
from t2local.svf import attach
from tests.svf.support import random_z

NAME = find(EMBEDDED).file.name.removesuffix(".gguf")


@pytest.mark.parametrize(
    ("bar", "value", "reached"),
    [
        (Bar("≥", 0.65), 0.65, True),
        (Bar("≥", 0.65), 0.64, False),
        (Bar("≤", 0.0), 0.0, True),
        (Bar("<", 4.0), 4.0, False),
    ],
)
def test_a_bar_knows_what_reaches_it(bar, value, reached):
    assert bar.reached(value) == reached


def test_each_value_is_a_line_with_its_bar_and_mark():
    rows = [Row("change of z", "z given", 1.6, "ms"), Row("decode", "base", 14.0, "tokens/s")]
    change, decode, all_over_base = lines_of(Measured(rows, {"decode_all_over_base": 0.4}))
    assert change.split()[-5:] == ["1.6", "ms", "≤", "5", "pass"]
    assert decode.endswith("tokens/s")
    assert all_over_base.startswith("decode all over base")
    assert all_over_base.endswith("BELOW")


def test_a_shape_without_a_gpu_is_a_table_or_an_object_of_rows_not_measured(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = argparse.Namespace(
        shape="llama3-8b", vram=12, quick=True, json=False, model=None, out=None
    )
    run(asked, None)
    output = capsys.readouterr()
    assert output.out.count(NOT_MEASURED) == len(GOALS)
    assert output.out.count(" aim ") == len(GOALS)
    assert "python -m t2local bench --shape llama3-8b --vram 12" in output.err
    assert "pass" not in output.out
    reports = []
    asked.json = True
    run(asked, reports.append)
    (found,) = reports
    assert found.keys() == {"command", "commit", "machine", "model", "rows", "ratios"}
    assert found["model"] == "random-llama3-8b"
    assert {row["value"] for row in found["rows"]} == {None}


def test_each_figure_is_printed_and_kept_as_it_comes(monkeypatch, capsys, tmp_path):
    """An end in the midst of it, by Ctrl-C or for want of power, leaves those before it."""
    out = tmp_path / "figures.jsonl"
    status = EngineStatus("ready", model_name="small", quantization="gguf", dtype="float32")
    row = Row("change of z", "z given", 1.6, "ms")

    def cut_off(*_arguments):
        yield status
        yield Measured([row], {"decode_all_over_base": 0.4})
        yield "a mixture search: not measured: out of memory"
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measuring", cut_off)
    options = {"model": "small", "quantize": "auto", "basis": "auto", "only": ""}
    asked = argparse.Namespace(shape=None, quick=True, json=False, out=out, **options)
    for runs in (1, 2):  # a second run is added to the first
        with pytest.raises(KeyboardInterrupt):
            run(asked, None)
        printed = capsys.readouterr().out
        assert "1.6 ms" in printed
        assert "decode all over base" in printed
        about, *figures, said = map(json.loads, out.read_text("utf-8").splitlines()[-4:])
        assert about["model"] == "small"
        assert figures == [asdict(row), {"ratio": "decode_all_over_base", "value": 0.4}]
        assert said == {"said": "a mixture search: not measured: out of memory"}
        assert len(out.read_text("utf-8").splitlines()) == 4 * runs


def test_a_full_disk_ends_the_file_and_not_the_benchmark(monkeypatch, capsys, tmp_path):
    status = EngineStatus("ready", model_name="small", quantization="gguf", dtype="float32")
    rows = [Row("change of z", variant, 1.6, "ms") for variant in ("given", "from sliders")]

    def full(*_arguments):
        yield status
        yield Measured(rows[:1], {})
        monkeypatch.setattr(paths, "appending", no_room)
        yield Measured(rows[1:], {})

    def no_room(_path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bench, "measuring", full)
    out, reports = tmp_path / "figures.jsonl", []
    options = {"model": "small", "quantize": "auto", "basis": "auto", "only": ""}
    run(argparse.Namespace(shape=None, quick=True, json=True, out=out, **options), reports.append)
    assert [row["variant"] for row in reports[0]["rows"]] == ["given", "from sliders"]
    assert len(out.read_text("utf-8").splitlines()) == 2
    assert "takes no more (No space left on device)" in capsys.readouterr().err


@pytest.mark.parametrize(("place", "what"), [(".", "is a folder"), ("no/f", "is not there")])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path, place, what):
    asked = argparse.Namespace(shape="tiny", out=tmp_path / place, json=False, model=None)
    with pytest.raises(T2LocalError, match=what):
        run(asked, None)


def put_experts(loaded) -> None:
    """A skill and a classifier among the user's experts, with little in them."""
    svf = attach(loaded.model, "mlp")
    try:
        z = random_z(svf, rms=0.01)
        fingerprint = svf.fingerprint(z)
    finally:
        svf.detach()
    store = ExpertStore(NAME)
    store.save(Expert("skill", NAME, fingerprint, z))
    store.save(Expert("reader", NAME, fingerprint, z, kind="classifier", labels=("skill", "other")))


@pytest.mark.timeout(1800)  # seven minutes on two slow cores without AVX-512
@pytest.mark.model
def test_quick_gives_one_json_object_with_every_row_that_has_a_bar(embedded, home, tmp_path):
    folder = tmp_path / NAME  # a checkpoint of floats, which loads in a moment
    embedded.model.save_pretrained(folder)
    embedded.tokenizer.save_pretrained(folder)
    put_experts(embedded)
    assert paths.home() == home
    command = [sys.executable, "-m", "t2local", "bench", "--quick", "--json", "--model", folder]
    finished = subprocess.run(
        command, capture_output=True, text=True, cwd=paths.PROJECT_ROOT, env=os.environ, check=True
    )
    result = json.loads(finished.stdout)
    assert result.keys() == {"command", "commit", "machine", "model", "rows", "ratios"}
    assert result["model"] == NAME
    assert all(row.keys() == {"name", "variant", "value", "unit"} for row in result["rows"])
    values = {(row["name"], row["variant"]): row["value"] for row in result["rows"]}
    of_files = {key for key in ROW_BARS if key[0] == COMPILED}  # for models of GGUF files
    assert values.keys() >= ROW_BARS.keys() - of_files
    long = ("compiled_", "habit_")  # files' models; habits train for minutes each
    ratios = {name for name in RATIO_BARS if not name.startswith(long)}
    assert result["ratios"].keys() >= ratios
    exact = [key for key in ROW_BARS if key[0] in ("z = 1", "branch", "batch of different z")]
    assert all(ROW_BARS[key].reached(values[key]) for key in exact)
    shares = [v for (_, variant), v in values.items() if variant.startswith("share of")]
    assert sum(shares) == pytest.approx(2.0)  # two steps were measured
