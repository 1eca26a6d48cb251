import itertools
import json
import re
from collections import Counter

import pytest

from t2local.adapt.answering import CHOICE, TEXT, action_of
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore
from t2local.tasks.benchmarks import TASKS, load_task
from t2local.tasks.datasets import (
    FILES,
    HELD_OUT,
    PROBES,
    TOPICS,
    dataset,
    probes,
    small_talk,
    topic_labels,
    with_prompts,
)
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import as_columns
from t2local.tasks.sandbox import run_tests
from t2local.tasks.uploads import suggest_reward
from tests.tasks.workbook_files import xlsx


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def forty(tmp_path):
    rows = [{"prompt": f"question {i}", "answer": str(i)} for i in range(40)]
    return write(tmp_path / "mine.jsonl", rows)


def test_the_three_parts_are_disjoint_and_complete(forty):
    parts = dataset(forty)
    prompts = [{e.prompt for e in p} for p in (parts.train, parts.validation, parts.held_out)]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 40


def test_the_hash_says_which_rows(forty):
    parts = dataset(forty)
    assert parts.sha256 == dataset(forty).sha256
    assert parts.sha256 != with_prompts(parts, str.upper).sha256
    assert with_prompts(parts, str.upper).train[0].prompt == parts.train[0].prompt.upper()


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([{"prompt": "a", "answer": "b"}], "at least 5"),
        ([{"prompt": "a", "answer": str(i)} for i in range(9)], "1 different prompts"),
        ([{"prompt": "a", "answer": "b"}] * 4 + [{"prompt": "", "answer": "b"}], "bad rows"),
    ],
)
def test_too_few_or_bad_rows_are_refused(tmp_path, rows, word):
    with pytest.raises(T2LocalError, match=word):
        dataset(write(tmp_path / "few.jsonl", rows))


def test_an_unknown_source_is_named_with_what_there_is():
    with pytest.raises(T2LocalError, match=r"'nothing\.csv' is neither.*arc-easy"):
        dataset("nothing.csv")


def test_the_held_out_share_is_adjustable(forty):
    assert len(dataset(forty, held_out_share=0.5).held_out) == 20
    assert len(dataset(forty).held_out) == 10


def test_what_was_read_of_a_workbook_is_said(tmp_path):
    rows = [["prompt", "answer"], *([f"question {i}", str(i)] for i in range(12))]
    path = tmp_path / "mine.xlsx"
    path.write_bytes(xlsx({"Mails": rows, "Old": rows}))
    assert "Only the sheet 'Mails' is read" in dataset(str(path)).note


def test_the_hint_names_every_kind_of_file():
    for kind in ("CSV", "Parquet", "spreadsheet"):
        with pytest.raises(T2LocalError, match=kind):
            dataset("nothing")


# --- What the dispatcher learns from: four labels, no prompt on both sides.


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def test_small_talk_is_ours_distinct_and_split():
    train, held_out = small_talk("train"), small_talk(HELD_OUT)
    assert (len(train), len(held_out)) == (140, 100)
    assert len(set(train) | set(held_out)) == 240
    for one, other in itertools.product(train, held_out):
        assert len(words(one) & words(other)) / len(words(one) | words(other)) < 0.5, (one, other)


def test_each_label_has_its_share_and_says_where_it_is_from(data_folder):
    examples = topic_labels("train", 40, 0, data_folder)
    assert Counter(e.answer for e in examples) == dict.fromkeys(TOPICS, 40)
    assert all(TOPICS[e.columns["label"]] == e.answer for e in examples)
    assert {e.columns["source"] for e in examples if e.answer == "math"} == {"gsm8k", "svamp"}


def test_no_prompt_is_on_both_sides(data_folder):
    train = {e.prompt for e in topic_labels("train", 10_000, 0, data_folder)}
    assert not train & {e.prompt for e in topic_labels(HELD_OUT, 10_000, 0, data_folder)}


def test_seeded(data_folder):
    assert topic_labels("train", 9, 5, data_folder) == topic_labels("train", 9, 5, data_folder)
    assert topic_labels("train", 9, 5, data_folder) != topic_labels("train", 9, 6, data_folder)


def test_lost_small_talk_is_said(tmp_path):
    with pytest.raises(T2LocalError, match="missing"):
        small_talk("train", tmp_path / "gone.jsonl")


# --- The questions of our own: well-formed, balanced, unlike each other, from no benchmark.

SETS = probes()
FIRST_LINE = re.compile(r"[a-z']+")


def asks(prompt: str) -> frozenset[str]:
    """What a question asks, without the tests or lettered answers below it."""
    return frozenset(FIRST_LINE.findall(prompt.split("\n")[0].lower()))


def alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(len(one | other), 1)


def test_every_shipped_expert_has_its_questions():
    shipped = {f.path.stem for f in ExpertStore("SmolLM2-135M-Instruct").files() if f.shipped}
    assert shipped == set(SETS)


