"""A person's file is parsed once for each content, and again when it was changed."""

import base64
import io
import json
import os
import sys
import threading
import time

import gradio as gr
import pytest
from PIL import Image

from t2local import paths
from t2local.engine.searches import few_examples
from t2local.errors import T2LocalError
from t2local.evaluation.benchmark_tasks import question_set
from t2local.paths import PROJECT_ROOT
from t2local.pictures import MOST_BYTES as MOST_PICTURE_BYTES
from t2local.tasks import files, uploads
from t2local.tasks.datasets import dataset
from t2local.tasks.files import Wanted, read_examples
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import Example
from t2local.tasks.uploads import (
    Uploads,
    distinct_answers,
    keep_rows,
    keep_text,
    read_draft,
    read_upload,
    suggest_reward,
    try_reward,
    with_choices,
    write_rows,
)
from t2local.ui.adapt.events import AdaptEvents
from t2local.ui.adapt.layout import create_adapt_tab
from tests.pictures import painted
from tests.ui.fake_engine import FakeEngine

TWELVE = "prompt,answer\n" + "".join(f"is {i} even?,{('yes', 'no')[i % 2]}\n" for i in range(12))


@pytest.fixture
def parses(monkeypatch) -> list[str]:
    """The names of the files that were parsed, in order; nothing is kept from other tests."""
    monkeypatch.setattr(uploads.UPLOADS, "_kept", type(uploads.UPLOADS._kept)())
    seen, read_rows = [], files.read_rows

    def counted(path, *wanted):
        seen.append(path.name)
        return read_rows(path, *wanted)

    monkeypatch.setattr(files, "read_rows", counted)
    return seen


