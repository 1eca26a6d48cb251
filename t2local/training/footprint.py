"""What a training step keeps in memory, and whether blocks should rather be computed twice.

Pure arithmetic from a model's configuration; knows nothing of rewards or `z`.
"""

from collections.abc import Sequence

from t2local.adapt.actions import CHOICE, action_of, choice_tokens, prompt_ids
from t2local.adapt.adapter import may_rebuild
from t2local.models.load import LoadedModel
from t2local.models.memory import free_bytes
from t2local.tasks.examples import Example
from t2local.training.config import TrainConfig

# Numbers kept a token and layer, fitted to steps of the embedded model: 1.2 GiB more for 512 tokens
# more in one forward (`bench`, four against eight rows of 128).
HIDDEN_COPIES, INTERMEDIATE_COPIES = 12, 8
LOOKED_AT = 64  # examples whose length is counted
SHARE = 0.5  # of the free memory that activations may take


def activation_bytes(loaded: LoadedModel, tokens: int) -> int:
    """Bytes of activations that the backward pass of `tokens` tokens in one forward needs."""
    config = loaded.model.config.get_text_config()
    width = HIDDEN_COPIES * config.hidden_size
    width += INTERMEDIATE_COPIES * (
        getattr(config, "intermediate_size", 0) or 4 * config.hidden_size
    )
    return tokens * config.num_hidden_layers * width * loaded.model.dtype.itemsize


def longest_row(loaded: LoadedModel, examples: Sequence[Example], config: TrainConfig) -> int:
    """Tokens of the longest of the first examples, with its choices or a whole completion."""
    looked_at = examples[:LOOKED_AT]
    if action_of(examples) == CHOICE:
        return max(choice_tokens(loaded, example) for example in looked_at)
    return max(len(prompt_ids(loaded, e)) for e in looked_at) + config.max_new_tokens


def step_bytes(loaded: LoadedModel, examples: Sequence[Example], config: TrainConfig) -> int:
    """Bytes that a training step takes beside the loaded model: activations, rebuilt matrices.

    Samples of one prompt share it, which is not counted: an upper estimate.
    """
    tokens = longest_row(loaded, examples, config) * config.rows_per_forward
    activations = activation_bytes(loaded, tokens)
    if wants_checkpointing(loaded, examples, config):  # one block at a time, and what is between
        text = loaded.model.config.get_text_config()
        between = tokens * text.num_hidden_layers * text.hidden_size * loaded.model.dtype.itemsize
        activations = between + activations // text.num_hidden_layers
    rebuilt = loaded.resident_bytes if may_rebuild(loaded) else 0
    return activations + rebuilt


def wants_checkpointing(
    loaded: LoadedModel, examples: Sequence[Example], config: TrainConfig
) -> bool:
    """True when asked for, or when activations would take more than half of the free memory."""
    if config.gradient_checkpointing:
        return True
    tokens = longest_row(loaded, examples, config) * config.rows_per_forward
    return activation_bytes(loaded, tokens) > SHARE * free_bytes(loaded.device)
