"""Prompts are kept whole, filled once, and never lost to another's."""

import json
import threading

import pytest

from t2local.engine.prompts import (
    LONGEST_NAME,
    LONGEST_TEXT,
    MARK,
    PromptStore,
    SavedPrompt,
    prompts_bytes,
    read_prompts,
)
from t2local.errors import T2LocalError
from t2local.paths import PROJECT_ROOT

LEGS = SavedPrompt("legs", "How many legs have {{number}} {{animal}}s? Not {{ number }} tails.")


def test_variables_come_in_the_order_of_their_first_place():
    assert LEGS.variables == ("number", "animal")
    assert SavedPrompt("x", "{{a b}} {{ä}} {{}} {{ }} {{open} {x} {{{deep}}}").variables == (
        "a b", "ä", "deep"
    )  # fmt: skip


def test_filling_is_done_once_and_leaves_what_has_no_value():
    assert LEGS.filled({"number": "7", "animal": "spider"}) == (
        "How many legs have 7 spiders? Not 7 tails."
    )
    assert "{{animal}}s" in LEGS.filled({"number": "7"})
    assert LEGS.filled({"number": "{{animal}}", "animal": r"\1"}).startswith(
        r"How many legs have {{animal}} \1s?"
    )


def test_what_is_kept_is_there_in_another_process_too():
    store = PromptStore()
    assert store.list() == []
    assert store.keep(LEGS) is None
    other = SavedPrompt("Arms", "How many arms?")
    store.keep(other)
    assert PromptStore(store.path.parent).list() == [other, LEGS]
    changed = SavedPrompt("legs", "Another text")
    assert store.keep(changed) == LEGS
    assert store.find("legs") == changed
    assert store.delete("legs") == changed
    with pytest.raises(T2LocalError, match="choose another"):
        store.find("legs")


def test_export_then_import_into_an_empty_home_is_equal(tmp_path):
    store, path = PromptStore(), tmp_path / "out.json"
    prompts = [LEGS, SavedPrompt("ünïcode «»", "line\n{{x}}\n\tand a 🕷")]
    assert store.take_in(prompts) == 2
    path.write_bytes(prompts_bytes(store.list()))
    other = PromptStore(tmp_path / "other")
    assert other.take_in(read_prompts(path)) == 2
    assert other.list() == store.list()


def test_an_import_takes_nobodys_place():
    store = PromptStore()
    store.keep(LEGS)
    other = SavedPrompt("legs", "something else")
    assert store.take_in([LEGS, other]) == 1
    assert store.take_in([LEGS, other]) == 0, "both are there"
    assert {prompt.name: prompt.text for prompt in store.list()} == {
        "legs": LEGS.text, "legs (2)": "something else"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "text"), ("  ", "text"), ("name", " \n"), ("x" * (LONGEST_NAME + 1), "text"),
        ("name", "x" * (LONGEST_TEXT + 1)), ("name", "half \ud800"), ("\udfff", "text"),
        ("name", " ".join(f"{{{{{i}}}}}" for i in range(21))),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_told(name, text):
    with pytest.raises(T2LocalError):
        SavedPrompt(name, text)


HOSTILE = [
    b"", b"{", b"[]", b"\xff\xfe", b"null", b"{}", b'{"t2local_prompts": "1"}', b"[" * 9_000,
    b'{"t2local_prompts": 9, "prompts": []}', b'{"t2local_prompts": 1, "prompts": {}}',
    b'{"t2local_prompts": 1, "prompts": [3]}', b'{"t2local_prompts": 1, "prompts": [{}]}',
    b'{"t2local_prompts": 1, "prompts": [{"name": 1, "text": "x"}]}',
    b'{"t2local_prompts": 1, "prompts": [{"name": "\\ud800", "text": "x"}]}',
]  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE)
def test_a_file_of_something_else_is_one_sentence_and_stays(content, tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(T2LocalError, match=r"The file of prompts 'p\.json' cannot be"):
        read_prompts(path)
    store = PromptStore()
    store.path.parent.mkdir(parents=True)
    store.path.write_bytes(content)
    for act in (store.list, lambda: store.keep(LEGS), lambda: store.take_in([LEGS])):
        with pytest.raises(T2LocalError):
            act()
    assert store.path.read_bytes() == content


def test_many_threads_lose_nothing():
    def keep(first):
        store = PromptStore()
        for number in range(first, 40, 4):
            store.keep(SavedPrompt(f"prompt {number}", "text"))

    threads = [threading.Thread(target=keep, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(PromptStore().list()) == 40


def test_the_examples_can_be_read_and_have_variables():
    path = PROJECT_ROOT / "assets" / "prompts.json"
    assert json.loads(path.read_text(encoding="utf-8"))[MARK] == 1
    found = read_prompts(path)
    assert len(found) >= 3
    assert all(prompt.variables for prompt in found)
