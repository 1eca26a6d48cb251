"""Chat messages, with or without pictures, to token ids through the model's own template, and back.

What a person wrote stays text: where it spells one of the model's control tokens (`<|im_end|>`), it
is written in ordinary letters, and only the template's own become control tokens. All other texts
get the ids that transformers' `apply_chat_template` gives them, bit for bit.
"""

import json
import re
import secrets
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from t2local.errors import T2LocalError
from t2local.models.load.loader import LoadedModel
from t2local.thinking import THINKING_TAGS
from t2local.untrusted import check_encodes

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
# With which a model without a template goes on to the next turn of the plain one.
NEXT_SPEAKER = tuple(
    f"{lines}{role}:" for role in ("User", "Assistant", "System") for lines in ("\n\n", "\n")
)
END_OF_TURN = (
    "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|endoftext|>", "<|eot|>",
    "<|eom_id|>", "<|end_of_text|>", "<|return|>", "<|call|>", "<|END_OF_TURN_TOKEN|>",
    "<end_of_utterance>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
OPENED = re.compile(rf"(?:{'|'.join(re.escape(tag) for tag, _ in THINKING_TAGS)})\s*\Z")
LAST = 32  # tokens of a prompt in which the template opens the answer
ANSWER = "\U00100000"  # stands for one
SIGNS = range(0x100000, 0x10FFFE)  # private characters
# Where an answer has several parts, each begins with the first and second of these (but for the
# first part) and ends with the third, which elsewhere ends a turn.
CHANNEL_START, CHANNEL, CHANNEL_END = "<|start|>", "<|channel|>", "<|end|>"


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    continue_last: bool = False,
    picture: str = "",
) -> list[int]:
    """Token ids of `messages` (`role`, `content`) with the opening of the assistant's turn.

    `continue_last`: the last message is left open and is continued. `picture`: what stands for one
    in the texts of messages with `images`. Raises `T2LocalError` when the model's template refuses
    the messages, and for half of a character in one.
    """
    assert messages, "a chat needs a message"
    for message in messages:
        check_encodes(message["content"], "the message")
    if continue_last and not messages[-1]["content"].strip():
        messages, continue_last = messages[:-1], False
    control = _control_of(tokenizer, picture)
    quoted = _Quoted(control, [message["content"] for message in messages])
    turns = [_turn(quoted, message, picture) for message in messages]
    text = _written(tokenizer, turns, continue_last)
    ids = quoted.encode(tokenizer, text)
    return _begun_once(tokenizer, ids if tokenizer.chat_template else [*lead_in(tokenizer), *ids])


def _written(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], continue_last: bool
) -> str:
    """The turns as the template writes them; a system turn that it refuses is folded in."""
    write = _continued if continue_last else _asked
    try:
        return write(tokenizer, turns)
    except TemplateError as error:
        refused = error
    if turns[0]["role"] == "system" and len(turns) > 1:
        try:
            return write(tokenizer, fold_system(turns))
        except TemplateError as error:
            refused = error
    raise T2LocalError(
        f"This model's chat template refuses these messages ({refused}); "
        "let user and assistant alternate, beginning with the user."
    ) from refused


