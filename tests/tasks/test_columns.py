"""Tables as data sets and people write them: whole questions, choices, several answers."""

import json
import random

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.files import UnusableRows, Wanted, read_examples
from t2local.tasks.rewards import rewards_of
from t2local.tasks.rows import Example
from t2local.tasks.uploads import check_enough, suggest_reward, write_rows


def read(tmp_path, rows, **wanted):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return read_examples(path, Wanted(**wanted))


def read_csv(tmp_path, text, **wanted):
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return read_examples(path, Wanted(**wanted))


def one(tmp_path, row, **wanted):
    file = read(tmp_path, [row], **wanted)
    return file.examples[0]


# --- The whole question.

ASKED, SAID, PASSAGE = "When was it built?", "In 1911.", "The mill was built in 1911."
WHOLE = {
    "alpaca": (
        {"instruction": "Shout it.", "input": "hello", "output": "HELLO"},
        ("Shout it.\n\nhello", "HELLO", ("input",)),
    ),
    "alpaca without input": (
        {"instruction": "Say hi.", "input": "", "output": "hi"},
        ("Say hi.", "hi", ("input",)),
    ),
    "dolly": (
        {"instruction": ASKED, "context": PASSAGE, "response": SAID, "category": "qa"},
        (f"{PASSAGE}\n\n{ASKED}", SAID, ("context",)),
    ),
    "SQuAD": (
        {"id": "5", "title": "Mill", "context": PASSAGE, "question": ASKED,
         "answers": {"text": ["1911"], "answer_start": [22]}},
        (f"{PASSAGE}\n\n{ASKED}", "1911", ("context",)),
    ),
    "a list of passages": (
        {"question": ASKED, "context": {"sentences": [PASSAGE, "It burnt."]}, "answer": SAID},
        (f"{PASSAGE}\n\nIt burnt.\n\n{ASKED}", SAID, ("context",)),
    ),
    "BoolQ": (
        {"question": "was it built in 1911", "passage": PASSAGE, "answer": True},
        (f"{PASSAGE}\n\nwas it built in 1911", "true", ("passage",)),
    ),
    "entailment": (
        {"premise": PASSAGE, "hypothesis": "It is old.", "label": "entailment"},
        (f"premise: {PASSAGE}\n\nhypothesis: It is old.", "entailment", ("premise",)),
    ),
    "sentence pairs": (
        {"sentence1": "a cat", "sentence2": "one cat", "label": "same", "idx": 0},
        ("sentence1: a cat\n\nsentence2: one cat", "same", ("sentence1",)),
    ),
    "title and body": (
        {"title": "Gears", "body": "How many has it?", "answer": "Nine."},
        ("Gears\n\nHow many has it?", "Nine.", ("title",)),
    ),
    "several": (
        {"article": PASSAGE, "background": "It is in Lund.", "question": ASKED, "answer": SAID},
        (f"article: {PASSAGE}\n\nbackground: It is in Lund.\n\nquestion: {ASKED}", SAID,
         ("article", "background")),
    ),
    "German": (
        {"Frage": ASKED, "Kontext": PASSAGE, "Antwort": SAID},
        (f"{PASSAGE}\n\n{ASKED}", SAID, ("Kontext",)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", WHOLE)
def test_the_question_is_told_whole(shape, tmp_path):
    row, (prompt, answer, context) = WHOLE[shape]
    file = read(tmp_path, [row])
    assert [(e.prompt, e.answer) for e in file.examples] == [(prompt, answer)]
    assert file.context == context
    taken = {line.split("`")[1] for line in file.found if "part of the question" in line}
    assert taken == set(context)
    assert len(file.found) == len(row), "each column is spoken of"


def test_a_person_says_which_columns_belong_to_the_question(tmp_path):
    row = {"question": ASKED, "context": PASSAGE, "place": "Lund", "answer": SAID}
    assert one(tmp_path, row, context=()).prompt == ASKED
    assert one(tmp_path, row, context=("place",)).prompt == f"Lund\n\n{ASKED}"
    both = one(tmp_path, row, context=("place", "context"))
    assert both.prompt == f"place: Lund\n\ncontext: {PASSAGE}\n\nquestion: {ASKED}"
    assert dict(both.columns) == {}
    with pytest.raises(UnusableRows, match="no column 'nowhere'; it has 'question'"):
        one(tmp_path, row, context=("nowhere",))


def test_a_column_that_is_left_out_is_named(tmp_path):
    file = read(tmp_path, [{"id": 1, "question": ASKED, "context": PASSAGE, "answer": SAID}],
                context=())  # fmt: skip
    assert file.found == (
        "`id`: left out", "`question`: the question", "`context`: left out", "`answer`: the answer",
    )  # fmt: skip


def test_a_system_text_is_a_turn(tmp_path):
    row = {"system_prompt": "Be brief.", "question": ASKED, "response": SAID}
    example = one(tmp_path, row)
    assert example.turns[0] == {"role": "system", "content": "Be brief."}
    assert (example.prompt, example.answer) == (ASKED, SAID)


# --- Labels.


def labelled(labels):
    return "text,label\n" + "".join(f"thing number {i},{x}\n" for i, x in enumerate(labels))


def test_labels_in_words_are_choices(tmp_path):
    file = read_csv(tmp_path, labelled(["bug", "billing", "other"] * 3))
    assert file.examples[1].answer == "billing"
    assert file.examples[1].columns == {"choices": ["billing", "bug", "other"], "label": 0}
    assert file.found == (
        "`text`: the question", "`label`: 3 kinds (billing, bug, other), taken as choices",
    )  # fmt: skip


@pytest.mark.parametrize("labels", [["0", "1"], ["0.0", "1.0"], ["1", "0"]])
def test_labels_in_numbers_ask_for_names(labels, tmp_path):
    text = labelled(labels * 4)
    with pytest.raises(UnusableRows, match="the labels are the numbers 0 and 1; name them") as told:
        read_csv(tmp_path, text)
    assert told.value.table.mapping == {"prompt": "text", "answer": "label"}
    file = read_csv(tmp_path, text, label_names=("bad", "good"))
    assert [e.answer for e in file.examples[:2]] == [("bad", "good")[int(float(x))] for x in labels]
    assert file.examples[0].columns["choices"] == ["bad", "good"]


def test_labels_that_count_from_one_are_named_in_order(tmp_path):
    file = read_csv(tmp_path, labelled("12321"), label_names=("low", "middle", "high"))
    assert [e.answer for e in file.examples] == ["low", "middle", "high", "middle", "low"]


def test_a_column_with_the_labels_words_is_taken(tmp_path):
    words = {0: "positive", 1: "negative"}  # in another order than their numbers
    rows = [{"text": f"t{i}", "label": i % 2, "label_text": words[i % 2]} for i in range(6)]
    file = read(tmp_path, rows)
    assert [e.answer for e in file.examples[:2]] == ["positive", "negative"]
    assert file.examples[1].columns == {"choices": ["negative", "positive"], "label": 0}


def test_rows_nobody_labelled_are_bad(tmp_path):
    rows = [{"premise": f"p{i}", "hypothesis": "h", "label": i - 1} for i in range(4)]
    file = read(tmp_path, rows, label_names=("yes", "maybe", "no"))
    assert file.bad_rows == ((1, "the label is -1: the row is not labelled"),)
    assert [e.answer for e in file.examples] == ["yes", "maybe", "no"]


# --- Several accepted answers.

TOWN = ["Northampton", "the town of Northampton"]
SEVERAL = {
    "a list": {"answer": TOWN},
    "JSON in a cell": {"answer": json.dumps(TOWN)},
    "Python in a cell": {"answer": str(TOWN)},
    "SQuAD": {"answers": {"text": TOWN, "answer_start": [1, 5]}},
    "SQuAD's own form": {"answers": [{"text": t, "answer_start": 1} for t in TOWN]},
    "SQuAD printed by pandas": {
        "answers": "{'text': array(['Northampton', 'the town of Northampton'], dtype=object), "
        "'answer_start': array([1, 5], dtype=int32)}"},
    "TriviaQA": {"answer": {"value": TOWN[0], "aliases": TOWN, "normalized_value": "northampton",
                            "normalized_aliases": [t.lower() for t in TOWN]}},
    "PopQA": {"possible_answers": json.dumps(TOWN), "pop": 3},
    "aliases": {"answer": TOWN[0], "aliases": TOWN[1:]},
    "both": {"answer": TOWN[0], "answers": TOWN},
}  # fmt: skip


@pytest.mark.parametrize("shape", SEVERAL)
def test_any_of_several_answers_is_right(shape, tmp_path):
    row = {"question": "Where?", **SEVERAL[shape]}
    example = one(tmp_path, row)
    assert example.answer == TOWN[0]
    assert example.answers == tuple(TOWN)
    assert example.columns["answers"] == TOWN
    assert example.wanted == "Northampton · also: the town of Northampton"
    (again,) = read_examples(write_rows([example], "kept")).examples
    assert again == example


def test_one_answer_in_a_list_is_an_answer(tmp_path):
    example = one(tmp_path, {"question": "Pages?", "answer": [192]})
    assert (example.answer, example.answers, dict(example.columns)) == ("192", ("192",), {})


def test_a_question_without_an_answer_is_refused_for_that(tmp_path):
    rows = [{"question": "q?", "answers": {"text": [t] if t else [], "answer_start": []}}
            for t in ("a", "")]  # fmt: skip
    file = read(tmp_path, rows)
    assert file.bad_rows[0].reason.startswith("the question has no answer")


def test_numbers_in_brackets_and_objects_stay_one_answer(tmp_path):
    for answer in ("[0, 1]", '{"name": "Ann"}', "[x] or [y]"):
        example = one(tmp_path, {"question": "q?", "answer": answer})
        assert (example.answer, example.answers) == (answer, (answer,))


def test_a_programs_answer_is_no_list_of_answers(tmp_path):
    row = {"prompt": "f", "answer": '["a", "b"]', "tests": ["assert f()"]}
    assert one(tmp_path, row).answers == ('["a", "b"]',)


# --- Columns that nobody has heard of.

LONG = "A letter that somebody wrote about a machine in a good many words and number"


def guessed(rows):
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


@pytest.mark.parametrize(
    "header", ["message,kind", "Nachricht,Kategorie", "xyz,zzz", "Review,Class"]
)
def test_few_values_that_repeat_are_the_answer(header, tmp_path):
    text = header + "\n" + guessed((f"{LONG} {i}", ("bug", "bill")[i % 2]) for i in range(8))
    file = read_csv(tmp_path, text)
    assert [file.mapping["prompt"], file.mapping["answer"]] == header.split(",")
    assert file.examples[1].answer == "bill"


def test_numbers_links_and_dates_are_neither(tmp_path):
    rows = [(i, f"https://x.org/{i}", f"2024-01-0{i + 1}", f"{LONG} {i}", ("a", "b")[i % 2])
            for i in range(8)]  # fmt: skip
    file = read_csv(tmp_path, "k,l,m,n,o\n" + guessed(rows))
    assert file.mapping == {"prompt": "n", "answer": "o"}


@pytest.mark.parametrize("step", [2, 7])
def test_numbers_beside_a_question_are_the_answer_where_no_header_names_them(step, tmp_path):
    text = guessed((f"{LONG} {i}", i * step + 3) for i in range(8))
    file = read_csv(tmp_path, text, without_header=True)
    assert file.mapping == {"prompt": "column 1", "answer": "column 2"}
    assert file.examples[1].answer == f"{step + 3}"


def test_rows_counted_one_by_one_are_no_answer(tmp_path):
    text = guessed((i, f"{LONG} {i}") for i in range(8))
    with pytest.raises(UnusableRows, match="'column 1' holds a count"):
        read_csv(tmp_path, text, without_header=True)


def test_short_and_long_texts_that_all_differ(tmp_path):
    text = "left,right\n" + guessed((f"{LONG} {i}", f"word {i}") for i in range(8))
    assert read_csv(tmp_path, text).mapping == {"prompt": "left", "answer": "right"}


@pytest.mark.parametrize("about", ["split", "Source", "difficulty", "explanation", "context"])
def test_what_is_told_of_a_row_is_no_answer(about, tmp_path):
    rows = [{"prompt": f"{LONG} {i}", about: ("train", "test")[i % 2]} for i in range(8)]
    with pytest.raises(UnusableRows, match="no column for the answer"):
        read(tmp_path, rows)


SPELLED = ["Question,Answer", "QUESTION,ANSWER", "question text,ground truth", "Q,A",
           "user,assistant", "source,target", "src,tgt", "input,output", "Pregunta,Respuesta",
           "问题,答案", "Вопрос,Ответ", "質問,回答",
           "article,highlights", "User-Prompt,Expected Output"]  # fmt: skip


@pytest.mark.parametrize("header", SPELLED)
def test_names_are_known_in_many_spellings(header, tmp_path):
    file = read_csv(tmp_path, f"{header}\nwhat is it,a thing\nand that,another\n")
    assert [file.mapping["prompt"], file.mapping["answer"]] == header.split(",")
    assert [e.answer for e in file.examples] == ["a thing", "another"]


def test_what_is_unclear_is_asked_with_what_each_column_looks_like(tmp_path):
    rows = [(i, f"{LONG} {i}", f"{LONG} and {i}", i * i) for i in range(8)]
    with pytest.raises(UnusableRows) as told:
        read_csv(tmp_path, "a1,b1,c1,d1\n" + guessed(rows))
    said = str(told.value)
    assert "no column for the prompt; it has 'a1', 'b1', 'c1', 'd1'" in said
    assert "'a1' holds a count" in said
    assert "'b1' holds texts of about 7" in said
    assert "'d1' holds numbers" in said
    assert len(told.value.table.rows) == 8
    with pytest.raises(UnusableRows, match="no column for the answer") as told:
        read_csv(tmp_path, "question,d1\n" + guessed((f"{LONG} {i}", i * 3) for i in range(8)))
    assert told.value.table.mapping == {"prompt": "question", "answer": ""}


def test_missing_answers_are_empty(tmp_path):
    rows = [{"prompt": f"q{i}", "answer": a} for i, a in enumerate(["x", None, "", float("nan")])]
    file = read(tmp_path, rows)
    assert [bad.reason for bad in file.bad_rows] == ["the answer is empty"] * 3


def test_the_working_in_an_answer_is_kept(tmp_path):
    answer = "He has 2*3=<<2*3=6>>6.\n#### 6"
    assert one(tmp_path, {"question": "q?", "answer": answer}).answer == answer


def test_too_few_rows_say_why_the_others_are_bad(tmp_path):
    rows = [{"prompt": f"q{i}", "answer": "a" if i < 3 else ""} for i in range(8)]
    file = read(tmp_path, rows)
    with pytest.raises(T2LocalError) as told:
        check_enough("x", file.examples, file.bad_rows)
    assert str(told.value) == (
        "'x' holds 3 different prompts; training needs at least 5: add some rows, or mend those "
        "that could not be used: row 4 (the answer is empty), row 5 (the answer is empty), "
        "row 6 (the answer is empty) and 2 more."
    )


# --- Whatever stands in the cells.

NAMES = ["prompt", "question", "answer", "answers", "label", "choices", "options", "A", "B", "text",
         "messages", "conversations", "history", "system", "context", "input", "images", "tests",
         "correct_answer", "distractor1", "aliases", "mc1_targets", "label_text", "x"]  # fmt: skip


def anything(rng, depth=0):
    """A cell, or a part of one, of any kind that JSON has."""
    words = ["", "a", "B", "1", "-1", "2.0", "a;b", '["a", "b"]', "{'role': 'user'}", "[", "user",
             "[[" * 40, "['a' 'b']", "Human: x\n\nAssistant: y", "\u2028", "1e999"]  # fmt: skip
    plain = [None, True, 0, 1, -1, 3.5, float("nan"), 10**30, *words]
    kind = rng.choice(["plain", "plain", "list", "object", "turn"]) if depth < 3 else "plain"
    if kind == "list":
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == "object":
        keys = [
            "text",
            "label",
            "labels",
            "choices",
            "value",
            "aliases",
            "answer_start",
            "A",
            "type",
        ]
        return {key: anything(rng, depth + 1) for key in rng.sample(keys, 2)}
    if kind == "turn":
        role = rng.choice(["user", "gpt", "tool", "function_call", "system", 3, None])
        extra = rng.choice(["tool_calls", "function_call", "weight", "images", "name"])
        return {"role": role, "content": anything(rng, depth + 1), extra: anything(rng, depth + 1)}
    return rng.choice(plain)


def test_any_cells_give_examples_or_a_sentence(tmp_path):
    rng = random.Random(5)
    for _ in range(300):
        columns = rng.sample(NAMES, rng.randrange(1, 6))
        rows = [{name: anything(rng) for name in columns} for _ in range(rng.randrange(1, 5))]
        try:
            file = read(tmp_path, rows)
        except T2LocalError:
            continue
        assert len(file.found) == len(file.columns)
        for example in file.examples:
            choices, label = example.columns.get("choices"), example.columns.get("label")
            assert example.prompt.strip()
            assert example.answers or label is not None or "tests" in example.columns
            assert choices is None or label is None or 0 <= label < len(choices)
        again = read_examples(write_rows(file.examples, "any"))
        assert again.sha256 == file.sha256


KEPT = [
    Example("plain?", "yes", {"id": 3, "context": "left out"}),
    Example("before?", "b", {"messages": [{"role": "user", "content": "x"},
                                          {"role": "assistant", "content": "y"}]}),
    Example("list?", '["a", "b"]', {}),
    Example("a list of answers?", '["a"]', {"answers": ['["a"]', "b"]}),
    Example("which?", "B", {"choices": ["x", "y"], "label": 1}),
    Example("which?", "", {"choices": ["1", "0"], "label": 0}),
    Example("[1, 2] is what?", "a list", {"input": "left out", "system": "left out"}),
    Example("code?", "def f(): pass", {"tests": ["assert f() is None"], "entry_point": "f"}),
]  # fmt: skip


def test_rows_that_are_kept_are_read_as_they_were():
    assert list(read_examples(write_rows(KEPT, "all")).examples) == KEPT


PROGRAMS = {
    "HumanEval": {
        "task_id": "HumanEval/0",
        "prompt": 'def add(x):\n    """One more."""\n',
        "canonical_solution": "    return x + 1\n",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        "entry_point": "add",
    },
    "MBPP": {
        "task_id": 1,
        "text": "Write a function that adds one.",
        "code": "def add(x):\n    return x + 1",
        "test_list": ["assert add(1) == 2"],
        "test_setup_code": "",
    },
}


@pytest.mark.parametrize("row", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_as_they_are_published_are_tasks_with_tests(tmp_path, row):
    (example,) = read(tmp_path, [row]).examples
    assert suggest_reward([example]).reward == "code"
    assert rewards_of("code", [example] * 2, [example.answer, "def add(x): return x"]) == [1, -1]


def test_an_answer_that_was_not_wanted_is_no_right_one(tmp_path):
    rows = [{"prompt": f"q {n}?", "completion": f"a {n}", "label": n > 1} for n in range(4)]
    file = read(tmp_path, rows)
    assert [e.answer for e in file.examples] == ["a 2", "a 3"]
    assert "not wanted" in file.bad_rows[0].reason


def test_a_truth_inside_an_object_is_the_answer(tmp_path):
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": f"{n} + 1?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(n + 1)},
        }
        for n in range(8)
    ]
    assert [e.answer for e in read(tmp_path, rows).examples[:2]] == ["1", "2"]
