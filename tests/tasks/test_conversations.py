"""Conversations from many tools: one question, one answer, turns that every template takes."""

import json

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.conversations import Turn, as_conversation, is_conversation, turns_of
from t2local.tasks.files import Wanted, read_examples
from t2local.tasks.uploads import read_upload, write_rows
from tests.pictures import painted

ASKED = "Name a lake in Finland."
SAID = "Saimaa"


def read(tmp_path, rows, name="rows.jsonl", wanted=None):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return read_examples(path, wanted or Wanted())


def only(tmp_path, row, **wanted):
    file = read(tmp_path, [row], wanted=Wanted(**wanted))
    (example,) = file.examples
    return example


PLAIN = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
WAYS = {
    "roles and contents": PLAIN,
    "parts": [
        {"role": "user", "content": [{"type": "text", "text": ASKED}]},
        {"role": "assistant", "content": [{"type": "text", "text": SAID}]},
    ],
    "parts of the newer API": [
        {"role": "user", "content": [{"type": "input_text", "text": ASKED}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": SAID}]},
    ],
    "parts that are texts": [
        {"role": "user", "content": [ASKED]},
        {"role": "assistant", "content": [SAID]},
    ],
    "Google": [
        {"role": "user", "parts": [{"text": ASKED}]},
        {"role": "model", "parts": [{"text": SAID}]},
    ],
    "ShareGPT": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}],
    "capitals and spaces": [
        {"role": " USER ", "content": ASKED},
        {"role": "Assistant", "content": SAID},
    ],
    "keys in capitals": [{"Role": "User", "Content": ASKED}, {"Role": "Bot", "Content": SAID}],
    "OpenAssistant": [{"role": "prompter", "text": ASKED}, {"role": "assistant", "text": SAID}],
    "speakers": [{"speaker": "Human", "text": ASKED}, {"speaker": "AI", "text": SAID}],
    "authors": [{"author": "user", "message": ASKED}, {"author": "ChatGPT", "message": SAID}],
    "an exported chat": [
        {"author": {"role": "user"}, "content": {"content_type": "text", "parts": [ASKED]}},
        {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": [SAID]}},
    ],
    "LangChain": [
        {"type": "human", "data": {"content": ASKED}},
        {"type": "ai", "data": {"content": SAID}},
    ],
    "Bard": [{"from": "user", "value": ASKED}, {"from": "bard", "value": SAID}],
    "other languages": [{"role": "用户", "content": ASKED}, {"role": "助手", "content": SAID}],
    "one object": [{"human": ASKED, "assistant": SAID}],
    "an object a turn": [{"user": ASKED}, {"assistant": SAID}],
    "pairs": [["user", ASKED], ["assistant", SAID]],
    "thinking apart": [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"},
                                          {"type": "text", "text": SAID}]},
    ],
    "two lists": {"from": ["human", "gpt"], "value": [ASKED, SAID]},
    "inside an object": {"messages": PLAIN},
    "JSON as text": json.dumps(PLAIN),
    "Python as text": str(PLAIN),
    "numpy as text": "[" + "\n ".join(map(str, PLAIN)) + "]",
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_conversation_is_read_however_it_is_written(way, tmp_path):
    example = only(tmp_path, {"messages": WAYS[way]})
    assert (example.prompt, example.answer) == (ASKED, SAID)
    assert example.columns == {}


@pytest.mark.parametrize("column", ["conversations", "Conversation", "dialogue", "dialog", "chat",
                                    "turns", "whatever", "text"])  # fmt: skip
def test_a_column_of_turns_is_known_under_any_name(column, tmp_path):
    rows = [{"id": i, column: PLAIN, "source": "web"} for i in range(3)]
    file = read(tmp_path, rows)
    assert [(e.prompt, e.answer) for e in file.examples] == [(ASKED, SAID)] * 3
    assert file.mapping["prompt"] == column
    assert file.found == (
        "`id`: left out",
        f"`{column}`: conversations; the last answer is learnt",
        "`source`: left out",
    )


def test_texts_in_turn_are_a_conversation_where_the_column_says_so(tmp_path):
    example = only(tmp_path, {"dialog": ["Hi", "Hello", ASKED, SAID]})
    assert (example.prompt, example.answer) == (ASKED, SAID)
    assert [turn["role"] for turn in example.before] == ["user", "assistant"]


OTHERS = ["Hi", [], [1], ["a", "b"], [{"a": 1}], {"text": ["a"]}, None, "[1, 2]", '[{"a": 1}]']


