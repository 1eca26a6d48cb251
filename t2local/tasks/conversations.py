"""Conversations, however the tools of this trade write them: turns before, a question, its answer.

A turn is an object with a role and a content under one of many names, a pair, or a text among
texts. The turns that come out suit every chat template, also one without tools and one that wants
user and assistant to alternate, the user first: turns of one role become one, and what cannot stand
alone (a tool's call and result, a system turn in the middle, a greeting) is written into the user's
turn with a label, such as "Tool result: 4 C". The last answer is the one that is learnt.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, NamedTuple

from t2local.tasks.rows import plain, shown, unpacked

SYSTEM, USER, ASSISTANT, CALL, RESULT = "system", "user", "assistant", "call", "result"
_ROLES = {
    SYSTEM: "system developer system_prompt system_message",
    USER: """user human prompter instruction question q query input prompt customer client student
        person usr user_message inquirer seeker nutzer benutzer utilisateur usuario utente usuário
        пользователь 用户 使用者 ユーザー 사용자 المستخدم""",
    ASSISTANT: """assistant model gpt bot ai chatgpt bard claude gemini llama chatbot agent response
        answer a reply output completion teacher tutor expert helper bing gpt4 assistant_message
        assistent asistente assistente ассистент 助手 助理 アシスタント 어시스턴트 المساعد""",
    CALL: "function_call tool_call tool_calls action",
    RESULT: """tool function function_response function_result tool_response tool_result tool_output
        observation ipython environment""",
}
ROLES = {plain(name): role for role, names in _ROLES.items() for name in names.split()}
LABELS = {CALL: "Tool call", RESULT: "Tool result", SYSTEM: "System", ASSISTANT: "Assistant"}
_ROLE_KEYS = ("role", "from", "speaker", "author", "sender", "participant", "name", "type")
_CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "parts", "body", "data", "msg")
_HOLDERS = ("messages", "conversations", "conversation", "turns", "dialog", "dialogue", "items")
_PICTURE_HOLDERS = ("image_url", "image", "inline_data", "inlineData")
_PICTURE_KEYS = (*_PICTURE_HOLDERS, "url", "path", "source", "data")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "thought")


class Turn(NamedTuple):
    """One turn as read. `pictures`: as they were written."""

    role: str
    text: str
    pictures: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """`before`: turns (`role`, `content`, `images` where there are some) before the question.

    `answer` is "" where it ends with the question, and `missing` says so. `answers`: how many there
    are in all.
    """

    before: tuple[dict[str, Any], ...]
    prompt: str
    pictures: tuple[Any, ...]
    answer: str
    answers: int
    missing: str = ""


def is_conversation(value: Any) -> bool:
    """Whether a cell holds turns with roles, under whatever name its column has.

    >>> is_conversation('[{"from": "Human", "value": "Hi"}]')
    True
    """
    try:
        turns = _listed(value)
        return bool(turns) and all(isinstance(t, Mapping) and _names_role(t) for t in turns)
    except ValueError:
        return False


_NAME = "user|human|prompter|assistant|bot|ai|gpt|model|chatgpt|system"
_MARKERS = re.compile(
    rf"<\|im_start\|> *(\w+) *\n|(?:^|\n) *(?:##+ *)?({_NAME}) *:|### *({_NAME}) *:", re.IGNORECASE
)
_ENDS = re.compile(r"(<\|im_end\|>|<\|endoftext\|>|</s>)\s*$")


def transcript(value: Any) -> list[dict[str, str]]:
    """The turns of a talk that is written down as one text; [] for any other cell.

    >>> transcript("### Human: Hi### Assistant: Hello")
    [{'role': 'Human', 'content': 'Hi'}, {'role': 'Assistant', 'content': 'Hello'}]
    """
    found = list(_MARKERS.finditer(value)) if isinstance(value, str) else []
    if not found or value[: found[0].start()].strip():
        return []
    names = [match[1] or match[2] or match[3] for match in found]
    roles = [ROLES.get(plain(name)) for name in names]
    if ASSISTANT not in roles or USER not in roles or None in roles:
        return []
    ends = [*(match.start() for match in found[1:]), len(value)]
    said = [value[match.end() : end].strip() for match, end in zip(found, ends, strict=True)]
    return [
        {"role": name, "content": _ENDS.sub("", text).strip()}
        for name, text in zip(names, said, strict=True)
    ]


def turns_of(value: Any) -> list[Turn]:
    """The turns of a cell in order. Raises `ValueError` with the reason where one is no turn."""
    listed = _listed(value)
    if not listed:
        raise ValueError("the conversation is empty")
    if all(isinstance(turn, str) for turn in listed) and not _is_pair(listed):
        roles = (USER, ASSISTANT)
        return [Turn(roles[place % 2], text.strip()) for place, text in enumerate(listed)]
    turns = [turn for one in listed for turn in _turns(one)]
    weights = [one.get("weight") if isinstance(one, Mapping) else None for one in listed]
    if 0 in weights and len(weights) == len(turns):  # OpenAI's way to say which are not learnt
        learnt = [i for i, t in enumerate(turns) if t.role == ASSISTANT and weights[i] != 0]
        turns = turns[: learnt[-1] + 1] if learnt else turns
    return turns


def as_conversation(turns: Sequence[Turn]) -> Conversation:
    """The turns as a model is shown them. Raises `ValueError` where nothing is asked.

    >>> turns = [Turn("user", "Oslo?"), Turn("result", "4 C"), Turn("assistant", "Cold.")]
    >>> as_conversation(turns).prompt
    'Oslo?\\n\\nTool result: 4 C'
    """
    missing = _why_open(turns)
    turns = [turn for turn in turns if turn.text or turn.pictures]
    rest = list(dropwhile(lambda turn: turn.role == SYSTEM, turns))
    if not any(turn.role in (USER, RESULT) for turn in rest):
        raise ValueError("the conversation has no question before its last answer")
    said_first = [turn.text for turn in turns[: len(turns) - len(rest)]]
    system = "\n\n".join(dict.fromkeys(said_first))
    if rest and rest[-1].role == CALL:  # the call is what is to be learnt
        rest[-1] = rest[-1]._replace(role=ASSISTANT)
    before: list[dict[str, Any]] = [{"role": SYSTEM, "content": system}] if system else []
    asked: list[Turn] = []
    answer, answers = "", 0
    for run, reply in _exchanges(rest):
        if answer:
            before += [_message(asked), {"role": ASSISTANT, "content": answer}]
            asked, answer = [], ""
        asked += run
        if reply and any(turn.role == USER for turn in asked):
            answer, answers = reply, answers + 1
        elif reply:  # a greeting before anything was asked
            asked.append(Turn(ASSISTANT, reply))
    question = _message(asked)
    pictures = tuple(question.get("images", ()))
    missing = "" if answer else missing
    return Conversation(tuple(before), question["content"], pictures, answer, answers, missing)


def _why_open(turns: Sequence[Turn]) -> str:
    """Why the turns hold no last answer, if they hold none."""
    last = turns[-1].role if turns else USER
    if last == ASSISTANT:
        return "the content of the last turn is empty"
    if last == RESULT:
        return "the conversation ends with a tool's result, and no answer follows"
    return "the conversation ends with the user, and no answer follows"


def _exchanges(turns: Sequence[Turn]) -> Iterator[tuple[list[Turn], str]]:
    """Runs of what is asked or looked up, each with the reply to it ("" at an open end)."""
    asked: list[Turn] = []
    replies: list[Turn] = []
    for turn in turns:
        if turn.role == ASSISTANT:
            replies.append(turn)
        elif turn.role in (CALL, RESULT) and (asked or turn.role == CALL):
            asked += [*replies, turn]  # what was said before a call is on the way to the answer
            replies = []
        else:
            if replies:
                yield asked, _joined(replies)
                asked, replies = [], []
            asked.append(Turn(USER, f"{LABELS[RESULT]}: {turn.text}") if turn.role == RESULT
                         else turn)  # fmt: skip
    yield asked, _joined(replies)


def _joined(turns: Sequence[Turn]) -> str:
    return "\n\n".join(turn.text for turn in turns)


def _message(asked: Sequence[Turn]) -> dict[str, Any]:
    """A user's turn; what others said in it is labelled."""
    said = [t.text if t.role == USER else f"{LABELS[t.role]}: {t.text}" for t in asked]
    pictures = [picture for turn in asked for picture in turn.pictures]
    message = {"role": USER, "content": "\n\n".join(text for text in said if text).strip()}
    return {**message, "images": pictures} if pictures else message


