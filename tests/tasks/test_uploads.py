"""A person's file is parsed once for each content, and again when it was changed."""

import base64
import io
import json
import os
import threading
import time

import gradio as gr
import pytest
from PIL import Image

from t2local.engine.searches import few_examples
from t2local.errors import T2LocalError
from t2local.evaluation.benchmark_tasks import question_set
from t2local.tasks import files, uploads
from t2local.tasks.datasets import dataset
from t2local.tasks.uploads import Uploads, read_draft, read_upload
from t2local.ui.adapt.events import AdaptEvents
from t2local.ui.adapt.layout import create_adapt_tab

TWELVE = "prompt,answer\n" + "".join(f"is {i} even?,{('yes', 'no')[i % 2]}\n" for i in range(12))


@pytest.fixture
def parses(monkeypatch) -> list[str]:
    """The names of the files that were parsed, in order; nothing is kept from other tests."""
    monkeypatch.setattr(uploads.UPLOADS, "_kept", type(uploads.UPLOADS._kept)())
    seen, read_rows = [], files.read_rows

    def counted(path):
        seen.append(path.name)
        return read_rows(path)

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
    events = AdaptEvents(None, tab, None, None)
    update = events.uploaded({tab.file: path})
    assert "12</b> examples" in update[tab.rows]
    assert len(few_examples(update[tab.path], "exact")) == 12
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
    chosen = read_upload(path, {"answer": "wanted"})
    assert [e.answer for e in plain.examples] == ["1", "2"]
    assert [e.answer for e in chosen.examples] == ["x", "y"]
    assert read_upload(path, {}) is plain
    assert read_upload(path, {"answer": "wanted"}) is chosen
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

    def slowly(path):
        parses.append(path.name)
        assert path.name == "b.csv" or go_on.wait(10)
        return read_rows(path)

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