def fold_system(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The same turns with the system text in front of the first user message."""
    system, first, *rest = turns
    text = f"{system['content']}\n\n{first['content']}"
    return [{"role": first["role"], "content": text}, *(dict(turn) for turn in rest)]


def _asked(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    return _apply(tokenizer, turns, add_generation_prompt=True)


def _continued(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    """The turns with the last one open: as the template writes it where that is all of it.

    A template may drop the thinking of an answer, or write an empty one before it. Then the text
    stands behind the opened turn just as it was said.
    """
    *asked, last = turns
    opened, text = _asked(tokenizer, asked) if asked else "", last["content"]
    try:
        written = _apply(tokenizer, turns, continue_final_message=True)
    except ValueError:  # parts of the text are nowhere in what the template wrote
        written = ""
    if written.startswith(opened) and written[len(opened) :].strip() == text.strip():
        return written
    space = ""
    if written and not opened[-1:].isspace():  # what the template writes in front of an answer
        before = written.removesuffix(text)
        space = before[len(before.rstrip()) :]
    return opened + space + text.removeprefix(thinking_opened(opened))


def _apply(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]], **how: bool
) -> str:
    return tokenizer.apply_chat_template(
        list(turns),
        chat_template=None if tokenizer.chat_template else PLAIN_TEMPLATE,
        tokenize=False,
        **how,
    )


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _begun_once(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Without a second `<bos>`: of a template and a tokenizer that each write one."""
    while len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        ids = ids[1:]
    return ids


def encode_text(
    tokenizer: PreTrainedTokenizerBase, text: str, role: str = "assistant"
) -> list[int]:
    """A text's ids without any control token in it, but the assistant's marks of its thinking.

    Raises `T2LocalError` for half of a character.
    """
    check_encodes(text, "the text")
    quoted = _Quoted(_control_of(tokenizer), [text])
    return quoted.encode(tokenizer, quoted.quote(text, role))


def lead_in(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself writes in front of a text, `<bos>` mostly."""
    plain, whole = _encode(tokenizer, "a"), tokenizer("a")["input_ids"]
    at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return whole[:at]


# --- What ends an answer.


def stop_tokens(tokenizer: PreTrainedTokenizerBase, generation_eos: int | list[int] | None) -> set:
    """Ids that end an answer.

    The generation config's, the tokenizer's, what the template writes after an answer, and known
    end-of-turn ones.
    """
    listed = generation_eos if isinstance(generation_eos, list) else [generation_eos]
    ends = _control_of(tokenizer).end, tokenizer.eos_token_id, *_known_ends(tokenizer)
    return {i for i in (*listed, *ends) if i is not None}


def stop_strings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts that end an answer and are no part of it: of a model without a chat template."""
    return () if tokenizer.chat_template else NEXT_SPEAKER


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id with which this model's turns end: the template's, a known one, the end of text."""
    written = _control_of(tokenizer).end
    if written is not None:
        return written
    return next(iter(_known_ends(tokenizer)), tokenizer.eos_token_id)


def _known_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    added = tokenizer.get_added_vocab()
    parts = {CHANNEL_END} if CHANNEL in added else set()
    return [added[t] for t in END_OF_TURN if t in added and t not in parts]


def thinking_opened(prompt: str) -> str:
    """The end of a written prompt in which thinking begins, "" where it does not."""
    found = OPENED.search(prompt)
    return found[0] if found else ""


def opening_of(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> str:
    """What an answer to `prompt` begins with since the template wrote it: `<think>`, or nothing."""
    last = [i for i in prompt[-LAST:] if i < len(tokenizer)]  # no pictures
    return thinking_opened(tokenizer.decode(last, skip_special_tokens=False))


# --- A person's words that spell a control token.
#
# Each is a private sign while the template writes the turns: what is then a control token is the
# template's own. Such a text is encoded by a twin of the tokenizer, in which the control tokens
# have names that nobody can write, and their spellings are letters like any other.


class _Control:
    """A tokenizer's control tokens: the special ones, and what its template writes.

    `end`: the id that the template writes after an answer. `spoken`: the marks of thinking, which a
    model says itself. `unsaid`: where some of these are special, the ids of all others that are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, picture: str) -> None:
        self._twin: Tokenizer | None = None
        self._has_twin = tokenizer.is_fast
        written = _sample(tokenizer) if tokenizer.chat_template else ""
        template = f"{tokenizer.get_chat_template()}{written}" if tokenizer.chat_template else ""
        self._ids = {
            token.content: i
            for i, token in tokenizer.added_tokens_decoder.items()
            if _controls(token, template, picture)
        }
        special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self.spoken = _spoken(tokenizer, self._ids)
        marks = {special[tag] for tag in self.spoken & special.keys()}
        self.unsaid = frozenset(special.values()) - marks if marks else frozenset()
        longest_first = sorted(self._ids, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        found = self.pattern.search(written.partition(ANSWER)[2])
        self.end = self._ids[found[0]] if found else None
        nonce = secrets.token_hex(8)
        self._names = {t: f"\U0010fffe{nonce}.{i}\U0010ffff" for t, i in self._ids.items()}

    def named(self, text: str) -> str:
        """The text with the twin's names for its control tokens."""
        return self.pattern.sub(lambda found: self._names[found[0]], text)

    def twin(self, tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
        """The tokenizer with other names for its control tokens, made when it is first needed.

        None where it is of a kind that cannot be copied so.
        """
        if self._twin is None and self._has_twin:
            twin = _renamed(tokenizer.backend_tokenizer, self._names)
            same = twin and all(twin.token_to_id(self._names[t]) == i for t, i in self._ids.items())
            self._twin, self._has_twin = (twin, True) if same else (None, False)
        return self._twin


_CONTROLS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # of each tokenizer


def _control_of(tokenizer: PreTrainedTokenizerBase, picture: str = "") -> _Control:
    """Kept for each tokenizer, until somebody changes it."""
    key = (str(tokenizer.chat_template), len(tokenizer), tokenizer.eos_token, picture)
    known, control = _CONTROLS.get(tokenizer, (None, None))
    if control is None or known != key:
        control = _Control(tokenizer, picture)
        _CONTROLS[tokenizer] = (key, control)
    return control


def _controls(token: AddedToken, template: str, picture: str) -> bool:
    """Whether an added token is more than text: not so the words and spaces that some have."""
    text = token.content
    if not text.strip() or text.isalnum():
        return token.special
    return token.special or text in template or text in END_OF_TURN or text == picture


def _spoken(tokenizer: PreTrainedTokenizerBase, control: Collection[str]) -> frozenset[str]:
    """The control tokens that mark what a model thinks; none of them ends a turn."""
    tags = [tag for pair in THINKING_TAGS for tag in pair]
    ends = set(tokenizer.convert_ids_to_tokens(_known_ends(tokenizer)))
    marks = {token for token in control if any(token in tag for tag in tags)} - ends
    return frozenset(marks | ({CHANNEL_START} & set(control) if CHANNEL in marks else set()))


def _sample(tokenizer: PreTrainedTokenizerBase) -> str:
    """A question with an answer, as the template writes it; "" where it refuses that."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ANSWER}]
    try:
        return _apply(tokenizer, turns)
    except (TemplateError, TypeError, ValueError):  # whatever it makes of a chat that is none to it
        return ""


def _renamed(tokenizer: Tokenizer, names: Mapping[str, str]) -> Tokenizer | None:
    """A copy in which added tokens have other names, and the vocabulary too where it has them."""
    content = json.loads(tokenizer.to_str())
    content["post_processor"] = None  # adds special tokens, which nobody asks for here
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = content["model"]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(word, word): i for word, i in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(word, word), score] for word, score in model["vocab"]]
    if "merges" in model:
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        model["merges"] = [p for p in pairs if not {*p, "".join(p)} & names.keys()]
    try:
        return Tokenizer.from_str(json.dumps(content))
    except Exception:  # what the library raises, of vocabularies that refer to such a token
        return None


class _Quoted:
    """The control tokens that stand in `texts`, each as a sign that is in none of them."""

    def __init__(self, control: _Control, texts: Sequence[str]) -> None:
        self._control, self._signs = control, {}
        used = set().union(*texts)
        self._free = (sign for sign in map(chr, SIGNS) if sign not in used)

    def quote(self, text: str, role: str, picture: str = "") -> str:
        """`text` with signs: all but `picture`s and, of an assistant, the marks of its thinking."""
        spoken = self._control.spoken if role == "assistant" else ()

        def sign(found: re.Match[str]) -> str:
            token = found[0]
            if token == picture or token in spoken:
                return token
            if token not in self._signs:
                self._signs[token] = next(self._free)
            return self._signs[token]

        return self._control.pattern.sub(sign, text)

    def encode(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """The ids of a text in which signs stand for letters."""
        if not self._signs:
            return _encode(tokenizer, text)
        twin = self._control.twin(tokenizer)
        if twin is None:
            return self._in_pieces(tokenizer, text)
        letters = {ord(sign): token for token, sign in self._signs.items()}
        named = self._control.named(text).translate(letters)
        return twin.encode(named, add_special_tokens=False).ids

    def _in_pieces(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """The same without a twin: what spells a control token is cut behind its first letter."""
        letters, ids = {sign: token for token, sign in self._signs.items()}, []
        for piece in re.split(f"([{''.join(letters)}])", text):
            token = letters.get(piece)
            for part in (token[:1], token[1:]) if token else (piece,):
                ids += _encode(tokenizer, part) if part else []
        return ids


def _turn(quoted: _Quoted, message: Mapping[str, Any], picture: str) -> dict[str, str]:
    """A message's role and quoted text, with one `picture` for each of its pictures.

    Where the text holds as many as there are, the pictures stand there; otherwise they come first.
    """
    role, text = message["role"], message["content"]
    count = len(message.get("images", ())) if picture else 0
    if not count:
        return {"role": role, "content": quoted.quote(text, role)}
    if text.count(picture) == count:
        return {"role": role, "content": quoted.quote(text, role, picture)}
    alone = quoted.quote(text.replace(picture, ""), role)
    return {"role": role, "content": f"{picture}\n" * count + alone.strip()}


# --- Chats with pictures.
#
# A message names its pictures under `images`: paths or data URIs. A model that reads text only gets
# the text.


def render_prompt(
    loaded: LoadedModel, messages: Sequence[Mapping[str, Any]], *, continue_last: bool = False
) -> list[int]:
    """Token ids of `messages` (`role`, `content`, `images`) with the opening of an answer.

    Raises `T2LocalError` for a picture that cannot be read, or as `render_chat` does.
    """
    pictures = [picture for message in messages for picture in message.get("images", ())]
    if loaded.pictures is None or not pictures:
        return render_chat(loaded.tokenizer, messages, continue_last=continue_last)
    token = loaded.pictures.token
    ids = render_chat(loaded.tokenizer, messages, continue_last=continue_last, picture=token)
    return loaded.pictures.expand(ids, pictures)


# --- Back from the token ids of an answer to its text, complete or on its way.
#
# The text ends before the name of the next speaker, where that ends the answer. What is not
# complete may end in a part of a character, of a flag or of such a name: that part is not shown.
# The marks of the model's thinking are kept, also where they are special tokens.

NAME_TOKENS = 16  # at the end of an answer: as many as there are letters in a name with its lines
INCOMPLETE = "\ufffd"  # what a decoder writes for a character whose last bytes are still to come
JOINER = "\u200d"  # between the parts of one emoji
LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))  # two of them are a flag
BLACK_FLAG, TAGS = "\U0001f3f4", "".join(map(chr, range(0xE0020, 0xE007F)))  # until they are closed
SELECTORS = "\ufe0e\ufe0f"
CHANGE = SELECTORS + "".join(map(chr, range(0x1F3FB, 0x1F400)))  # what stands before them
KEYS = "0123456789#*"  # with a selector they are the beginning of a key


@dataclass(frozen=True)
class Ends:
    """What ends the answers of a model: tokens, and the next speaker's name where it has those."""

    tokenizer: PreTrainedTokenizerBase
    tokens: frozenset[int]
    names: tuple[str, ...]

    def named(self, said: Sequence[int]) -> bool:
        """Whether the last token completed the next speaker's name."""
        if not self.names:
            return False
        end = decoded(self.tokenizer, said[-NAME_TOKENS:])
        return any(name in end for name in self.names)

    def without_name(self, said: list[int]) -> list[int]:
        """The tokens up to the next speaker's name: as few as hold all of the text before it."""
        if not self.named(said):
            return said
        text = answer_text(self.tokenizer, said)
        while said and _said(self.tokenizer, said[:-1]).startswith(text):
            said = said[:-1]
        return said


def answer_text(
    tokenizer: PreTrainedTokenizerBase, said: Sequence[int], complete: bool = True
) -> str:
    """The text of an answer. `complete`: it ended by itself, not at its length, and no more comes.

    One that is on its way begins like every longer one.
    """
    text, names = _said(tokenizer, said), stop_strings(tokenizer)
    found = [at for name in names if (at := text.find(name)) >= 0]
    if found:
        return text[: min(found)]
    return text if complete else whole(text[: len(text) - _begun(text, names)])


def _said(tokenizer: PreTrainedTokenizerBase, said: Sequence[int]) -> str:
    """What was said, without the space that the plain template writes after a speaker's name."""
    text = decoded(tokenizer, said)
    return text.removeprefix(" ") if stop_strings(tokenizer) else text


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Tokens as text, without special ones but the marks of thinking."""
    unsaid = _control_of(tokenizer).unsaid
    ids = [i for i in ids if i not in unsaid]
    return tokenizer.decode(ids, skip_special_tokens=not unsaid, clean_up_tokenization_spaces=False)


def whole(text: str) -> str:
    """A text that was cut, without what is left of a character or flag at its end."""
    while text and (half := _half(text)):
        text = text[:-half]
    return text


def _half(text: str) -> int:
    """How many code points at the end of a text are no sign without those that would follow."""
    *_, before, last = "\n", *text[-2:]
    if last in INCOMPLETE + JOINER:
        return 1
    if last in CHANGE and (before.isspace() or (last in SELECTORS and before in KEYS)):
        return 1
    if last in BLACK_FLAG + TAGS and (flag := text.rstrip(TAGS)).endswith(BLACK_FLAG):
        return len(text) - len(flag) + 1
    return (len(text) - len(text.rstrip(LETTERS))) % 2


def _begun(text: str, names: Sequence[str]) -> int:
    """How many letters at the end of a text are the beginning of a name."""
    longest = max(map(len, names), default=0)
    return next(
        (n for n in range(longest, 0, -1) if any(name.startswith(text[-n:]) for name in names)), 0
    )
