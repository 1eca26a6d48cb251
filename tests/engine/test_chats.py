import json
import os
import time
from dataclasses import replace

import pytest

from t2local import paths
from t2local.engine import chat_content, chats
from t2local.engine.chat_content import Chat, Message
from t2local.engine.chats import ChatStore
from t2local.engine.requests import (
    Controls,
    Sampling,
    controls_from_json,
    controls_json,
    mixture_from_json,
    mixture_json,
    sampling_from_json,
    sampling_json,
)
from t2local.errors import T2LocalError
from t2local.svf.mixing import Gains, Mixture


@pytest.fixture
def store() -> ChatStore:
    return ChatStore()


def full_chat(store: ChatStore) -> Chat:
    mixture = Mixture({"math": 0.86, "code": -1.0}, 1.5, Gains(mlp=0.5))
    answer = Message(
        "assistant", "56 ✓", {"strategy": "classifier", "probabilities": {"math": 0.9}},
        {"tokens": 3}, "55", ((2, mixture_json(mixture)),),
    )  # fmt: skip
    chat = store.new().ask("How many legs?")
    return replace(
        chat,
        messages=(*chat.messages, answer),
        system_prompt="Be short.",
        controls=controls_json(Controls("manual", False, 0.2, mixture)),
        sampling=sampling_json(Sampling(seed=7)),
        pinned=True,
        tags=("Work", "äther"),
    )


def test_save_then_load_is_the_identity(store):
    saved = store.save(full_chat(store))
    assert store.load(saved.id) == saved
    assert ChatStore().load(saved.id) == saved, "a restarted server finds it"


def test_list_is_newest_first_and_survives_a_damaged_file(store):
    first, second = store.save(full_chat(store)), store.save(full_chat(store))
    damaged = paths.chats_dir() / f"{'ab' * 16}.json"
    damaged.write_text('{"schema": 1, "id": "x"')
    assert [chat.id for chat in store.list()] == [second.id, first.id]
    assert damaged.name in store.damaged
    assert damaged.exists(), "a damaged file is never deleted"
    damaged.write_text('{"schema": 1, "id": "x", "title": "t"}')
    store.list()
    assert "damaged" in store.damaged[damaged.name]


def test_what_is_damaged_is_known_while_another_thread_lists_anew(store, monkeypatch):
    damaged = paths.chats_dir() / f"{'ab' * 16}.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    store.list()
    known, seen, read = store.damaged, [], chats.read_chat

    def reading(path, recent):
        seen.append(dict(store.damaged))
        return read(path, recent)

    monkeypatch.setattr(chats, "read_chat", reading)
    store.list()
    assert seen == [known]
    assert store.damaged == known == {damaged.name: known[damaged.name]}


def test_a_chat_of_a_newer_version_is_left_alone(store):
    chat = store.save(full_chat(store))
    path = paths.chats_dir() / f"{chat.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(T2LocalError, match="update t2local"):
        store.load(chat.id)


def test_an_empty_chat_has_no_file(store):
    chat = store.new()
    assert store.list() == []
    assert store.load_or_new(chat.id) == chat


def test_ids_from_outside_never_leave_the_folder(store):
    for bad in ("../../etc/passwd", "", "ABC", "a" * 200):
        with pytest.raises(T2LocalError, match="no chat's id"):
            store.load(bad)


def test_rename_and_delete(store):
    chat = store.save(full_chat(store))
    assert store.rename(chat.id, "  Spiders \n again ").title == "Spiders again"
    assert store.load(chat.id).updated == chat.updated, "renaming does not move it up"
    with pytest.raises(T2LocalError, match="empty"):
        store.rename(chat.id, " ")
    store.delete(chat.id)
    store.delete(chat.id)
    assert store.list() == []
    assert store.restore(chat.id).title == "Spiders again"
    assert [found.id for found in store.list()] == [chat.id]
    with pytest.raises(T2LocalError, match="cannot be brought back"):
        store.restore(chat.id)