@pytest.mark.parametrize("value", [*OTHERS, [{"label": "A", "text": "x"}]])
def test_other_cells_are_no_conversation(value):
    assert not is_conversation(value)


# --- Which turns a template gets.

CALL = {"id": "1", "type": "function", "function": {"name": "depth", "arguments": '{"of": "it"}'}}
CALLED = 'Tool call: {"name": "depth", "arguments": {"of": "it"}}'
TOOLS = {
    "OpenAI": [
        {"role": "user", "content": "How deep?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "85 m"},
        {"role": "assistant", "content": "85 metres."},
    ],
    "OpenAI, older": [
        {"role": "user", "content": "How deep?"},
        {"role": "assistant", "content": None, "function_call": CALL["function"]},
        {"role": "function", "name": "depth", "content": "85 m"},
        {"role": "assistant", "content": "85 metres."},
    ],
    "ShareGPT": [
        {"from": "human", "value": "How deep?"},
        {"from": "function_call", "value": '{"name": "depth", "arguments": {"of": "it"}}'},
        {"from": "observation", "value": "85 m"},
        {"from": "gpt", "value": "85 metres."},
    ],
    "Anthropic": [
        {"role": "user", "content": "How deep?"},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "1", "name": "depth", "input": {"of": "it"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text",
                                                                     "text": "85 m"}]}]},
        {"role": "assistant", "content": [{"type": "text", "text": "85 metres."}]},
    ],
    "Google": [
        {"role": "user", "parts": [{"text": "How deep?"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "depth", "args": {"of": "it"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "depth", "response": "85 m"}}]},
        {"role": "model", "parts": [{"text": "85 metres."}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("vendor", TOOLS)
def test_calls_and_results_stand_labelled_in_the_question(vendor, tmp_path):
    example = only(tmp_path, {"messages": TOOLS[vendor]})
    assert example.prompt == f"How deep?\n\n{CALLED}\n\nTool result: 85 m"
    assert example.answer == "85 metres."
    assert example.before == ()


def test_a_call_that_comes_last_is_the_answer(tmp_path):
    example = only(tmp_path, {"messages": TOOLS["OpenAI"][:2]})
    assert json.loads(example.answer) == {"name": "depth", "arguments": {"of": "it"}}


def turns(*said):
    return [Turn(role, text) for role, text in said]


SHAPES = {
    "two of one role": turns(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")),
    "a system turn between": turns(
        ("user", "a"), ("assistant", "b"), ("system", "be brief"), ("user", "c"), ("assistant", "d")
    ),
    "two system turns": turns(("system", "x"), ("system", "y"), ("user", "a"), ("assistant", "b")),
    "a greeting": turns(("assistant", "hello"), ("user", "a"), ("assistant", "b")),
    "results after an answer": turns(
        ("user", "a"), ("assistant", "Action: look"), ("result", "it"), ("assistant", "b")
    ),
    "tools in the middle": turns(
        ("user", "a"), ("call", "f"), ("result", "1"), ("assistant", "b"), ("user", "c"),
        ("assistant", "let me see"), ("call", "g"), ("result", "2"), ("assistant", "d"),
    ),
    "an empty turn": turns(("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_user_and_assistant_alternate_and_nothing_is_lost(shape):
    found = as_conversation(SHAPES[shape])
    roles = [turn["role"] for turn in found.before] + ["user", "assistant"]
    if roles[0] == "system":
        roles = roles[1:]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    whole = "\n".join([*(t["content"] for t in found.before), found.prompt, found.answer])
    assert all(turn.text in whole for turn in SHAPES[shape])
    assert found.answer.endswith(SHAPES[shape][-1].text)
    again = [Turn(t["role"], t["content"]) for t in found.before]
    again += turns(("user", found.prompt), ("assistant", found.answer))
    assert as_conversation(again).before == found.before, "as it is kept, it is read again"


def test_what_others_say_in_a_users_turn_is_labelled():
    found = as_conversation(SHAPES["a system turn between"])
    assert found.prompt == "System: be brief\n\nc"
    assert as_conversation(SHAPES["a greeting"]).prompt == "Assistant: hello\n\na"


def test_the_last_answer_is_learnt_and_rows_with_several_are_counted(tmp_path):
    longer = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *PLAIN]
    file = read(tmp_path, [{"messages": PLAIN}, {"messages": longer}])
    assert [e.answer for e in file.examples] == [SAID, SAID]
    assert file.found == (
        "`messages`: conversations; the last answer is learnt, 1 rows have several",
    )


def test_an_answer_of_no_weight_is_not_learnt():
    weighed = [*PLAIN, {"role": "user", "content": "?"}]
    weighed += [{"role": "assistant", "content": "no", "weight": 0}]
    assert turns_of(weighed)[-1].text == SAID


# --- Other columns beside the turns.


def test_a_system_text_comes_first_wherever_it_stands(tmp_path):
    first = {"role": "system", "content": "Be brief."}
    expected = only(tmp_path, {"messages": [first, *PLAIN]})
    assert expected.before == (first,)
    for name in ("system", "System Prompt", "system_message"):
        assert only(tmp_path, {name: "Be brief.", "conversations": PLAIN}) == expected
    assert only(tmp_path, {"system": "Be brief.", "messages": [first, *PLAIN]}) == expected
    developer = {"role": "developer", "content": "Be brief."}
    assert only(tmp_path, {"messages": [developer, *PLAIN]}) == expected


def test_prompt_and_completion_may_both_be_turns(tmp_path):
    for name in ("completion", "chosen", "response"):
        row = {"prompt": PLAIN[:1], name: PLAIN[1:], "rejected": [{**PLAIN[1], "content": "no"}]}
        example = only(tmp_path, row)
        assert (example.prompt, example.answer) == (ASKED, SAID)
    whole = {"chosen": PLAIN, "rejected": [PLAIN[0], {**PLAIN[1], "content": "no"}]}
    assert only(tmp_path, whole).answer == SAID
    beside = {"prompt": ASKED, **whole}
    example = only(tmp_path, beside)
    assert (example.prompt, example.answer, example.before) == (ASKED, SAID, ())


def test_a_conversation_that_ends_with_the_user_takes_the_answer_column(tmp_path):
    example = only(tmp_path, {"messages": PLAIN[:1], "answer": SAID})
    assert (example.prompt, example.answer) == (ASKED, SAID)


def test_a_prompt_beside_its_own_conversation_is_not_said_twice(tmp_path):
    example = only(tmp_path, {"prompt": ASKED, "messages": PLAIN})
    assert (example.prompt, example.answer, example.before) == (ASKED, SAID, ())
    example = only(tmp_path, {"prompt": ASKED, "messages": PLAIN, "answer": "Inari"})
    assert (example.prompt, example.answer, example.before) == (ASKED, "Inari", ())


def test_a_question_may_be_asked_again(tmp_path):
    example = only(tmp_path, {"messages": [*PLAIN, PLAIN[0], {**PLAIN[1], "content": "Inari"}]})
    assert (example.answer, len(example.before)) == ("Inari", 2)
    assert list(read_examples(write_rows([example], "kept")).examples) == [example]


@pytest.mark.parametrize("history", [[["Hi", "Hello"]], str([["Hi", "Hello"]]),
                                     [{"role": "user", "content": "Hi"},
                                      {"role": "assistant", "content": "Hello"}]])  # fmt: skip
def test_a_history_stands_before_the_question(history, tmp_path):
    row = {"instruction": ASKED, "input": "", "output": SAID, "system": "s", "history": history}
    example = only(tmp_path, row)
    assert (example.prompt, example.answer) == (ASKED, SAID)
    assert [t["content"] for t in example.before] == ["s", "Hi", "Hello"]


def test_pictures_of_turns_are_the_questions(tmp_path):
    picture = painted(tmp_path, "red").rsplit("/")[-1]
    for part in ({"type": "image_url", "image_url": {"url": picture}},
                 {"type": "image", "image": picture},
                 {"type": "input_image", "image_url": picture}):  # fmt: skip
        asked = {"role": "user", "content": [part, {"type": "text", "text": ASKED}]}
        example = only(tmp_path, {"messages": [asked, PLAIN[1]]})
        assert example.prompt == ASKED
        assert [str(p).endswith(picture) for p in example.pictures] == [True]
    place = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASKED}]}
    example = only(tmp_path, {"messages": [place, PLAIN[1]], "images": [picture]})
    assert len(example.pictures) == 1


def test_a_picture_of_an_earlier_turn_stays_there(tmp_path):
    picture = painted(tmp_path, "red").rsplit("/")[-1]
    asked = {"role": "user", "content": [{"type": "image", "image": picture}, "What is it?"]}
    row = {"messages": [asked, {"role": "assistant", "content": "red"}, *PLAIN]}
    example = only(tmp_path, row)
    assert [len(turn.get("images", ())) for turn in example.turns] == [1, 0, 0]
    assert len(example.pictures) == 1
    (again,) = read_examples(write_rows([example], "kept")).examples
    assert again.pictures[0].startswith("data:image/png")
    assert [turn["content"] for turn in again.turns] == [t["content"] for t in example.turns]


def test_rows_whose_turns_name_pictures_are_read_anew(tmp_path):
    picture = painted(tmp_path, "red").rsplit("/")[-1]
    asked = {"role": "user", "content": [{"type": "image", "image": picture}, "What is it?"]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [asked, PLAIN[1]]}) + "\n")
    assert len(read_upload(path).examples) == 1
    (tmp_path / picture).unlink()
    with pytest.raises(T2LocalError, match="picture"):
        read_upload(path)


# --- Rows that cannot be used.

BAD = {
    "ends with the user": (PLAIN[:1], "the conversation ends with the user, and no answer follows"),
    "ends with a tool": (TOOLS["OpenAI"][:3], "ends with a tool's result, and no answer follows"),
    "empty answer": ([PLAIN[0], {"role": "assistant", "content": " "}], "last turn is empty"),
    "null": ([PLAIN[0], {"role": "assistant", "content": None}], "last turn is empty"),
    "empty": ([], "the conversation is empty"),
    "no role": ([{"content": "x"}, PLAIN[1]], "has no role"),
    "no content": ([PLAIN[0], {"role": "assistant"}], "has a role, but no content"),
    "unknown role": ([{"role": "narrator", "content": "x"}, PLAIN[1]], "role 'narrator' is"),
    "a number": ([PLAIN[0], 3], "is a int, not an object with a role and a content"),
    "a sound": ([{"role": "user", "content": [{"type": "audio"}]}, PLAIN[1]], "'audio'"),
    "only an answer": (PLAIN[1:], "no question before its last answer"),
    "system and answer": ([{"role": "system", "content": "x"}, PLAIN[1]], "no question before"),
    "an empty question": ([{**PLAIN[0], "content": ""}, PLAIN[1]], "no question before"),
    "a text": ("Hello there", "a text instead of the turns of a conversation"),
}  # fmt: skip


def test_each_row_is_refused_for_its_own_reason(tmp_path):
    rows = [{"messages": value} for value, _ in BAD.values()] + [{"messages": PLAIN}] * 15
    file = read(tmp_path, rows)
    assert len(file.examples) == 15
    assert [bad.number for bad in file.bad_rows] == list(range(1, len(BAD) + 1))
    for (_, says), bad in zip(BAD.values(), file.bad_rows, strict=True):
        assert says in bad.reason, bad


def test_a_role_is_refused_where_no_row_can_be_used(tmp_path):
    with pytest.raises(T2LocalError, match="row 1: the role 'narrator' is unknown"):
        read(tmp_path, [{"messages": [{"role": "narrator", "content": "x"}, PLAIN[1]]}])


WRITTEN = {
    "hashes": f"### Human: {ASKED}### Assistant: {SAID}",
    "lines": f"\n\nHuman: {ASKED}\n\nAssistant: {SAID}",
    "capitals": f"USER: {ASKED}\n\n\nASSISTANT: {SAID} <|endoftext|>",
    "ChatML": f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n{SAID}<|im_end|>\n",
}


@pytest.mark.parametrize("way", WRITTEN)
@pytest.mark.parametrize("column", ["text", "chosen", "chat"])
def test_a_talk_that_is_one_text_is_a_conversation(way, column, tmp_path):
    example = only(tmp_path, {column: WRITTEN[way], "rejected": "x"})
    assert (example.prompt, example.answer) == (ASKED, SAID)


def test_a_system_column_is_never_the_answer(tmp_path):
    rows = [{"system": "Be brief and plain.", "message": f"What is thing {i}?"} for i in range(6)]
    with pytest.raises(T2LocalError, match="no column for the answer"):
        read(tmp_path, rows)


def test_a_text_that_only_mentions_a_speaker_is_a_text(tmp_path):
    text = "The user said: hello. Assistant: none."
    rows = [{"text": f"{text} {i}", "label": "ab"[i % 2]} for i in range(6)]
    assert read(tmp_path, rows).examples[0].prompt == f"{text} 0"


def test_a_conversation_may_be_what_is_labelled(tmp_path):
    rows = [{"messages": PLAIN[:1], "label": ("calm", "angry")[i % 2]} for i in range(4)]
    file = read(tmp_path, rows)
    assert [e.answer for e in file.examples] == ["calm", "angry"] * 2
    talks = [{"text": f"{WRITTEN['lines']} {i}", "label": "ab"[i % 2]} for i in range(4)]
    assert read(tmp_path, talks).examples[0].prompt.startswith("Human: ")
