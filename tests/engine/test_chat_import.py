"""Chats go out whole and come back equal; those of other programs come in."""

import io
import json
import zipfile
from dataclasses import replace

import pytest
from PIL import Image

from t2local.engine.chat_content import Message
from t2local.engine.chat_export import exported
from t2local.engine.chat_import import read_chats, take_in
from t2local.engine.chats import ChatStore
from t2local.engine.requests import Controls, controls_json, mixture_json
from t2local.errors import T2LocalError
from t2local.svf.mixing import Gains, Mixture


@pytest.fixture
def store() -> ChatStore:
    return ChatStore()


def written(tmp_path, content, name="chats.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def said(chat):
    return [(message.role, message.content) for message in chat.messages]


HELLO = [("user", "Hello"), ("assistant", "Hi there")]


# --- Our own.


@pytest.fixture
def whole(store, tmp_path):
    """A chat with everything: versions, decisions, steering, a picture, a person's own words."""
    picture = tmp_path / "dot.png"
    Image.new("RGB", (3, 3), "red").save(picture)
    mixture = Mixture({"math": 0.86}, 1.5, Gains(mlp=0.5))
    chat = store.new().ask("How many?")
    chat = chat.showing(store.keep_pictures(chat.id, [str(picture)]))
    decided = {"strategy": "classifier", "probabilities": {"math": 0.9}, **mixture_json(mixture)}
    first = Message(
        "assistant", "56 ✓", decided, {"tokens": 3}, "55", ((2, mixture_json(mixture)),)
    )
    chat = replace(chat, messages=(*chat.messages, first)).unanswered()
    second = Message("assistant", "written over", decided, original="54")
    chat = replace(
        chat,
        messages=(*chat.messages, second),
        system_prompt="Be short.",
        controls=controls_json(Controls("manual", mixture=mixture)),
        pinned=True,
        tags=("work", "Äther"),
    )
    return store.save(chat)


def test_exported_and_imported_into_an_empty_home_a_chat_is_equal(store, whole, tmp_path):
    other = store.save(replace(store.new().ask("Another"), title="Äther/\\ ?"))
    name, content = exported([whole, other], "json")
    assert name == "chats.json"
    path = tmp_path / name
    path.write_bytes(content)
    empty = ChatStore(tmp_path / "another home")
    saved, skipped = take_in(empty, path)
    assert (len(saved), skipped) == (2, ())
    back = empty.load(whole.id)
    assert [replace(m, images=()) for m in back.messages] == [
        replace(m, images=()) for m in whole.messages
    ]
    assert back.versions == whole.versions
    assert (back.pinned, back.tags) == (True, ("work", "Äther"))
    assert empty.list()[-1].tags == ("work", "Äther")
    assert back.turned(1, -1).messages[1].steered == whole.turned(1, -1).messages[1].steered
    assert (back.controls, back.system_prompt, back.title, back.updated) == (
        whole.controls,
        whole.system_prompt,
        whole.title,
        whole.updated,
    )
    with Image.open(back.messages[0].images[0]) as image:
        assert image.size == (3, 3)
    assert [chat.id for chat in empty.list()] == [other.id, whole.id], "in the order they had"


def test_a_chat_that_is_there_already_comes_in_as_a_second_one(store, whole, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(exported([whole], "json")[1])
    (second,), _ = take_in(store, path)
    assert second.id != whole.id
    assert said(store.load(second.id)) == said(store.load(whole.id))
    assert len(store.list()) == 2


def test_a_file_of_a_newer_version_says_so(tmp_path):
    path = written(tmp_path, {"t2local_chats": 99, "chats": []})
    with pytest.raises(T2LocalError, match="newer t2local"):
        read_chats(path)


# --- Others'.

CHATGPT = {
    "title": "Spiders",
    "create_time": 1700000000.5,
    "current_node": "d",
    "mapping": {
        "root": {"id": "root", "message": None, "parent": None, "children": ["s"]},
        "s": {
            "message": {
                "author": {"role": "system"},
                "content": {"content_type": "text", "parts": [""]},
                "metadata": {"is_visually_hidden_from_conversation": True},
            },
            "parent": "root",
        },
        "a": {
            "message": {
                "author": {"role": "user"},
                "content": {"content_type": "text", "parts": ["How many legs?"]},
            },
            "parent": "s",
        },
        "b": {
            "message": {
                "author": {"role": "assistant"},
                "recipient": "all",
                "content": {"content_type": "text", "parts": ["Six."]},
            },
            "parent": "a",
        },
        "t": {
            "message": {
                "author": {"role": "assistant"},
                "recipient": "python",
                "content": {"content_type": "code", "text": "7 * 8"},
            },
            "parent": "a",
        },
        "u": {
            "message": {
                "author": {"role": "tool", "name": "python"},
                "content": {"content_type": "execution_output", "text": "56"},
            },
            "parent": "t",
        },
        "c": {
            "message": {
                "author": {"role": "assistant"},
                "recipient": "all",
                "content": {"content_type": "text", "parts": ["Let me see."]},
            },
            "parent": "u",
        },
        "d": {
            "message": {
                "author": {"role": "assistant"},
                "recipient": "all",
                "content": {"content_type": "text", "parts": ["Eight."]},
            },
            "parent": "c",
        },
    },
}
WEBUI = {
    "id": "1",
    "title": "From Open WebUI",
    "updated_at": 1700000000,
    "chat": {
        "title": "From Open WebUI",
        "models": ["llama3"],
        "history": {
            "currentId": "3",
            "messages": {
                "1": {
                    "id": "1",
                    "parentId": None,
                    "childrenIds": ["2", "3"],
                    "role": "user",
                    "content": "Hello",
                },
                "2": {
                    "id": "2",
                    "parentId": "1",
                    "childrenIds": [],
                    "role": "assistant",
                    "content": "Go away",
                },
                "3": {
                    "id": "3",
                    "parentId": "1",
                    "childrenIds": [],
                    "role": "assistant",
                    "content": "Hi there",
                },
            },
        },
        "messages": [],
    },
}
SHAREGPT = {
    "id": "x",
    "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi there"}],
}
CLAUDE = {
    "uuid": "u",
    "name": "From Claude",
    "updated_at": "2024-05-01T10:00:00.000000Z",
    "chat_messages": [
        {"uuid": "1", "sender": "human", "text": "Hello", "content": []},
        {"uuid": "2", "sender": "assistant", "text": "Hi there", "content": []},
    ],
}
OPENAI = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "Hi there"},
    ]
}
TEXTGEN = {
    "internal": [["<|BEGIN-VISIBLE-CHAT|>", "Greetings"], ["Hello", "Hi there"]],
    "visible": [["", "Greetings"], ["Hello", "Hi there"]],
}


