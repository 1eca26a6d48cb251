"""Rows that do not fit the model's context are named before a run, not cut in its midst."""

from t2local.adapt.answering import CHOICE, action_of, prompt_ids
from t2local.errors import T2LocalError
from t2local.models.load.loader import LoadedModel
from t2local.tasks.datasets import Curriculum
from t2local.tasks.rows import Example, shown, too_long
from t2local.training.config import NEXT_TOKEN, TrainConfig

BEGINNING = 40  # characters of a prompt that a message shows


def check_lengths(loaded: LoadedModel, source: Curriculum, config: TrainConfig) -> None:
    """Raises `T2LocalError` where a prompt and its answer take more tokens than the model reads."""
    others = () if source.leave_one_out else (*source.validation, *source.held_out)
    examples = [*source.train, *others]
    chooses = action_of(examples) == CHOICE

    def answer_tokens(example: Example) -> int:
        if chooses:
            return max(map(tokens, example.columns["choices"]))
        if config.objective == NEXT_TOKEN:
            return tokens(example.answer) + 1  # the end of the turn
        return config.max_new_tokens

    def tokens(text: str) -> int:
        return len(loaded.tokenizer.encode(text, add_special_tokens=False))

    def needed(example: Example) -> int:
        return len(prompt_ids(loaded, example)) + answer_tokens(example)

    def surely_fits(example: Example) -> bool:
        """A token takes at least a byte, so most rows need not be counted (7 s for 2,651)."""
        if example.pictures:
            return False  # whose tokens only the model's processor counts
        chosen = max(map(_size, example.columns["choices"])) if chooses else 0
        answer = chosen or max(_size(example.answer) + 1, config.max_new_tokens)
        return template + _size(example.prompt) + answer <= context // 2

    template = len(prompt_ids(loaded, Example("", "")))
    context = loaded.context_length
    examples = [example for example in examples if not surely_fits(example)]
    found = too_long(examples, needed, context)
    if not found:
        return
    first = examples[found[0]]
    rows = "row does not fit" if len(found) == 1 else "rows do not fit"
    remedy = "shorten or leave out such rows"
    if not chooses and config.objective != NEXT_TOKEN:
        remedy += f", or lower max_new_tokens ({config.max_new_tokens})"
    raise T2LocalError(
        f"{len(found)} {rows} the {context} tokens that '{loaded.name}' reads: the first begins "
        f"'{shown(first.prompt, BEGINNING)}' and needs {needed(first)} with its answer; {remedy}."
    )


def _size(text: str) -> int:
    return len(text.encode())
