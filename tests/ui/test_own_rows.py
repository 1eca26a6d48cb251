"""Any table is a way in, on every tab that takes a file; the reason stays where it is mended."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from t2local.errors import T2LocalError
from t2local.tasks.files import (
    DETECTED,
    ExampleFile,
    Look,
    Table,
    Wanted,
    numbers_as_labels,
    read_examples,
)
from t2local.tasks.rows import Row
from t2local.tasks.uploads import look_at
from t2local.ui.adapt.events import AdaptEvents
from t2local.ui.adapt.layout import create_adapt_tab
from t2local.ui.chat.layout import create_chat_tab
from t2local.ui.evaluate.events import EvaluateEvents
from t2local.ui.evaluate.layout import create_evaluate_tab
from t2local.ui.own_rows import FOUND, RowsEvents, chosen, create_rows, rows_html
from t2local.ui.train.events import TrainEvents
from t2local.ui.train.layout import create_train_tab
from tests.ui.conftest import PHONE, open_tab
from tests.ui.fake_engine import FakeEngine

MAILS = [(f"Parcel {i} did not arrive", ("billing", "shipping")[i % 2]) for i in range(12)]
SUMS = [(f"What is {i} and 3?", f"{2 * i}") for i in range(9)]
UNCLEAR = [(f"{word}x", f"x{word}") for word in ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op"]]


def table(path, *head, rows=MAILS, encoding="utf-8"):
    lines = [",".join(head), *(",".join(row) for row in rows)] if head else map(",".join, rows)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


@pytest.fixture
def unclear(tmp_path):
    """A table of which nobody can tell what is asked."""
    return table(tmp_path / "unclear.csv", "zip", "zap", rows=UNCLEAR)


@pytest.fixture
def bound():
    """The component by itself: its events, and what followed."""
    followed = []

    def fits(name: str, file: ExampleFile) -> None:
        if len(file.examples) < 5:
            raise T2LocalError(f"'{name}' has {len(file.examples)} rows; add some.")

    with gr.Blocks():
        rows = create_rows("test")
    events = RowsEvents(rows, lambda e: "raw", fits, lambda v, look: followed.append(look) or {})
    return rows, events, followed


def given(rows, update, **picked):
    """The values of the next event after an update."""
    values = {part: update.get(part) for part in (rows.path, rows.wanted)}
    return values | {getattr(rows, name): value for name, value in picked.items()}


def test_a_table_of_unknown_columns_is_shown_and_choosing_mends_it(bound, unclear):
    rows, events, followed = bound
    update = events.uploaded({rows.file: str(unclear)})
    assert "zip" in update[rows.problem]
    assert 'role="alert"' in update[rows.problem]
    assert update[rows.choices].visible
    assert "<td>efx</td>" in update[rows.preview], "the rows as they are"
    assert [value for _, value in update[rows.prompt].choices] == ["zip", "zap"]
    update = events.picked("prompt", given(rows, update, prompt="zip"))
    update = events.picked("answer", given(rows, update, answer="zap"))
    assert update[rows.problem] == ""
    assert followed[-1].wanted == Wanted(prompt="zip", answer="zap")
    assert [e.answer for e in followed[-1].file.examples[:2]] == ["xab", "xcd"]


def test_the_next_file_is_read_without_the_choices_made_for_this_one(bound, unclear, tmp_path):
    rows, events, _ = bound
    first = events.uploaded({rows.file: str(unclear)})
    update = events.picked("prompt", given(rows, first, prompt="zip"))
    assert update[rows.wanted] == Wanted(prompt="zip")
    again = events.uploaded({rows.file: str(table(tmp_path / "b.csv", "prompt", "answer"))})
    assert again[rows.wanted] == DETECTED


def test_too_few_rows_are_shown_with_what_is_wrong_with_the_others(bound, tmp_path):
    rows, events, followed = bound
    path = table(
        tmp_path / "few.csv", "prompt", "answer", rows=[("a?", "b"), ("c?", ""), ("d?", "e")]
    )
    update = events.uploaded({rows.file: str(path)})
    assert "2 rows; add some" in update[rows.problem]
    assert update[rows.choices].visible
    assert "row 3: the answer is empty" in update[rows.preview]
    assert followed[-1].problem


def test_what_is_no_table_has_a_reason_and_no_choices(bound, tmp_path):
    rows, events, _ = bound
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\x00\x01\xff" * 900)
    update = events.uploaded({rows.file: str(path)})
    assert "is no text" in update[rows.problem]
    assert not update[rows.choices].visible


def test_a_file_that_is_taken_away_leaves_nothing(bound, unclear):
    rows, events, followed = bound
    events.uploaded({rows.file: str(unclear)})
    update = events.cleared({})
    assert (update[rows.path], update[rows.wanted], followed[-1]) == (None, DETECTED, None)
    with pytest.raises(T2LocalError, match="no rows yet"):
        events.look(given(rows, update))


def test_a_column_is_chosen_for_one_thing():
    before = Wanted(prompt="a", answer="b", context=("c", "d"))
    assert chosen(before, "prompt", "b") == Wanted(prompt="b", context=("c", "d"))
    assert chosen(before, "answer", "c") == Wanted(prompt="a", answer="c", context=("d",))
    assert chosen(before, "context", []) == Wanted(prompt="a", answer="b", context=())
    assert chosen(before, "label_names", "no, yes,").label_names == ("no", "yes")
    assert chosen(before, "without_header", True) == Wanted(without_header=True)


def test_the_first_rows_are_turns_with_every_right_answer(tmp_path):
    row = {
        "messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": "<b>"}],
        "prompt": "Where is it?", "answer": "Northampton", "answers": ["Northampton", "the town"],
    }  # fmt: skip
    path = tmp_path / "places.jsonl"
    path.write_text("\n".join([json.dumps(row)] * 6), encoding="utf-8")
    html = rows_html(look_at(path), ["<|raw|>"])
    for words in (
        "Short.",
        "&lt;b&gt;",
        "Where is it?",
        "also right: the town",
        "&lt;|raw|&gt;",
    ):
        assert words in html
    assert html.index("Short.") < html.index("Where is it?") < html.index("Northampton")
    assert "Rows that repeat an earlier one: 2 (as 1)" in html


def test_labels_that_are_numbers_ask_for_names(bound):
    cells = [{"text": f"mail {i}", "label": str(i % 2)} for i in range(8)]
    rows_of = tuple(Row(i, cell) for i, cell in enumerate(cells))
    labels = Table(("text", "label"), rows_of, mapping={"prompt": "text", "answer": "label"})
    assert numbers_as_labels(labels)
    sums = tuple(Row(i, {"text": f"{i} + 1", "label": str(i + 1)}) for i in range(8))
    assert not numbers_as_labels(replace(labels, rows=sums)), "each answer is another number"
    rows, events, _ = bound
    look = Look(Path("x.csv"), DETECTED, None, labels, (), "The labels are 0 and 1.", "label_names")
    update = events.present(look)
    assert update[rows.label_names].visible
    assert "Write the names" in update[rows.problem]
    assert not events.present(replace(look, asks="", table=replace(labels, rows=sums)))[
        rows.label_names
    ].visible


def evaluate_events():
    with gr.Blocks(), gr.Tab("Evaluate") as own:
        tab = create_evaluate_tab()
        return tab, EvaluateEvents(FakeEngine(), tab, own)


def test_evaluate_looks_at_a_file_when_it_is_chosen(unclear, tmp_path):
    tab, events = evaluate_events()
    update = events.rows.uploaded({tab.rows.file: str(unclear)})
    assert "zip" in update[tab.rows.problem]
    path = table(tmp_path / "gap.csv", "prompt", "answer", rows=[("Where?", ""), *MAILS])
    update = events.rows.uploaded({tab.rows.file: str(path)})
    assert "row 2: the answer is empty" in update[tab.rows.preview]
    assert update[tab.rows.leave_out].visible
    update = events.rows.uploaded(
        {tab.rows.file: str(table(tmp_path / "mails.csv", "prompt", "answer"))}
    )
    assert update[tab.rows.problem] == ""
    assert "choice" in update[tab.judged]


def test_an_evaluation_takes_the_rows_as_they_were_chosen(unclear):
    tab, events = evaluate_events()
    values = {part: part.value for part in (tab.tasks, tab.strategies, tab.limit, tab.seed)}
    values |= {tab.written: False, tab.most_tokens: None, tab.rows.leave_out: False}
    values |= {tab.rows.path: str(unclear), tab.rows.wanted: Wanted(prompt="zip", answer="zap")}
    (source,) = events._plan(values).tasks
    assert [(e.prompt, e.answer) for e in read_examples(Path(source)).examples] == UNCLEAR
    values[tab.rows.wanted] = DETECTED
    with pytest.raises(T2LocalError, match="zip"):
        events._plan(values)


@pytest.fixture
def train():
    """The Train tab's events, and the values of a page on which nothing was chosen yet."""
    engine = FakeEngine()
    with gr.Blocks():
        tab = create_train_tab()
        events = TrainEvents(engine, tab, create_chat_tab(engine.status), gr.HTML(), gr.Tabs())
    parts = {*events.plan, *tab.data.rows.given}
    return tab, events, {part: getattr(part, "value", None) for part in parts}