@pytest.mark.parametrize("expert", FILES)
def test_sixty_different_questions_with_one_right_answer_each(expert):
    rows = SETS[expert]
    assert len({row.prompt for row in rows}) == len(rows) == 60
    for row in rows:
        choices, label = row.columns["choices"], row.columns["label"]
        assert len(set(choices)) == len(choices) == 4, row.prompt
        assert choices[label] == row.answer, row.prompt
        scores = REWARDS["choice"]([""] * 4, choices, choices=[choices] * 4, label=[label] * 4)
        assert [i for i, score in enumerate(scores) if score == 1] == [label], row.prompt


@pytest.mark.parametrize("expert", FILES)
def test_the_right_answer_is_as_often_at_each_place(expert):
    places = Counter(row.columns["label"] for row in SETS[expert])
    assert places == dict.fromkeys(range(4), 15)


def test_every_equation_is_true_and_the_right_one_is_of_the_numbers_in_the_problem():
    for row in SETS["math"]:
        for choice in row.columns["choices"]:
            left, right = choice.split(" = ")
            assert re.fullmatch(r"[\d. +*/()-]+", left), choice
            assert eval(left) == pytest.approx(float(right)), choice
        asked = set(re.findall(r"\d+", row.prompt))
        assert set(re.findall(r"\d+", row.answer.split(" = ")[0])) <= asked, row.prompt


def test_the_right_program_passes_the_test_that_is_shown():
    for row in SETS["code"]:
        test = row.prompt.partition("Your code should pass this test:\n")[2]
        assert run_tests(row.answer, [test], timeout_s=5.0).ok, row.prompt


def test_the_kinds_of_message_are_those_of_the_dispatcher():
    assert all(tuple(row.columns["choices"]) == TOPICS for row in SETS["classifier"])


def test_no_question_resembles_another_one_or_our_small_talk():
    ours = [asks(row.prompt) for rows in SETS.values() for row in rows]
    talk = [asks(prompt) for split in ("train", HELD_OUT) for prompt in small_talk(split)]
    for one, other in itertools.chain(
        itertools.combinations(ours, 2), itertools.product(ours, talk)
    ):
        assert alike(one, other) < 0.7, (one, other)


def test_no_question_is_a_benchmarks_row(data_folder):
    theirs = {
        asks(row.prompt)
        for task in TASKS.values()
        for split in task.splits
        for row in load_task(task.name, split, data_folder)
        if task.name != "humaneval"  # their first line says nothing of what is asked
    }
    for row in itertools.chain(*SETS.values()):
        assert asks(row.prompt) not in theirs, row.prompt


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", '{"prompt": "a"}', '{"prompt":"a","answer":"b","choices":["c"],"label":0}',
     '{"prompt":"a","answer":"b","choices":["b"],"label":3}'],
)  # fmt: skip
def test_a_damaged_file_is_said_with_the_way_out(tmp_path, line):
    for file in FILES.values():
        (tmp_path / file).write_bytes((PROBES / file).read_bytes())
    (tmp_path / "code.jsonl").write_text(line)
    with pytest.raises(T2LocalError, match=r"code\.jsonl.*restore"):
        probes(tmp_path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(T2LocalError, match="restore"):
        probes(tmp_path)


def test_the_files_are_plain_json_lines():
    for file in FILES.values():
        for line in (PROBES / file).read_text(encoding="utf-8").splitlines():
            assert set(json.loads(line)) == {"prompt", "answer", "choices", "label"}


@pytest.mark.parametrize("count", [6, 20])
def test_all_rows_of_a_file_are_each_counted_once(tmp_path, count):
    """Of few rows none is set aside, and six answers in three sets are no kinds that repeat."""
    path = tmp_path / "capitals.csv"
    path.write_text("prompt,answer\n" + "".join(f"{i}?,town {i}\n" for i in range(count)))
    rows = dataset(str(path)).rows
    assert sorted(row.prompt for row in rows) == sorted(f"{i}?" for i in range(count))
    assert suggest_reward(rows).reward == "contains"


def test_answers_that_are_written_list_their_choices_in_the_question(data_folder, monkeypatch):
    monkeypatch.setenv("T2LOCAL_DATA", str(data_folder))
    written, chosen = dataset("arc-easy-written"), dataset("arc-easy")
    assert action_of(written.rows) == TEXT
    assert action_of(chosen.rows) == CHOICE
    for row, same in zip(written.held_out, chosen.held_out, strict=True):
        assert row.prompt.startswith(same.prompt)
        assert all(choice in row.prompt for choice in row.columns["choices"])
        (right,) = REWARDS["choice"]([row.prompt], [row.answer], **as_columns([row]))
        assert right == 1


def test_word_problems_of_training_validation_and_test_are_apart(data_folder, monkeypatch):
    monkeypatch.setenv("T2LOCAL_DATA", str(data_folder))
    found = dataset("gsm8k")
    parts = [{e.prompt for e in p} for p in (found.train, found.validation, found.held_out)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert [len(part) for part in parts] == [3737, 64, 300]
    test = {e.prompt for e in load_task("gsm8k", "test", data_folder)}
    assert parts[2] <= test