def test_chatgpts_tree_comes_in_with_its_versions(tmp_path):
    (chat,) = read_chats(written(tmp_path, [CHATGPT])).chats
    assert said(chat) == [("user", "How many legs?"), ("assistant", "Let me see.\n\nEight.")]
    assert chat.version_of(1) == (2, 2)
    assert said(chat.turned(1, -1)) == [("user", "How many legs?"), ("assistant", "Six.")]
    assert (chat.title, chat.updated) == ("Spiders", 1700000000.5)


def test_open_webuis_tree_comes_in_with_its_versions(tmp_path):
    (chat,) = read_chats(written(tmp_path, [WEBUI])).chats
    assert said(chat) == HELLO
    assert chat.title == "From Open WebUI"
    assert said(chat.turned(1, -1))[1] == ("assistant", "Go away")


@pytest.mark.parametrize("value", [SHAREGPT, CLAUDE, OPENAI, WEBUI], ids=lambda v: next(iter(v)))
@pytest.mark.parametrize("form", ["alone", "list", "lines", "zip"])
def test_every_form_of_a_file_is_read(tmp_path, value, form):
    count = 1 if form == "alone" else 3
    content = json.dumps([value] * 3 if form == "list" else value)
    path = tmp_path / ("chats.jsonl" if form == "lines" else "chats.json")
    path.write_text("\n".join([content] * 3) if form == "lines" else content)
    if form == "zip":
        path = tmp_path / "export.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("user.json", '{"id": "somebody"}')
            file.writestr("data/conversations.json", json.dumps([value] * 3))
    found = read_chats(path)
    assert [said(chat) for chat in found.chats] == [HELLO] * count


def test_a_system_prompt_and_a_title_are_taken_over(tmp_path):
    (chat,) = read_chats(written(tmp_path, OPENAI)).chats
    assert (chat.system_prompt, chat.title) == ("Be kind.", "Hello")
    (chat,) = read_chats(written(tmp_path, CLAUDE)).chats
    assert (chat.title, round(chat.updated)) == ("From Claude", 1714557600)


def test_text_generation_webuis_history_begins_with_a_greeting(tmp_path):
    (chat,) = read_chats(written(tmp_path, TEXTGEN)).chats
    assert said(chat) == [("assistant", "Greetings"), *HELLO]


def test_turns_alone_are_a_chat(tmp_path):
    (chat,) = read_chats(written(tmp_path, OPENAI["messages"])).chats
    assert said(chat) == HELLO


