"""Chats leave the page as files and come in again."""

import json

import pytest

from tests.ui.conftest import ask

pytestmark = pytest.mark.browser


def open_exchange(page):
    page.click("#exchange .label-wrap")
    page.wait_for_selector("#export-chats")


def export(page, which, format):
    page.click(f"#export-which >> text={which}")
    page.click(f"#export-format >> text={format}")
    with page.expect_download() as download:
        page.click("#export-chats")
    return download.value


def bring(page, path):
    with page.expect_file_chooser() as chooser:
        page.click("#import-chats")
    chooser.value.set_files(str(path))


def test_a_chat_is_exported_and_comes_in_again(open_page, served, tmp_path):
    page = open_page()
    ask(page, "to be exported")
    open_exchange(page)
    found = export(page, "this chat", "whole")
    assert found.suggested_filename == "to-be-exported.json"
    path = tmp_path / "chat.json"
    found.save_as(path)
    (chat,) = json.loads(path.read_text())["chats"]
    before = len(served.engine.chats.list())
    bring(page, path)
    page.wait_for_selector("text=1 chat came in.")
    page.wait_for_function(
        "document.querySelectorAll('.chat-title').length > 1"
        " && [...document.querySelectorAll('.chat-title')].filter("
        "t => t.textContent.includes('to be exported')).length === 2"
    )
    assert len(served.engine.chats.list()) == before + 1
    assert chat["messages"][1]["dispatch"]["chosen"] == "math"


def test_an_empty_chat_and_a_foreign_file_get_a_sentence(open_page, served, tmp_path):
    page = open_page()
    open_exchange(page)
    page.click("#export-chats")
    page.wait_for_selector(".toast-body >> text=There is no chat to export yet")
    path = tmp_path / "no.json"
    path.write_text("{}")
    bring(page, path)
    page.wait_for_selector(".toast-body >> text=holds no chats that are known here")
