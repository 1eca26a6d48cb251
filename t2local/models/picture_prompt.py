"""A chat with pictures to token ids; one without them is rendered as for any model.

A message names its pictures under `images`: paths or data URIs. Where its text holds as many
placeholders as it has pictures they say where these belong, else the pictures come first. A model
that reads text only is given the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from t2local.models.chat_format import render_chat
from t2local.models.load.loader import LoadedModel


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
