"""Chat messages to token ids, through the model's own template.

A model without a template gets a plain one: "System: …", "User: …", "Assistant: …", a blank line
between turns. Where a template refuses the system role (Gemma), the system text goes in front of
the first user message. Knows nothing of what is done with the tokens.
"""

from collections.abc import Mapping, Sequence

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from t2local.errors import T2LocalError

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