def test_what_answers_earn_is_shown_and_start_asks_where_gold_earns_too_little(train, tmp_path):
    tab, events, values = train
    rows = [(f"How many are {i} and one?", f"{i + 1}") for i in range(11)]
    path = table(tmp_path / "sums.csv", "prompt", "answer", rows=[*rows, ("And so?", "many")])
    update = events.rows.uploaded({**values, tab.data.rows.file: str(path)})
    assert "right answers earn:" in update[tab.step.trial]
    values |= {part: update[part] for part in (tab.data.rows.path, tab.data.rows.wanted)}
    values |= {tab.step.name: "sums", tab.step.reward: "numeric", tab.step.accept: False}
    weighed = events.rewarded(values)
    assert "1 of 12 answers in your rows" in weighed[tab.step.trial]
    assert weighed[tab.step.accept].visible
    with pytest.raises(T2LocalError, match=r"1 of 12 answers .* tick 'Train all the same'"):
        events.started(values)
    with pytest.raises(T2LocalError, match="not tried out yet"):  # the next thing that is needed
        events.started({**values, tab.step.accept: True})
    contained = events.rewarded({**values, tab.step.reward: "contains"})
    assert "+1" in contained[tab.step.trial]
    assert not contained[tab.step.accept].visible


def test_a_reward_that_does_not_fit_says_why_under_its_name(train, tmp_path):
    tab, events, values = train
    rows = [(f"{i}?", f"a{i}") for i in range(40)]
    path = table(tmp_path / "long.csv", "prompt", "answer", rows=rows)
    update = events.rows.uploaded({**values, tab.data.rows.file: str(path)})
    values |= {part: update[part] for part in (tab.data.rows.path, tab.data.rows.wanted)}
    update = events.rewarded({**values, tab.step.reward: "choice"})
    assert "needs a column" in update[tab.step.trial]
    assert not update[tab.step.accept].visible