# --- One turn.


def _listed(value: Any) -> list[Any]:
    """The turns, however they are packed: as text, in an object, as an object of two lists."""
    value = transcript(value) or unpacked(value)
    if isinstance(value, Mapping):
        held = next((value[name] for name in _HOLDERS if isinstance(value.get(name), list)), None)
        if held is not None:
            return list(held)
        columns = {name: part for name, part in value.items() if isinstance(part, list)}
        if len(columns) >= 2 and len(set(map(len, columns.values()))) == 1:
            rows = zip(*columns.values(), strict=True)
            return [dict(zip(columns, row, strict=True)) for row in rows]
        return [value]
    if isinstance(value, list | tuple):
        return list(value)
    kind = "text" if isinstance(value, str) else type(value).__name__
    raise ValueError(f"a {kind} instead of the turns of a conversation")


def _names_role(turn: Mapping[str, Any]) -> bool:
    role = _role_of(turn)
    return role in ROLES and any(key in turn for key in (*_CONTENT_KEYS, "tool_calls"))


def _role_of(turn: Mapping[str, Any]) -> str:
    """What the turn calls its role, without case and spaces; "" where it names none."""
    for key in _ROLE_KEYS:
        named = turn.get(key)
        if isinstance(named, Mapping):  # ChatGPT's own export: {"author": {"role": "user"}}
            named = named.get("role")
        if isinstance(named, str) and named.strip():
            return plain(named)
    return ""


