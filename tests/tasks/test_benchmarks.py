"""The catalogue reads what is there and says clearly what is not."""

import json

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.benchmarks import (
    DATA_VARIABLE,
    TASKS,
    load_task,
    overlapping,
    prompt_hash,
    prompt_hashes,
    show_first_test,
)
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import Example, as_columns

ROW = {"id": "x-1", "prompt": "1 + 1?", "answer": "2", "solution": "two"}


def test_a_row_becomes_an_example_with_its_other_fields_as_columns(tmp_path):
    (tmp_path / "gsm8k.test.jsonl").write_text(json.dumps(ROW) + "\n\n")
    (example,) = load_task("gsm8k", "test", tmp_path)
    assert (example.prompt, example.answer) == ("1 + 1?", "2")
    assert example.columns == {"id": "x-1", "solution": "two"}
    assert as_columns([example]) == {"answer": ["2"], "id": ["x-1"], "solution": ["two"]}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_of_the_catalogue_loads_in_every_split(name, data_folder):
    for split in TASKS[name].splits:
        assert load_task(name, split, data_folder)
    assert TASKS[name].reward in REWARDS


def test_humaneval_rows_carry_what_their_answer_continues(data_folder):
    example = load_task("humaneval", "test", data_folder)[0]
    assert example.columns["prefix"] == example.prompt


def test_the_first_test_names_the_function(data_folder):
    example = load_task("mbpp", "train", data_folder)[0]
    assert example.columns["entry_point"] in show_first_test(example).prompt


@pytest.mark.parametrize(
    ("name", "split", "says"),
    [
        ("nope", "test", "choose one of gsm8k"),
        ("gsm8k", "dev", "no split 'dev'"),
        ("svamp", "test", "lacks 'svamp.test.jsonl'"),
        ("gsm8k", "test", "Line 1"),
    ],
)
def test_what_is_missing_is_named(name, split, says, tmp_path):
    (tmp_path / "gsm8k.test.jsonl").write_text('{"prompt": "no answer"}\n')
    with pytest.raises(T2LocalError, match=says):
        load_task(name, split, tmp_path)


def test_without_a_folder_the_variable_is_named(monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(T2LocalError, match=DATA_VARIABLE):
        load_task("gsm8k")


@pytest.mark.parametrize("same", ["What is 2+2?", "  what is\n2 + 2 ", "WHAT IS 2 + 2!"])
def test_spacing_case_and_punctuation_do_not_hide_a_prompt(same):
    assert prompt_hash(same) == prompt_hash("What is 2 + 2?")


def test_other_prompts_and_those_without_letters_are_told_apart():
    prompts = ["What is 2 + 3?", "What is 2 + 2?", "?", "!", ""]
    assert len(set(map(prompt_hash, prompts))) == len(prompts)


def test_overlap_gives_the_examples_themselves():
    rows = [Example("a", "1"), Example("b", "2")]
    assert overlapping(rows, prompt_hashes([Example("B.", "")])) == [rows[1]]
