"""What a training step keeps in memory, and whether blocks should rather be computed twice.

Pure arithmetic from a model's configuration; knows nothing of rewards or `z`.
"""

from collections.abc import Sequence

import psutil
import torch

from t2local.adapt.answering import CHOICE, action_of, choice_tokens, prompt_ids
from t2local.adapt.mixer import may_rebuild
from t2local.models.fit.memory import free_bytes
from t2local.models.load.loader import LoadedModel
from t2local.tasks.rows import Example
from t2local.training.config import NEXT_TOKEN, TrainConfig

# Numbers kept a token and layer, fitted to steps of the embedded model: 1.2 GiB more for 512 tokens
# more in one forward (`bench`, four against eight rows of 128).
HIDDEN_COPIES, INTERMEDIATE_COPIES = 12, 8
MASK_BYTES = 8  # a pair of tokens in a row: the mask in float32, and how it is made
LOOKED_AT = 64  # examples whose length is counted
SHARE = 0.5  # of the free memory that activations may take


def activation_bytes(loaded: LoadedModel, rows: int, row_tokens: int) -> int:
    """Bytes that wait for the backward pass of one forward of `rows` of so many tokens each."""
    config = loaded.model.config.get_text_config()
    width = HIDDEN_COPIES * config.hidden_size
    width += INTERMEDIATE_COPIES * (
        getattr(config, "intermediate_size", 0) or 4 * config.hidden_size
    )
    kept = config.num_hidden_layers * width * loaded.model.dtype.itemsize
    return rows * row_tokens * (kept + MASK_BYTES * row_tokens)


def longest_row(loaded: LoadedModel, examples: Sequence[Example], config: TrainConfig) -> int:
    """Tokens of the longest of the first examples, with its choices or a whole completion."""
    looked_at = examples[:LOOKED_AT]
    if action_of(examples) == CHOICE:
        return max(choice_tokens(loaded, example) for example in looked_at)
    return max(len(prompt_ids(loaded, e)) for e in looked_at) + config.max_new_tokens


def forward_shape(
    loaded: LoadedModel, examples: Sequence[Example], config: TrainConfig
) -> tuple[int, int]:
    """Rows and tokens a row of the largest forward; samples of one prompt share a row with it."""
    longest, rows = longest_row(loaded, examples, config), config.rows_per_forward
    if action_of(examples) == CHOICE or config.objective == NEXT_TOKEN:
        return min(rows, config.prompts_per_step, len(examples)), longest
    together = min(rows, config.samples_per_prompt)
    return -(-rows // config.samples_per_prompt), longest + (together - 1) * config.max_new_tokens


def step_bytes(loaded: LoadedModel, examples: Sequence[Example], config: TrainConfig) -> int:
    """Bytes that a training step takes beside the loaded model: activations, rebuilt matrices.

    Of the longest of the first examples, with answers as long as allowed: an upper estimate.
    """
    rows, row_tokens = forward_shape(loaded, examples, config)
    activations = activation_bytes(loaded, rows, row_tokens)
    if wants_checkpointing(loaded, examples, config):  # one block at a time, and what is between
        text = loaded.model.config.get_text_config()
        width = text.num_hidden_layers * text.hidden_size * loaded.model.dtype.itemsize
        activations = rows * row_tokens * width + activations // text.num_hidden_layers
    return activations + (rebuilt_bytes(loaded) if may_rebuild(loaded) else 0)


def rebuilt_bytes(loaded: LoadedModel) -> int:
    """Bytes of all matrices rebuilt: those of the model without its embeddings and head."""
    ends = (loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings())
    tables = {id(end.weight): end.weight.nbytes for end in ends}  # often one and the same
    return max(0, loaded.resident_bytes - sum(tables.values()))


def wants_checkpointing(
    loaded: LoadedModel, examples: Sequence[Example], config: TrainConfig
) -> bool:
    """True when asked for, or when activations would take more than half of the free memory."""
    if config.gradient_checkpointing:
        return True
    needed = activation_bytes(loaded, *forward_shape(loaded, examples, config))
    return needed > SHARE * free_bytes(loaded.device)


def held_bytes(device: str) -> int:
    """Memory held at this moment: on the GPU that `device` names, else by this process."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(torch.device(device))
    return psutil.Process().memory_info().rss
