"""`chats`: list, export and import, through the command line."""

import json

import pytest

from t2local.cli.main import main
from t2local.engine.chats import ChatStore


@pytest.fixture
def chat():
    store = ChatStore()
    return store.save(store.new().ask("How many legs?"))


def test_out_and_in_again(capsys, chat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["chats", "export", "--out", "mine.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": "mine.json", "chats": 1}
    assert main(["chats", "import", "mine.json", "--json", "--data-dir", "elsewhere"]) == 0
    assert json.loads(capsys.readouterr().out) == {"chats": 1, "left_out": 0}
    assert main(["chats", "list", "--json", "--data-dir", "elsewhere"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["chats"]
    assert (found["id"], found["title"]) == (chat.id, "How many legs?")


def test_one_chat_as_markdown_into_a_folder(capsys, chat, tmp_path):
    argv = ["chats", "export", chat.id, "--kind", "markdown", "--out", str(tmp_path)]
    assert main(argv) == 0
    assert (tmp_path / "How-many-legs.md").read_text().startswith("# How many legs?")


def test_the_chats_of_one_tag(capsys, chat):
    ChatStore().tag(chat.id, "Legs")
    other = ChatStore().save(ChatStore().new().ask("Another"))
    assert main(["chats", "list", "--tag", "#legs"]) == 0
    assert capsys.readouterr().out == f"{chat.id}  How many legs?  #Legs\n"
    assert main(["chats", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["chats"]
    assert [(one["id"], one["tags"]) for one in found] == [(other.id, []), (chat.id, ["Legs"])]
    assert main(["chats", "list", "--tag", "arms"]) == 0
    assert "No chat has this tag." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["chats", "list", "--tag", " "], "empty"),
        (["chats", "export"], "no chat to export"),
        (["chats", "export", "x"], "no chat's id"),
        (["chats", "export", "ab" * 16], "no longer on disk"),
        (["chats", "import", "gone.json"], "no file"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, argv, words):
    assert main(argv) == 1
    assert words in capsys.readouterr().err