def test_what_cannot_be_read_is_named_and_the_rest_comes_in(tmp_path, store):
    broken = {"title": "Broken", "mapping": {"a": 5}}
    empty = {"title": "Empty", "mapping": {}}
    saved, skipped = take_in(store, written(tmp_path, [broken, CHATGPT, empty]))
    assert [chat.title for chat in saved] == ["Spiders"]
    assert [line.split(":")[0] for line in skipped] == ["'Broken'", "'Empty'"]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "a.json", "cannot be read"),
        ("{", "a.json", "cannot be read"),
        ('{"a": 1}\n{', "a.jsonl", "line 2"),
        ("[]", "a.json", "no chats"),
        ('{"prompt": 1}', "a.json", "no chats"),
        ('[{"title": "x", "mapping": {}}]', "a.json", "nothing is said"),
        ('{"t2local_chats": 1, "chats": [{"id": "x"}]}', "a.json", "no chats"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "a.json", "cannot be read"),
    ],
)
def test_a_file_without_chats_is_one_sentence(tmp_path, store, content, name, words):
    with pytest.raises(T2LocalError, match=words):
        take_in(store, written(tmp_path, content, name))
    assert store.list() == []


def test_what_is_there_and_cannot_be_read_is_not_written_over(store, whole, tmp_path):
    path = written(tmp_path, exported([whole], "json")[1].decode())
    there = store.folder / f"{whole.id}.json"
    there.write_text('{"schema": 99, "id": "newer"}')
    (second,), _ = take_in(store, path)
    assert second.id != whole.id
    assert there.read_text() == '{"schema": 99, "id": "newer"}'
    store.delete(second.id)
    path = written(tmp_path, exported([second], "json")[1].decode())
    (third,), _ = take_in(store, path)
    assert store.restore(second.id).id == second.id != third.id


def test_a_bad_picture_costs_only_itself(store, whole, tmp_path):
    content = json.loads(exported([whole], "json")[1])
    (name,) = content["chats"][0]["pictures"]
    content["chats"][0]["pictures"][name] = "data:image/png;base64,bm8="
    content["chats"][0]["pictures"]["\0" + "x" * 300] = "data:image/png;base64,bm8="
    content["chats"].append({**content["chats"][0], "id": "ab" * 16, "pictures": {}})
    saved, skipped = take_in(ChatStore(tmp_path / "home"), written(tmp_path, content))
    assert (len(saved), skipped) == (2, ())
    assert saved[0].messages[0].images == ()


def test_one_that_is_too_large_is_named_and_the_others_come_in(store, tmp_path, monkeypatch):
    monkeypatch.setattr("t2local.engine.chat_content.MOST_CHAT_BYTES", 2_000)
    long = {"title": "Long", "messages": [{"role": "user", "content": "x" * 3_000}]}
    saved, skipped = take_in(store, written(tmp_path, [long, CHATGPT]))
    assert [chat.title for chat in saved] == ["Spiders"]
    assert len(skipped) == 1


@pytest.mark.parametrize("name", ["__MACOSX/._conversations.json", "broken.json"])
def test_what_cannot_be_read_in_a_zip_leaves_the_rest(tmp_path, name):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"\x00\x05\x16\x07")
        file.writestr("conversations.json", json.dumps([CLAUDE]))
    assert len(read_chats(path).chats) == 1


def test_odd_entries_beside_good_ones_are_left_out(tmp_path):
    odd = [{"chat": {"foo": 1}}, {"chat": {"history": 5}}, {"mapping": None}, {"internal": 5}, 7]
    found = read_chats(written(tmp_path, [*odd, CLAUDE]))
    assert [chat.title for chat in found.chats] == ["From Claude"]


def test_very_many_lists_are_refused_before_they_take_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("t2local.engine.chat_import.MOST_PARTS", 1_000)
    with pytest.raises(T2LocalError, match="lists and objects"):
        read_chats(written(tmp_path, "[" + "[]," * 2_000 + "[]]"))


def test_mixtures_that_none_can_be_do_not_come_in(store, whole, tmp_path):
    content = json.loads(exported([whole], "json")[1])
    content["chats"][0]["messages"][1]["dispatch"]["alpha"] = {"math": 1e300}
    (chat,), _ = take_in(ChatStore(tmp_path / "home"), written(tmp_path, content))
    assert chat.messages[1].dispatch is None


def test_a_circle_in_a_tree_is_left_out(tmp_path):
    circle = json.loads(json.dumps(WEBUI))
    circle["chat"]["history"]["messages"]["1"]["parentId"] = "3"
    with pytest.raises(T2LocalError, match="nothing is said"):
        read_chats(written(tmp_path, [circle]))


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("t2local.engine.chat_import.MOST_BYTES", 10_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.json", " " * 100_000)
    path = tmp_path / "a.zip"
    path.write_bytes(packed.getvalue())
    with pytest.raises(T2LocalError, match="unpacked"):
        read_chats(path)
