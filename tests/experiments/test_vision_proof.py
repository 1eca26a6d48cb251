"""The measurement on a small vision-language model, from files to a table, on a tiny one."""

import json

import pytest

from t2local.errors import T2LocalError
from t2local.experiments.vision_proof import EXPERTS, MIXTURE, PicturePlan, Tower, prove_pictures
from t2local.tasks.benchmarks import DATA_VARIABLE
from tests.pictures import COLOURS, painted

PLAN = PicturePlan(
    steps=4, prompts_per_step=4, learning_rate=5e-2, limit=16, tower=Tower(32, 16, 32, 1)
)


@pytest.fixture
def easy_vqa(tmp_path, monkeypatch):
    """Sixteen rows a split: the shape is always a circle, the colour is the picture's."""
    for colour in COLOURS:
        painted(tmp_path, colour)
    rows = []
    for i in range(16):
        colour = COLOURS[i // 2 % len(COLOURS)]
        asked = ("what shape?", "circle") if i % 2 else ("what colour?", colour)
        row = {"prompt": f"{asked[0]} ({i})", "answer": asked[1], "image": f"{colour}.png"}
        rows.append(json.dumps(row))
    for split in ("train", "test"):
        (tmp_path / f"easy_vqa.{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))


@pytest.mark.usefixtures("easy_vqa")
def test_everything_is_measured_beside_the_base_model(tiny_loaded):
    told = []
    found = prove_pictures(tiny_loaded("llama"), PLAN, lambda now: told.append(json.dumps(now)))
    measured = found["measured"]
    assert set(measured) == {"base", MIXTURE, f"{MIXTURE}, shuffled", *EXPERTS}
    assert json.loads(told[-1]) == json.loads(json.dumps(found))
    assert all(len(part["reward_curve"]) == PLAN.steps for part in found["training"].values())
    assert measured["base"]["all"]["minus_base"] == 0
    for part in measured.values():
        kinds = [part[name] for name in EXPERTS]
        assert sum(kind["n"] for kind in kinds) == part["all"]["n"] == 16
        right = sum(kind["accuracy"] * kind["n"] for kind in kinds)
        assert right == pytest.approx(part["all"]["accuracy"] * 16)
    assert measured[EXPERTS[0]][EXPERTS[0]]["accuracy"] == 1  # always a circle: learnt at once


def test_without_its_rows_it_says_where_they_belong(tiny_loaded, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(T2LocalError, match=r"easy_vqa\.train\.jsonl"):
        prove_pictures(tiny_loaded("llama"), PLAN, lambda found: None)
