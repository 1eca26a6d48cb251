import pytest

from t2local.tasks.benchmarks import overlapping, prompt_hash, prompt_hashes
from t2local.tasks.rows import Example


@pytest.mark.parametrize("same", ["What is 2+2?", "  what is\n2 + 2 ", "WHAT IS 2 + 2!"])
def test_spacing_case_and_punctuation_do_not_hide_a_prompt(same):
    assert prompt_hash(same) == prompt_hash("What is 2 + 2?")


def test_other_prompts_and_those_without_letters_are_told_apart():
    prompts = ["What is 2 + 3?", "What is 2 + 2?", "?", "!", ""]
    assert len(set(map(prompt_hash, prompts))) == len(prompts)


def test_overlap_gives_the_examples_themselves():
    rows = [Example("a", "1"), Example("b", "2")]
    assert overlapping(rows, prompt_hashes([Example("B.", "")])) == [rows[1]]