def test_pins_and_tags_leave_all_else_as_it_was(store):
    chat = store.save(store.new().ask("How many legs?"))
    assert store.pin(chat.id, True).pinned
    assert store.tag(chat.id, "work, Äther").tags == ("work", "Äther")
    assert store.untag(chat.id, "WORK").tags == ("Äther",)
    assert store.load(chat.id) == replace(chat, pinned=True, tags=("Äther",)), "`updated` too"
    (listed,) = store.list()
    assert (listed.pinned, listed.tags) == (True, ("Äther",))
    assert not store.pin(chat.id, False).pinned
    with store.claim(chat.id), pytest.raises(T2LocalError, match="being answered"):
        store.tag(chat.id, "again")
    with pytest.raises(T2LocalError, match="no longer on disk"):
        store.pin("ab" * 16, True)


def test_an_answer_that_ends_later_keeps_the_tags_it_was_given_meanwhile(store):
    chat = store.save(store.new().ask("How many legs?"))
    store.tag(chat.id, "work")
    store.pin(chat.id, True)
    answered = replace(chat, messages=(*chat.messages, Message("assistant", "56")))
    assert store.save(answered).tags == ("work",)
    assert store.load(chat.id).pinned
    ChatStore().untag(chat.id, "work")
    assert store.save(store.load(chat.id).ask("And 8?")).tags == ()


def test_the_id_of_a_deleted_chat_is_not_used_again(store):
    chat = store.save(full_chat(store))
    store.delete(chat.id)
    assert store.load_or_new(chat.id).id != chat.id, "a second tab, or the browser's back"
    with store.claim(chat.id):
        store.save(replace(chat, title="by another program"))
    store.delete(chat.id)
    assert store.restore(chat.id).title == "by another program"


def test_renamed_or_brought_back_no_two_chats_have_one_title(store):
    first, second = (store.save(full_chat(store)) for _ in range(2))
    assert store.rename(second.id, first.title).title == "How many legs? (2)"
    store.delete(first.id)
    store.rename(second.id, first.title)
    assert store.restore(first.id).title == "How many legs? (2)"


def test_what_is_deleted_is_gone_for_good_after_a_day(store):
    chat = store.save(full_chat(store))
    store.delete(chat.id)
    store.purge()
    (trash,) = (store.folder / chats.TRASH).iterdir()
    os.utime(trash, (time.time() - 90_000,) * 2)
    store.delete(store.save(full_chat(store)).id)
    with pytest.raises(T2LocalError, match="gone"):
        store.restore(chat.id)


def test_no_two_new_chats_have_one_title(store):
    found = [store.save(full_chat(store)).title for _ in range(3)]
    assert found == ["How many legs?", "How many legs? (2)", "How many legs? (3)"]


def test_one_writer_a_chat(store):
    with store.claim("ab" * 16):
        with (
            pytest.raises(T2LocalError, match="being answered; wait until that is done, stop it"),
            store.claim("ab" * 16, 0.01),
        ):
            pass
        with store.claim("cd" * 16, 0.01):
            pass
    with store.claim("ab" * 16, 0.01):
        pass


def test_a_full_disk_keeps_the_old_file(store, monkeypatch):
    chat = store.save(full_chat(store))

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(chats.Path, "write_bytes", full)
    with pytest.raises(T2LocalError, match="disk is full"):
        store.save(replace(chat, title="other"))
    monkeypatch.undo()
    assert store.load(chat.id).title == chat.title


@pytest.mark.parametrize(
    ("text", "said"), [("x" * 2_000, "go on in a new chat"), ("half \ud800", "lone surrogate")]
)
def test_what_could_not_be_read_back_is_not_written(store, monkeypatch, text, said):
    monkeypatch.setattr(chat_content, "MOST_CHAT_BYTES", 1_500)
    kept = store.save(store.new().ask("short"))
    with pytest.raises(T2LocalError, match=said):
        store.save(kept.ask(text))
    assert ChatStore().load(kept.id) == kept