def _is_pair(value: Any) -> bool:
    """Whether it is a role and a text, or a question and its answer."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(part, str) for part in value)
        and plain(value[0]) in ROLES
    )


def _turns(value: Any) -> list[Turn]:
    """One turn, or two where a question and its answer stand together."""
    if isinstance(value, list | tuple) and len(value) == 2:
        first, second = value
        if isinstance(first, str) and plain(first) in ROLES:
            return [Turn(ROLES[plain(first)], *_content(second))]
        return [Turn(USER, *_content(first)), Turn(ASSISTANT, *_content(second))]
    if not isinstance(value, Mapping):
        raise ValueError(
            f"a turn of the conversation is a {type(value).__name__}, "
            "not an object with a role and a content"
        )
    turn = {str(key).strip(): part for key, part in value.items()}
    if not any(key in turn for key in _ROLE_KEYS):
        turn = {key.lower(): part for key, part in turn.items()}
    role = _role_of(turn)
    if not role:
        spoken = [(ROLES[plain(k)], v) for k, v in turn.items() if plain(k) in ROLES]
        if not spoken:
            raise ValueError("a turn of the conversation has no role")
        return [Turn(role, *_content(part)) for role, part in spoken]
    if role not in ROLES:
        raise ValueError(
            f"the role '{shown(role, 20)}' is unknown; write user, assistant, system or tool"
        )
    return _spoken(ROLES[role], turn)


def _spoken(role: str, turn: Mapping[str, Any]) -> list[Turn]:
    """What a turn says, and the calls and results in it."""
    named = next((key for key in _CONTENT_KEYS if key in turn), "")
    calls = [_call(one) for one in _several(turn.get("tool_calls"))]
    if isinstance(turn.get("function_call"), Mapping):
        calls.append(_call(turn["function_call"]))
    if not named and not calls:
        raise ValueError("a turn of the conversation has a role, but no content")
    if role == CALL and isinstance(turn.get(named), Mapping):
        return [Turn(CALL, _call(turn[named]))]
    parts = _parts(turn.get(named))
    tools = [(part, found) for part in parts if (found := _tool_part(part)) is not None]
    text, pictures = _content([part for part in parts if _tool_part(part) is None])
    pictures += _several(turn.get("images"))
    calls += [_call(found) for part, found in tools if _is_call(part)]
    turns = [Turn(RESULT, _result(found)) for part, found in tools if not _is_call(part)]
    if text or pictures or not (calls or turns):
        turns.append(Turn(role, text, pictures))
    return [*turns, Turn(CALL, "\n".join(calls).strip())] if calls else turns


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,) if value else ()


def _parts(content: Any) -> list[Any]:
    """The parts of a content; a text is one part, no content is none."""
    if isinstance(content, Mapping) and "type" not in content:
        names = ("parts", "content", "text", "value")
        inner = next((content[name] for name in names if name in content), None)
        return [content] if inner is None else _parts(inner)
    if isinstance(content, list | tuple):
        return list(content)
    return [] if content is None else [content]


def _content(value: Any) -> tuple[str, tuple[Any, ...]]:
    """The text of a content and its pictures, in order."""
    if isinstance(value, str):
        return value.strip(), ()
    texts, pictures = [], []
    for part in _parts(value):
        found = _part(part)
        if isinstance(found, str):
            texts.append(found)
        elif found:
            pictures += found
    return "\n".join(text for text in texts if text).strip(), tuple(pictures)


def _part(part: Any) -> str | list[Any]:
    """The text of a part, or the picture that it is, in a list."""
    if isinstance(part, str):
        return part
    if isinstance(part, bool | int | float):
        return json.dumps(part)
    if not isinstance(part, Mapping):
        raise ValueError(f"a part of a turn is a {type(part).__name__}, not a text or a picture")
    kind = str(part.get("type") or "")
    if kind in _THOUGHTS or part.get("thought") is True:
        return ""  # thinking is not what is learnt
    if kind == "refusal":
        return str(part.get("refusal") or "")
    if "text" in part and "image" not in kind:
        text = part["text"]
        return str((text.get("value") if isinstance(text, Mapping) else text) or "")
    if "image" in kind or any(key in part for key in _PICTURE_HOLDERS):
        return _picture(part)
    raise ValueError(
        f"a part of a turn is of the type '{shown(kind or next(iter(part), 'nothing'), 20)}', "
        "not a text or a picture"
    )


def _picture(part: Any) -> list[Any]:
    """[] for a mere place: the picture stands in a column of its own then."""
    if isinstance(part, Mapping):
        inner = next((part[key] for key in _PICTURE_KEYS if part.get(key)), None)
        if inner is None:
            return [part] if part.get("bytes") else []
        return _picture(inner)
    return [part]


# --- Tools.


def _tool_part(part: Any) -> Any:
    """The call or the result that a part of a content is, in Anthropic's or Google's words."""
    if not isinstance(part, Mapping):
        return None
    if part.get("type") in ("tool_use", "tool_call", "tool_result", "function_call"):
        return part
    names = ("functionCall", "functionResponse", "function_call", "function_response")
    return next((part[name] for name in names if isinstance(part.get(name), Mapping)), None)


def _is_call(part: Mapping[str, Any]) -> bool:
    calls = ("tool_use", "tool_call", "function_call")
    return part.get("type") in calls or "functionCall" in part or "function_call" in part


def _result(found: Mapping[str, Any]) -> str:
    held = next((found[name] for name in ("content", "response", "output") if name in found), "")
    if isinstance(held, Mapping):
        return json.dumps(held, ensure_ascii=False, default=str)
    return _content(held)[0]


def _call(call: Any) -> str:
    """A call as JSON with its `name` and `arguments`."""
    if not isinstance(call, Mapping):
        return str(call)
    function = call.get("function") if isinstance(call.get("function"), Mapping) else call
    keys = ("arguments", "args", "input", "parameters")
    given = next((function[key] for key in keys if key in function), {})
    wanted = {"name": function.get("name", ""), "arguments": unpacked(given)}
    return json.dumps(wanted, ensure_ascii=False, default=str)
