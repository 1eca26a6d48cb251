"""`experts import|export|transfer` as a user types them, on two-layer models."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from t2local.cli.main import main
from t2local.experts import Library
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from tests.experts.support import small_expert

NAME = "tiny-llama"


@pytest.fixture
def folder(tiny_folder):
    """A model's folder; the model has the expert `counting`."""
    path = tiny_folder("llama")
    loaded = drain(load_model(str(path)))
    Library(loaded.slug).save(small_expert(attach(loaded.model)))
    return str(path)


@pytest.fixture
def run(capsys):
    """`run(...)`: status, the JSON object or None, the last line of stderr."""

    def command(*argv):
        status = main(["experts", *map(str, argv), "--json"])
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines() or [""]
        return status, json.loads(captured.out) if captured.out else None, lines[-1]

    return command


def test_a_file_goes_out_and_comes_in_without_a_model(folder, run, tmp_path):
    shared = tmp_path / "shared.safetensors"
    status, out, _ = run("export", "counting", "--out", shared, "--model", NAME)
    assert (status, out["file"]) == (0, str(shared))
    status, out, _ = run("import", shared, "--name", "mine", "--model", NAME)
    assert (status, out["expert"]) == (0, "mine")
    mine, theirs = (Library(NAME).load(name).z for name in ("mine", "counting"))
    assert all(torch.equal(mine[name], row) for name, row in theirs.items())


def test_a_lora_export_reports_its_errors_and_loads(folder, run, tmp_path):
    lora = tmp_path / "lora"
    status, out, _ = run(
        "export", "counting", "--to", "lora", "--rank", "full", "--out", lora, "--model", folder
    )
    assert status == 0
    assert out["rank"] == 64
    assert max(out["error_of_delta_w"], out["error_of_logits"]) < 1e-6  # two forwards round apart
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), lora)
    status, out, error = run("export", "counting", "--to", "lora", "--out", lora, "--model", folder)
    assert (status, out) == (1, None)
    assert "there already" in error


def test_a_merged_export_is_a_model_that_t2local_loads_too(folder, run, tmp_path):
    merged = tmp_path / "merged"
    status, out, _ = run("export", "counting", "--to", "merged", "--out", merged, "--model", folder)
    assert (status, out["dtype"]) == (0, "bfloat16")
    assert drain(load_model(str(merged))).name == "merged"


def test_a_mixture_is_exported_as_the_model_it_makes(folder, run, tmp_path):
    mixture, half = tmp_path / "half.json", tmp_path / "half"
    mixture.write_text('{"alpha": {"counting": 0.5}}')
    options = ("--to", "merged", "--dtype", "float32", "--model", folder)
    status, _, _ = run("export", mixture, "--out", half, *options)
    assert status == 0
    loaded, ids = drain(load_model(folder)), torch.tensor([[5, 6, 7, 8]])
    svf = attach(loaded.model)
    z = {n: 1 + 0.5 * (row - 1) for n, row in Library(NAME).load("counting").z.items()}
    with torch.no_grad(), svf.using(z):
        expected = loaded.model(ids).logits
    with torch.no_grad():
        found = drain(load_model(str(half))).model(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    mixture.write_text('{"alpha": {"gone": 0.5}}')
    status, _, error = run("export", mixture, "--out", tmp_path / "none", *options)
    assert status == 1
    assert "gone" in error
    status, _, error = run("export", mixture, "--out", tmp_path / "x", "--model", NAME)
    assert (status, "already a file to share" in error) == (1, True)


def test_reference_parameters_become_an_expert(folder, run, tmp_path):
    svf = attach(drain(load_model(folder)).model)
    ranks = [rank for name, rank in svf.ranks.items() if "mlp" in name]
    path = tmp_path / "policy_params.pt"
    torch.save({f"trainable_params.{i}": 0.1 * torch.randn(r) for i, r in enumerate(ranks)}, path)
    status, out, _ = run("import", path, "--name", "paper", "--model", folder)
    assert (status, out["matrices"]) == (0, len(ranks))
    assert "not measured" in out["warning"]
    assert "imported" in Library(NAME).load("paper").training
    status, _, error = run("import", path, "--name", "paper", "--model", folder)
    assert status == 1
    assert "already" in error


def test_a_transfer_is_measured_and_labelled(folder, run, tmp_path, tiny_loaded):
    other = tmp_path / "twin"
    loaded = tiny_loaded("llama", seed=5)
    loaded.model.save_pretrained(other)
    loaded.tokenizer.save_pretrained(other)
    rows = [
        {"prompt": f"colour {i}?", "answer": "red", "choices": ["blue", "red"]} for i in range(8)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    status, out, _ = run(
        "transfer", "counting", "--from", NAME, "--model", other, "--name", "moved",
        "--data", data, "--reward", "choice", "--limit", "6",
    )  # fmt: skip
    assert status == 0
    assert "is transferred: trained on tiny-llama" in out["warning"]
    assert out["held_out"]["n"] == 6
    moved = Library("twin").load("moved")
    assert moved.training["transferred"]["order"] == "in-order"
    assert moved.held_out.task == "rows.jsonl"


def test_data_without_a_reward_is_refused_before_a_model_is_loaded(run, tmp_path):
    status, _, error = run("transfer", "math", "--model", "nowhere", "--data", tmp_path / "x.csv")
    assert status == 1
    assert "--reward" in error
