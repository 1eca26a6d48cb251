"""Chats as files: to read, and for other programs."""

import io
import json
import zipfile
from dataclasses import replace

import pytest

from t2local.engine.chat_content import Message
from t2local.engine.chat_export import exported
from t2local.engine.chat_import import read_chats
from t2local.engine.chats import ChatStore
from t2local.errors import T2LocalError


@pytest.fixture
def chat():
    chat = replace(ChatStore().new(), system_prompt="Be short.\nAnd kind.").ask("How many legs?")
    decided = {"strategy": "classifier", "alpha": {"math": 0.86, "code": 0.09}}
    answer = Message("assistant", "```python\n7 * 8\n```\nFifty-six.", decided)
    return replace(chat, messages=(*chat.messages, answer))


def test_markdown_reads_as_a_talk_and_keeps_code(chat):
    name, content = exported([chat], "markdown")
    assert name == "How-many-legs.md"
    assert content.decode() == (
        "# How many legs?\n\n> Be short.\n> And kind.\n\n## You\n\nHow many legs?\n\n## Answer\n\n"
        "*classifier · math 0.86, code 0.09*\n\n```python\n7 * 8\n```\nFifty-six.\n"
    )


def test_markdown_of_many_is_a_zip_with_a_file_each(chat):
    name, content = exported([chat, replace(chat, id="ab" * 16)], "markdown")
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert name == "chats.zip"
        assert file.namelist() == ["How-many-legs.md", "How-many-legs-abababab.md"]


def test_openais_messages_are_a_line_a_chat_and_come_in_again(chat, tmp_path):
    name, content = exported([chat, chat], "openai")
    first, _ = map(json.loads, content.decode().splitlines())
    assert [m["role"] for m in first["messages"]] == ["system", "user", "assistant"]
    path = tmp_path / name
    path.write_bytes(content)
    back = read_chats(path).chats[0]
    assert [m.content for m in back.messages] == [m.content for m in chat.messages]
    assert back.system_prompt == chat.system_prompt


def test_nothing_and_unknown_kinds_are_refused(chat):
    with pytest.raises(T2LocalError, match="no chat to export"):
        exported([], "json")
    with pytest.raises(T2LocalError, match="not as 'pdf'"):
        exported([chat], "pdf")