def table(tmp_path, text=TWELVE, name="rows.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def picture(colour="red"):
    content = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(content, "PNG")
    return content.getvalue()


def test_training_searching_and_evaluating_share_one_parse(tmp_path, parses):
    path = table(tmp_path)
    draft = read_draft(str(path))
    assert read_draft(str(path)) == draft
    assert dataset(str(path)).note == ""
    assert len(question_set(str(path)).questions) == 12
    assert parses == ["rows.csv"]


def test_what_the_adapt_tab_does_with_a_file_parses_it_once(tmp_path, parses):
    path = str(table(tmp_path))
    with gr.Blocks():
        tab = create_adapt_tab()
    events = AdaptEvents(FakeEngine(), tab, None, None)
    update = events.rows.uploaded({tab.rows.file: path})
    assert "12</b> rows" in update[tab.rows.preview]
    assert len(few_examples(update[tab.rows.path], "exact")) == 12
    assert parses == ["rows.csv"]


def test_a_changed_file_is_parsed_again_even_with_its_old_time_and_size(tmp_path, parses):
    path = table(tmp_path)
    before = path.stat()
    assert read_upload(path).examples[0].prompt == "is 0 even?"
    path.write_text(TWELVE.replace("is 0", "is 8"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_upload(path).examples[0].prompt == "is 8 even?"
    path.write_text(TWELVE)
    assert read_upload(path).examples[0].prompt == "is 0 even?"
    assert len(parses) == 2, "the first is known still"


def test_other_columns_are_another_parse(tmp_path, parses):
    path = table(tmp_path, "prompt,answer,wanted\na,1,x\nb,2,y\n")
    plain = read_upload(path)
    chosen = read_upload(path, Wanted(answer="wanted"))
    assert [e.answer for e in plain.examples] == ["1", "2"]
    assert [e.answer for e in chosen.examples] == ["x", "y"]
    assert read_upload(path, Wanted()) is plain
    assert read_upload(path, Wanted(answer="wanted")) is chosen
    assert len(parses) == 2


def test_a_file_that_cannot_serve_says_so_every_time(tmp_path):
    for path, reason in (
        (tmp_path / "gone.csv", "cannot be read"),
        (tmp_path, "cannot be read"),
        (table(tmp_path, ""), "is empty"),
        (table(tmp_path, "prompt,answer\na,\n", "bad.csv"), "no usable row"),
    ):
        for _ in range(2):
            with pytest.raises(T2LocalError, match=reason):
                read_upload(path)
    mended = table(tmp_path, TWELVE, "bad.csv")
    assert len(read_upload(mended).examples) == 12


def test_pictures_beside_a_file_are_looked_at_every_time(tmp_path, parses):
    rows = [{"prompt": "which?", "answer": "red", "image": "red.png"}]
    path = table(tmp_path, json.dumps(rows), "rows.json")
    with pytest.raises(T2LocalError, match=r"red\.png"):
        read_upload(path)
    (tmp_path / "red.png").write_bytes(picture())
    assert len(read_upload(path).examples) == 1
    (tmp_path / "red.png").unlink()
    with pytest.raises(T2LocalError, match=r"red\.png"):
        read_upload(path)
    parses.clear()
    inside = [{**rows[0], "image": base64.b64encode(picture()).decode()}]
    path = table(tmp_path, json.dumps(inside), "inside.json")
    assert read_upload(path) is read_upload(path)
    assert parses == ["inside.json"]


def test_few_are_kept_and_a_large_one_pushes_out_the_others(tmp_path, parses, monkeypatch):
    paths = [table(tmp_path, TWELVE, f"{i}.csv") for i in range(uploads.MOST_KEPT + 1)]
    for path in paths:
        read_upload(path)
    read_upload(paths[-1])
    read_upload(paths[1])
    assert len(parses) == len(paths)
    read_upload(paths[0])
    assert len(parses) == len(paths) + 1
    monkeypatch.setattr(uploads, "MOST_KEPT_BYTES", 1)
    large = table(tmp_path, TWELVE * 2, "large.csv")
    assert read_upload(large) is read_upload(large)
    assert len(uploads.UPLOADS._kept) == 1


def test_threads_that_ask_at_once_wait_for_one_parse(tmp_path, monkeypatch):
    path, other, parses, answers = table(tmp_path), table(tmp_path, TWELVE, "b.csv"), [], []
    read_rows, go_on = files.read_rows, threading.Event()

    def slowly(path, *wanted):
        parses.append(path.name)
        assert path.name == "b.csv" or go_on.wait(10)
        return read_rows(path, *wanted)

    monkeypatch.setattr(files, "read_rows", slowly)
    kept = Uploads()
    threads = [
        threading.Thread(target=lambda: answers.append(kept.read(path)), daemon=True)
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while not parses and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(kept.read(other).examples) == 12, "another file is not kept waiting"
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert parses == ["rows.csv", "b.csv"]
    assert len(answers) == 8
    assert len({id(answer) for answer in answers}) == 1


def typed(tmp_path, text):
    path = tmp_path / "some rows.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


TWENTY = "".join(f"is {i} even?,{'no' if i % 2 else 'yes'}\n" for i in range(20))


def test_kept_rows_are_in_the_users_data_and_equal(home, tmp_path):
    draft = read_draft(typed(tmp_path, f"prompt,answer\n{TWENTY}"))
    path = keep_rows(draft, "exact", False)
    assert path.parent == home / "data"
    assert read_examples(path).examples == draft.file.examples
    assert keep_rows(draft, "exact", False) == path


def test_columns_and_earlier_turns_survive(tmp_path):
    before = {"messages": [{"role": "system", "content": "short"}], "tests": ["assert f()"]}
    examples = [Example("a?", "b", before), Example("c?", "", {"label": 1, "choices": ["x", "y"]})]
    assert list(read_examples(write_rows(examples, "mixed")).examples) == examples


def test_a_choice_is_kept_with_its_choices(tmp_path):
    draft = read_draft(typed(tmp_path, f"prompt,answer\n{TWENTY}"))
    lessons = dataset(str(keep_rows(draft, "choice", False)))
    assert lessons.train[0].columns["choices"] == ["no", "yes"]


def test_bad_rows_stop_unless_left_out(tmp_path):
    draft = read_draft(typed(tmp_path, f"prompt,answer\nnothing,\n{TWENTY}"))
    with pytest.raises(T2LocalError, match="row 2"):
        keep_rows(draft, "exact", False)
    assert len(read_examples(keep_rows(draft, "exact", True)).examples) == 20


def test_columns_can_be_chosen(tmp_path):
    text = "id,what,wanted\n" + "".join(f"{i},thing {i},w{i}\n" for i in range(6))
    draft = read_draft(
        typed(tmp_path, text.replace("what", "prompt")), Wanted(prompt="prompt", answer="wanted")
    )
    assert draft.file.examples[0].answer == "w0"


def test_too_little_says_so(tmp_path):
    with pytest.raises(T2LocalError, match="at least 5"):
        read_draft(typed(tmp_path, "prompt,answer\na,b\n"))
    with pytest.raises(T2LocalError, match="Nothing was pasted"):
        keep_text("  \n")
    assert keep_text("prompt,answer").parent == paths.home() / "data"


def test_pasted_rows_are_kept_as_they_are_or_refused():
    with pytest.raises(T2LocalError, match="What was pasted is not UTF-8 text"):
        keep_text("prompt,answer\nhi \ud83d,b\n")
    kept = "prompt,answer\nhi 😀 \ufffd,b\n"
    assert keep_text(kept).read_bytes() == kept.encode()


def rows(answers, **columns):
    return [Example(f"question {i}?", answer, columns) for i, answer in enumerate(answers)]


def several(*answers):
    return [Example(f"question {i}?", a[0], {"answers": list(a)}) for i, a in enumerate(answers)]


TABLE = [
    ("numeric", ["4", "1,234.50", "-7", "50%", "12"]),
    ("numeric", [f"He has {i}*2=<<{i}*2={2 * i}>>{2 * i} pens.\n#### {2 * i},000" for i in (1, 2)]),
    ("numeric", ["Two and two make four.\nThe answer is 4.", "So the answer is: $1,200"]),
    ("numeric", ["5 km", "7 km", "3.5 km"]),
    ("numeric", ["$5", "€1,200.50", "−$3"]),
    ("numeric", ["10115", "20095", "50667"]),
    ("exact", ["01067", "04109", "10115", "08056"]),
    ("exact", ["+49 351 123456", "030/1234567", "(555) 123-4567"]),
    ("exact", ["978-3-16-148410-0", "978-0-306-40615-7"]),
    ("exact", ["2024-05-01", "1.5.2024", "May 3, 2023", "12 May", "3. Mai 2021", "2024年5月1日"]),
    ("exact", ["12:30", "9:05 pm", "23:59:59"]),
    ("exact", ["1914-1918", "1939-1945", "1861-1865"]),
    ("choice", ["yes", "no"] * 5),
    ("choice", ["Yes", "no", "yes"]),
    ("choice", ["да", "нет", "да"]),
    ("choice", ["billing", "bug", "Bug", "billing", "other", "other", "bug", "bug", "other"]),
    ("json", ['{"a": 1}', '{"b": [2]}', "{}"]),
    ("length", ["5-20", "10 – 30", "3-8"]),
    (
        "length",
        ["光合作用是植物利用阳光把水变成糖的过程。", "水在一百度时沸腾，变成蒸汽。"],
    ),
    (
        "length",
        ["植物は太陽の光で水から糖をつくります。", "水は百度で蒸気になります。"],
    ),
    ("length", ["def f(x):\n    return x", "```python\nprint(1)\n```"]),
    ("math", [r"\frac{1}{2}", r"x^2", r"\sqrt{3}"]),
    ("math", ["2", "3x - 2", "y = 4", "3/4"]),
    ("math", [rf"We add the two and find that the sum is \boxed{{{i}}}." for i in (3, 5)]),
    ("contains", ["Paris", "the Nile", "Marie Curie"]),
    ("contains", ["北京", "上海", "黄河", "孔子"]),
    ("contains", ["AC/DC", "B-52", "U2", "I/O"]),
    ("contains", ["5", "7", "a handful", "9"]),
]
TABLE = [(reward, rows(answers)) for reward, answers in TABLE] + [
    ("contains", rows(["2 Kings", "1 Samuel", "3 John", "2 Peter"])),
    ("contains", rows(["12 Monkeys", "8 Mile", "21 Grams"])),
    ("numeric", rows(["5 Liter", "7 Tage", "3 Kinder", "12 Euro"])),
    ("numeric", several(["5", "five"], ["12", "twelve"], ["7", "seven"])),
    ("contains", several(["the capital of France which is Paris", "Paris"], ["a b c d e f", "x"])),
    ("code", rows(["def f(): pass", "def g(): pass"], tests=["assert f()"])),
    ("contains", several(["Northampton", "the town of Northampton"], ["Linda Davis", "Davis"])),
    ("numeric", several(["192", "192.0"], ["7", "07.0"])),
    ("contains", several(["yes", "yeah"], ["no", "nope"], ["yes", "yep"])),
]


@pytest.mark.parametrize(("reward", "examples"), TABLE)
def test_each_kind_of_answer_gets_its_reward_with_a_reason(reward, examples):
    suggestion = suggest_reward(examples)
    assert suggestion.reward == reward
    assert suggestion.reward in REWARDS
    assert suggestion.reason.endswith(".")


@pytest.mark.parametrize(("reward", "examples"), TABLE)
def test_what_is_suggested_gives_gold_answers_one_and_others_less(reward, examples):
    if reward == "code":  # their tests are no tests
        return
    trial = try_reward(reward, examples)
    assert not trial.problem
    assert all((tried.reward == 1.0) == tried.gold for tried in trial.rows)


@pytest.mark.parametrize("odd", ["unknown", "Ask the clerk."])
def test_one_odd_answer_among_many_numbers_is_counted_and_named(odd):
    examples = rows([*map(str, range(40)), odd])
    suggestion = suggest_reward(examples)
    assert suggestion.reward == "numeric"
    assert suggestion.reason.startswith("All but 1 of 41 answers are numbers")
    assert (
        f"1 of 41 answers in your rows does not earn +1 under 'numeric', the first is '{odd}'"
        in (try_reward("numeric", examples).problem)
    )
    assert suggest_reward(rows(["1", "2", odd])).reward != "numeric"


def test_programs_without_tests_are_told_what_is_missing():
    assert "'tests'" in suggest_reward(rows(["def f(x):\n    return x"] * 2)).reason


def test_columns_say_more_than_answers():
    assert suggest_reward(rows(["1", "2"], choices=["1", "2"])).reward == "choice"
    assert suggest_reward(rows(["", ""], schema={"type": "object"})).reward == "json"


def test_long_texts_are_not_compared_word_by_word():
    long = rows([f"A rather long answer, number {i}, in several words." for i in range(9)])
    assert suggest_reward(long).reward == "length"


def test_answers_that_repeat_become_choices_with_their_label():
    ready = with_choices(rows(["spam", "ham", "spam", "ham", "spam", "ham"]))
    assert ready[0].columns == {"choices": ["ham", "spam"], "label": 1}
    given = rows(["x"], choices=["x", "y"])
    assert with_choices(given) == given


def test_answers_that_do_not_repeat_are_no_choices():
    assert distinct_answers(rows(["a", "b", "c", "d", "e", "f"])) == []
    with pytest.raises(T2LocalError, match="6 rows have 6 different"):
        with_choices(rows(["a", "b", "c", "d", "e", "f"]))


SAMPLES = {
    "sort_support_mails": "choice",
    "reply_in_json": "json",
    "one_sentence_answers": "length",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_that_ship_are_whole(name):
    draft = read_draft(str(PROJECT_ROOT / "assets" / "samples" / f"{name}.csv"))
    assert draft.suggestion.reward == SAMPLES[name]
    assert 100 <= len(draft.file.examples) <= 160
    assert not draft.file.bad_rows
    assert not draft.file.duplicates
    if name == "reply_in_json":
        assert all(json.loads(e.answer) for e in draft.file.examples)


# --- Rows that a version before kept with their pictures' absolute paths.


def old_rows(folder, picture, name="reds-0123abcd.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"colour {i}?", "answer": "red", "image": str(picture)} for i in range(3)]
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_a_version_before_are_read_as_they_were_kept(tmp_path):
    picture = painted(tmp_path, "red")
    rows = old_rows(paths.home() / "data", picture)
    found = read_examples(rows).examples
    assert [example.pictures for example in found] == [(str(picture),)] * 3, "the hash is the same"
    again = read_examples(write_rows(found, "anew")).examples
    assert all(example.pictures[0].startswith("data:image/png") for example in again)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such links and devices")
def test_the_kept_rows_name_only_plain_pictures(tmp_path):
    (tmp_path / "note.png").write_text("no picture")
    (tmp_path / "link.png").symlink_to(painted(tmp_path, "red"))
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MOST_PICTURE_BYTES + 1)
    names = ["note.png", "link.png", "pipe.png", "huge.png", "gone.png", "."]
    for picture in [*(tmp_path / name for name in names), "/dev/zero", "/etc/passwd"]:
        with pytest.raises(T2LocalError, match="no usable row"):
            read_examples(old_rows(paths.home() / "data", picture))


def test_nobody_elses_rows_may_name_an_absolute_path(tmp_path):
    picture, data = painted(tmp_path, "red"), paths.home() / "data"
    for rows in (
        old_rows(tmp_path, picture),
        old_rows(data / "0123456789ab", picture),
        old_rows(data, picture, "pasted-0123abcd.txt"),
        old_rows(data, picture, "reds.jsonl"),
        keep_text(old_rows(tmp_path, picture).read_text()),
    ):
        with pytest.raises(T2LocalError, match="write it relative to the data file"):
            read_examples(rows)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such links and owners")
def test_a_link_among_the_kept_rows_is_not_ours(tmp_path):
    data = paths.home() / "data"
    data.mkdir(parents=True)
    link = data / "reds-0123abcd.jsonl"
    link.symlink_to(old_rows(tmp_path, painted(tmp_path, "red")))
    with pytest.raises(T2LocalError, match="is not taken"):
        read_examples(link)
