"""Every gold answer is worth +1, every spoilt one −1: the benchmarks' own answers as the table."""

import re

import pytest

from t2local.tasks.benchmarks import load_task
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import as_columns

PROGRAM_SETS = [("humaneval", "test"), ("mbpp", "train"), ("mbpp", "validation"), ("mbpp", "test")]
PROGRAM_SETS += [("mbppplus", "test")]
WRAPPINGS = ["{}", "#### {}", "The answer is **{}**.", r"\boxed{{{}}}", "So it is ${} in all."]


def scores(name, examples, completions):
    prompts = [example.prompt for example in examples]
    return REWARDS[name](prompts, completions, **as_columns(examples))


@pytest.mark.parametrize("name", ["numeric", "math"])
@pytest.mark.parametrize("task", ["gsm8k", "svamp"])
def test_every_number_counts_however_it_is_written(task, name, data_folder):
    examples = load_task(task, "test", data_folder)
    for wrapping in WRAPPINGS:
        completions = [wrapping.format(example.answer) for example in examples]
        assert set(scores(name, examples, completions)) == {1.0}
    wrong = [f"The answer is {int(float(e.answer.replace(',', ''))) + 1}." for e in examples]
    assert set(scores(name, examples, wrong)) == {-1.0}
    assert set(scores(name, examples, [""] * len(examples))) == {-1.0}


@pytest.mark.parametrize(("task", "split"), PROGRAM_SETS)
def test_every_reference_program_passes(task, split, data_folder):
    examples = load_task(task, split, data_folder)
    worth = scores("code_partial", examples, [example.answer for example in examples])
    assert [e.columns["id"] for e, w in zip(examples, worth, strict=True) if w != 1.0] == []


@pytest.mark.parametrize(("task", "split"), PROGRAM_SETS)
def test_a_spoilt_program_fails(task, split, data_folder):
    """Every tenth row: the function returns something else, wrapped in what models say."""
    examples = load_task(task, split, data_folder)[::10]
    spoilt = [
        f"Here you are:\n```python\ndef {e.columns['entry_point']}(*a, **k):\n"
        "    return 'not this'\n```\nDone."
        for e in examples
    ]
    assert set(scores("code", examples, spoilt)) == {-1.0}
    assert set(scores("code", examples, [""] * len(examples))) == {-1.0}


def test_every_choice_by_letter_and_by_text(data_folder):
    examples = load_task("arc_easy", "test", data_folder)
    by_letter = [f"The answer is ({chr(65 + e.columns['label'])})." for e in examples]
    by_text = [e.columns["choices"][e.columns["label"]] for e in examples]
    assert set(scores("choice", examples, by_letter)) == {1.0}
    named = scores("choice", examples, by_text)
    twice = [e for e, s in zip(examples, named, strict=True) if s != 1.0]
    assert all(
        len(set(map(_letters, e.columns["choices"]))) < len(e.columns["choices"]) for e in twice
    )


def _letters(text):
    return re.sub(r"\W+", " ", text).strip().casefold()