def test_half_of_a_character_is_refused_with_the_name_of_the_text(store):
    chat = store.save(store.new().ask("short"))
    with pytest.raises(T2LocalError, match="The title is not UTF-8"):
        store.rename(chat.id, "half \udcff")
    with pytest.raises(T2LocalError, match="The system prompt is not UTF-8"):
        store.save(replace(chat, system_prompt="half \ud83d"))


def test_the_first_question_names_the_chat(store):
    chat = store.new().ask("  How many\nlegs do seven spiders have, all of them together? ")
    assert chat.title.startswith("How many legs do seven")
    assert len(chat.title) <= chat_content.TITLE_CHARACTERS
    assert chat.ask("And eight?").title == chat.title


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_message_is_refused(store, text):
    with pytest.raises(T2LocalError, match="empty"):
        store.new().ask(text)


def test_editing_leaves_out_what_followed(store):
    chat = full_chat(store).ask("And 8?")
    edited = chat.edit(0, "How many arms?")
    assert [m.content for m in edited.messages] == ["How many arms?"]
    with pytest.raises(T2LocalError, match="no longer there"):
        chat.edit(1, "an answer is not a question")


def test_unanswered_ends_with_the_last_question(store):
    chat = full_chat(store)
    assert chat.unanswered().messages == chat.messages[:1]
    with pytest.raises(T2LocalError, match="nothing to answer"):
        store.new().unanswered()


def test_turns_begin_with_the_system_prompt(store):
    roles = [turn["role"] for turn in full_chat(store).turns()]
    assert roles == ["system", "user", "assistant"]


def test_settings_survive_their_json():
    controls = Controls("manual", False, 0.2, Mixture({"math": 0.5}, 2.0, Gains(early=0.0)))
    sampling = Sampling(temperature=0.1, seed=3)
    for value, to_json, from_json in (
        (controls, controls_json, controls_from_json),
        (sampling, sampling_json, sampling_from_json),
        (controls.mixture, mixture_json, mixture_from_json),
    ):
        assert from_json(json.loads(json.dumps(to_json(value)))) == value
        assert from_json({**to_json(value), "from the future": 1}) == value


def test_controls_name_what_is_wrong():
    with pytest.raises(T2LocalError, match="no strategy 'magic'"):
        Controls("magic")
    with pytest.raises(T2LocalError, match="0 to 1"):
        Controls(threshold=2.0)


# --- What other programs, versions and hands did to a chat's file.


def on_disk(store, chat, change=lambda content: None):
    """The file of a saved chat, rewritten with a change."""
    path = store.folder / f"{chat.id}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


NAN = float("nan")
MESSAGE_FAULTS = [
    ("dispatch", {"probabilities": {"math": NAN}}, None),
    ("dispatch", {"probabilities": "<b>"}, None),
    ("dispatch", {"newer": [float("inf")]}, None),
    ("dispatch", 3, None),
    ("timing", {"tokens": "<b>"}, None),
    ("timing", {"tokens_per_s": float("-inf")}, None),
    ("base_content", ["x"], None),
    ("steered", [[99, {"alpha": {}}]], ()),
    ("steered", [[-1, {"alpha": {}}]], ()),
    ("steered", [[0, {"alpha": {"math": "much"}}]], ()),
    ("images", [3], ()),
]
CHAT_FAULTS = [
    ("controls", {"above_chance": 1.5}, {}),
    ("controls", {"above_chance": NAN}, {}),
    ("title", 3, "New chat"),
    ("title", "x" * 2000, "New chat"),
    ("system_prompt", [], ""),
    ("controls", {"strategy": "nonsense"}, {}),
    ("controls", {"threshold": NAN}, {}),
    ("controls", {"threshold": 7}, {}),
    ("controls", [1], {}),
    ("sampling", {"temperature": "hot"}, {}),
    ("sampling", {"temperature": NAN}, {}),
    ("sampling", {"top_p": 1e300}, {}),
    ("updated", NAN, 0.0),
    ("updated", "yesterday", 0.0),
    ("pinned", 1, False),
    ("pinned", "yes", False),
    ("tags", "work", ()),
    ("tags", {"work": 1}, ()),
    ("tags", [3, None, ["x"], "", "#", "x" * 25], ()),
    ("tags", ["fine", 3, "FINE", "two words"], ("fine", "two-words")),
    ("tags", list("abcdefghijkl"), tuple("abcdefgh")),
]


