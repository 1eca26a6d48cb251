import pytest

from t2local import paths
from t2local.errors import T2LocalError
from t2local.tasks.datasets import dataset
from t2local.tasks.files import read_examples
from t2local.tasks.rows import Example
from t2local.tasks.uploads import keep_rows, keep_text, read_draft, write_rows


def table(tmp_path, text):
    path = tmp_path / "some rows.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


TWENTY = "".join(f"is {i} even?,{'no' if i % 2 else 'yes'}\n" for i in range(20))


def test_kept_rows_are_in_the_users_data_and_equal(home, tmp_path):
    draft = read_draft(table(tmp_path, f"prompt,answer\n{TWENTY}"))
    path = keep_rows(draft, "exact", False)
    assert path.parent == home / "data"
    assert read_examples(path).examples == draft.file.examples
    assert keep_rows(draft, "exact", False) == path


def test_columns_and_earlier_turns_survive(tmp_path):
    before = {"messages": [{"role": "system", "content": "short"}], "tests": ["assert f()"]}
    examples = [Example("a?", "b", before), Example("c?", "", {"label": 1, "choices": ["x", "y"]})]
    assert list(read_examples(write_rows(examples, "mixed")).examples) == examples


def test_a_choice_is_kept_with_its_choices(tmp_path):
    draft = read_draft(table(tmp_path, f"prompt,answer\n{TWENTY}"))
    lessons = dataset(str(keep_rows(draft, "choice", False)))
    assert lessons.train[0].columns["choices"] == ["no", "yes"]


def test_bad_rows_stop_unless_left_out(tmp_path):
    draft = read_draft(table(tmp_path, f"prompt,answer\nnothing,\n{TWENTY}"))
    with pytest.raises(T2LocalError, match="row 2"):
        keep_rows(draft, "exact", False)
    assert len(read_examples(keep_rows(draft, "exact", True)).examples) == 20


def test_columns_can_be_chosen(tmp_path):
    text = "id,what,wanted\n" + "".join(f"{i},thing {i},w{i}\n" for i in range(6))
    draft = read_draft(table(tmp_path, text.replace("what", "prompt")), "prompt", "wanted")
    assert draft.file.examples[0].answer == "w0"


def test_too_little_says_so(tmp_path):
    with pytest.raises(T2LocalError, match="at least 5"):
        read_draft(table(tmp_path, "prompt,answer\na,b\n"))
    with pytest.raises(T2LocalError, match="Nothing was pasted"):
        keep_text("  \n")
    assert keep_text("prompt,answer").parent == paths.home() / "data"
