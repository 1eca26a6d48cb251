from t2local.tasks.datasets import split_rows
from t2local.tasks.rows import Example, split_held_out

ROWS = [Example(f"question {i % 15}", str(i)) for i in range(20)]  # five prompts come twice


def test_no_prompt_is_on_both_sides_and_no_row_is_lost():
    rest, held_out = split_held_out(ROWS, 0.2, seed=1)
    assert not {e.prompt for e in rest} & {e.prompt for e in held_out}
    assert len(rest) + len(held_out) == len(ROWS)
    assert held_out


def test_the_seed_decides():
    assert split_held_out(ROWS, 0.2, 1) == split_held_out(ROWS, 0.2, 1)
    assert split_held_out(ROWS, 0.2, 1) != split_held_out(ROWS, 0.2, 2)


def test_at_least_one_row_is_on_each_side():
    two = ROWS[:2]
    assert [len(part) for part in split_held_out(two, 0.01)] == [1, 1]
    assert [len(part) for part in split_held_out(two, 0.99)] == [1, 1]


def test_a_large_share_leaves_rows_to_learn_from_and_to_check_on():
    ten = [Example(f"question {i}", str(i)) for i in range(10)]
    parts = split_rows("ten", ten, held_out_share=0.9)
    assert min(len(parts.train), len(parts.validation)) >= 1
    assert len(parts.held_out) == 8