@pytest.mark.parametrize(("name", "value", "default"), MESSAGE_FAULTS)
def test_a_message_without_its_decoration_is_still_a_message(store, name, value, default):
    chat = store.save(full_chat(store))
    on_disk(store, chat, lambda content: content["messages"][1].update({name: value}))
    asked, answer = store.load(chat.id).messages
    assert asked == chat.messages[0]
    assert answer == replace(chat.messages[1], **{name: default})
    assert [found.id for found in store.list()] == [chat.id]


@pytest.mark.parametrize(("name", "value", "default"), CHAT_FAULTS)
def test_a_chat_falls_back_to_its_defaults_and_is_saved_whole(store, name, value, default):
    chat = store.save(full_chat(store))
    on_disk(store, chat, lambda content: content.update({name: value}))
    found = store.load(chat.id)
    assert found == replace(chat, **{name: default})
    saved = ChatStore().save(found)
    assert store.load(chat.id) == saved
    assert saved.messages == chat.messages


@pytest.mark.parametrize(
    "name",
    ["title", "system_prompt", "controls", "sampling", "updated", "pinned", "tags", "versions"],
)
def test_a_chat_may_lack_what_has_a_default(store, name):
    chat = store.save(full_chat(store))
    on_disk(store, chat, lambda content: content.pop(name))
    assert store.load(chat.id) == replace(chat, **{name: getattr(Chat(id="0" * 8), name)})


@pytest.mark.parametrize(("name", "value"), [("role", "admin"), ("role", 3), ("content", None)])
def test_what_was_said_must_be_readable(store, name, value):
    chat = store.save(full_chat(store))
    path = on_disk(store, chat, lambda content: content["messages"][0].update({name: value}))
    store.list()
    assert "is damaged" in store.damaged[path.name]


def test_other_programs_write_whole_numbers_with_a_point(store):
    chat = store.save(full_chat(store))
    timing = {"tokens": 256.0}
    on_disk(store, chat, lambda content: content["messages"][1].update(timing=timing))
    assert repr(store.load(chat.id).messages[1].timing) == "{'tokens': 256}"


def test_a_copy_beside_its_chat_is_named_as_one_and_stops_nothing(store):
    chat = store.save(full_chat(store))
    copy = store.folder / "deadbeef00.json"
    copy.write_bytes((store.folder / f"{chat.id}.json").read_bytes())
    assert [found.id for found in store.list()] == [chat.id]
    said = store.damaged[copy.name]
    assert "is a copy of another chat ('How many legs?'); rename or remove it." in said
    assert copy.exists()


def test_a_larger_chat_of_a_version_before_is_read_up_to_four_times_as_large(store, monkeypatch):
    assert chats.MOST_READ_BYTES == 4 * chat_content.MOST_CHAT_BYTES
    chat = store.save(full_chat(store))
    size = (store.folder / f"{chat.id}.json").stat().st_size
    monkeypatch.setattr(chat_content, "MOST_CHAT_BYTES", size // 2)
    monkeypatch.setattr(chats, "MOST_READ_BYTES", size)
    assert store.load(chat.id) == chat
    with pytest.raises(T2LocalError, match="go on in a new chat"):
        store.save(chat)


@pytest.mark.parametrize(
    ("kept", "threshold"),
    [({}, 0.1), ({"threshold": 0.4}, 0.1), ({"threshold": 0.7}, 0.6), ({"threshold": 0.1}, 0.0),
     ({"threshold": 1.0}, 1.0), ({"above_chance": 0.4}, 0.4),
     ({"above_chance": 0.3, "threshold": 0.9}, 0.3)],
)  # fmt: skip
def test_a_threshold_of_an_older_chat_means_the_same_among_four_kinds(kept, threshold):
    found = controls_from_json(kept)
    assert found.threshold == pytest.approx(threshold)
    assert controls_from_json(controls_json(found)) == found