def test_a_search_takes_the_rows_as_they_were_chosen(unclear):
    engine, begun = FakeEngine(), []
    engine.searches = SimpleNamespace(start=lambda plan: begun.append(plan) or "id")
    with gr.Blocks():
        tab = create_adapt_tab()
        events = AdaptEvents(engine, tab, create_chat_tab(engine.status), gr.Tabs())
    events._listed = events._present = lambda id: {}
    parts = (tab.effort, tab.sharing, tab.objective, tab.normalised, tab.seed)
    values = {part: part.value for part in parts}
    values |= {tab.reward: "exact", tab.name: "zips", tab.rows.leave_out: False}
    values |= {tab.rows.path: str(unclear), tab.rows.wanted: Wanted(prompt="zip", answer="zap")}
    events.searched(values)
    assert [(e.prompt, e.answer) for e in begun[0].examples()] == UNCLEAR
    assert "+1" in events.rewarded(values)[tab.trial]
    values[tab.rows.wanted] = DETECTED
    with pytest.raises(T2LocalError, match="zip"):
        events.searched(values)
    assert len(begun) == 1


def test_an_encoding_that_is_chosen_can_be_given_back(bound, tmp_path):
    rows, events, followed = bound
    path = table(tmp_path / "mails.csv", "prompt", "answer")
    first = events.uploaded({rows.file: str(path)})
    update = events.picked("encoding", given(rows, first, encoding="utf-8"))
    assert followed[-1].wanted == Wanted(encoding="utf-8")
    assert update[rows.encoding].visible
    assert update[rows.encoding].value == "utf-8"
    update = events.picked("encoding", given(rows, update, encoding=FOUND))
    assert followed[-1].wanted == DETECTED


def test_what_was_pasted_has_no_file_name_and_no_encoding(bound):
    rows, events, _ = bound
    text = "message,kind\n" + "\n".join(",".join(mail) for mail in MAILS)
    update = events.pasted({rows.paste: text})
    assert "rows of what was pasted" in " ".join(update[rows.preview].split())
    assert "UTF-8" not in update[rows.preview]
    assert not update[rows.encoding].visible


def test_a_guessed_encoding_is_said_once(bound, tmp_path):
    rows, events, _ = bound
    words = ["Париж", "Токио", "Рим", "Лондон", "Мадрид", "Осло"]
    asked = [(f"Столица страны номер {i}?", word) for i, word in enumerate(words)]
    path = table(tmp_path / "cities.csv", "question", "answer", rows=asked, encoding="cp1251")
    update = events.uploaded({rows.file: str(path)})
    assert update[rows.preview].count("Cyrillic (Windows-1251)") == 1


def test_a_letter_stands_with_the_choice_that_it_names(tmp_path):
    row = {"question": "Capital of France?", "choices": ["Oslo", "Paris"], "answer": "B"}
    path = tmp_path / "letters.jsonl"
    path.write_text("\n".join([json.dumps(row)] * 6), encoding="utf-8")
    assert "B: Paris" in rows_html(look_at(path), [])


def test_the_rows_as_they_are_say_how_many_they_are(unclear):
    assert "The first 5 of 8 rows" in rows_html(look_at(unclear), [])


def test_a_table_without_a_header_is_mended_on_a_phone(open_page, tmp_path):
    path = table(tmp_path / "sums.csv", rows=SUMS)
    page = open_page(PHONE)
    open_tab(page, "Adapt")
    button = page.locator("#adapt-use-paste").bounding_box()
    assert button["height"] >= 28, "a finger can hit it"
    page.set_input_files("#adapt-file input[type=file]", str(path))
    page.wait_for_selector("#adapt-problem [role=alert] >> text=looks like a row")
    page.get_by_label("The first row is no header").locator("visible=true").check()
    page.wait_for_selector("#adapt-rows .example >> text=What is 2 and 3?")
    assert page.locator("#adapt-problem [role=alert]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
