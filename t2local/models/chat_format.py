"""Chat messages, with or without pictures, to token ids through the model's own template."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from t2local.errors import T2LocalError
from t2local.models.load.loader import LoadedModel

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|endoftext|>")


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    *,
    continue_last: bool = False,
) -> list[int]:
    """Token ids of `messages` (`role`, `content`) with the opening of the assistant's turn.

    `continue_last`: the last message is left open and is continued. Raises `T2LocalError` when
    the model's template refuses the messages.
    """
    assert messages, "a chat needs a message"
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    if continue_last and not turns[-1]["content"].strip():
        turns, continue_last = turns[:-1], False
    try:
        return _apply(tokenizer, turns, continue_last)
    except TemplateError as error:
        refused = error
    if turns[0]["role"] == "system" and len(turns) > 1:
        try:
            return _apply(tokenizer, fold_system(turns), continue_last)
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


def stop_tokens(tokenizer: PreTrainedTokenizerBase, generation_eos: int | list[int] | None) -> set:
    """Ids that end an answer: the generation config's, the tokenizer's, known end-of-turn ones."""
    listed = generation_eos if isinstance(generation_eos, list) else [generation_eos]
    added = tokenizer.get_added_vocab()
    known = [added.get(token) for token in END_OF_TURN]
    return {i for i in (*listed, tokenizer.eos_token_id, *known) if i is not None}


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id with which this model's chat turns end: a known marker, or the end of sequence."""
    added = tokenizer.get_added_vocab()
    return next((added[t] for t in END_OF_TURN if t in added), tokenizer.eos_token_id)


def _apply(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], continue_last: bool
) -> list[int]:
    return tokenizer.apply_chat_template(
        turns,
        chat_template=None if tokenizer.chat_template else PLAIN_TEMPLATE,
        add_generation_prompt=not continue_last,
        continue_final_message=continue_last,
        tokenize=True,
        return_dict=False,
    )


# --- Chats with pictures.
#
# A message names its pictures under `images`: paths or data URIs. Where its text holds as many
# placeholders as it has pictures, the pictures stand there; otherwise they come first. A model that
# reads text only gets the text.


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
    marked = [{**m, "content": _marked(m, token)} for m in messages]
    ids = render_chat(loaded.tokenizer, marked, continue_last=continue_last)
    return loaded.pictures.expand(ids, pictures)


def _marked(message: Mapping[str, Any], token: str) -> str:
    """The message's text with one placeholder for each of its pictures."""
    text, count = message["content"], len(message.get("images", ()))
    if count and text.count(token) == count:
        return text
    return f"{token}\n" * count + text.replace(token, "").strip()
