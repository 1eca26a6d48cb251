"""The memory of a training step: an estimate of it, and the ways to make a step fit.

Estimated from the model's configuration. A batch is cut into slices, blocks are computed twice
(gradient checkpointing) where that helps, and a step that runs out of memory is taken again with
half as many rows in a slice. The clock counts seconds and memory by stage.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel
from transformers import __version__ as VERSION
from transformers.modeling_layers import GradientCheckpointingLayer

from t2local.adapt.answering import CHOICE, action_of, choice_tokens, prompt_ids
from t2local.adapt.applier import may_rebuild
from t2local.errors import T2LocalError
from t2local.models.decode.compiled_steps import folded_bytes
from t2local.models.decode.generate import Around
from t2local.models.fit.memory import free_bytes, free_memory
from t2local.models.load.loader import LoadedModel
from t2local.tasks.rows import Example
from t2local.training.config import NEXT_TOKEN, QUICK, Sampler, TrainConfig
from t2local.training.reports import Notice, TrainState

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

    Of the longest of the first examples, with answers as long as allowed: an upper estimate. The
    rounded copy that quick rollouts sample from is gone before activations come.
    """
    rows, row_tokens = forward_shape(loaded, examples, config)
    activations = activation_bytes(loaded, rows, row_tokens)
    if wants_checkpointing(loaded, examples, config):  # one block at a time, and what is between
        text = loaded.model.config.get_text_config()
        width = text.num_hidden_layers * text.hidden_size * loaded.model.dtype.itemsize
        activations = rows * row_tokens * width + activations // text.num_hidden_layers
    step = activations + (rebuilt_bytes(loaded) if may_rebuild(loaded) else 0)
    folds = loaded.steps is not None and config.rollouts == QUICK
    return max(step, folded_bytes(loaded.model)) if folds else step


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


# --- The clock.


class Clock:
    """`with clock("forward"): ...` adds to `clock.seconds["forward"]`.

    `most_bytes`: the most that `held_bytes` gave at the end of a stage; after a forward that is
    nearly a step's peak, since all activations wait for the backward pass.
    """

    def __init__(self, held_bytes: Callable[[], int] = lambda: 0) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.most_bytes, self._held_bytes = 0, held_bytes

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start
            self.most_bytes = max(self.most_bytes, self._held_bytes())


# --- Slices.


@dataclass(frozen=True)
class StepWork:
    """`hold()` puts the trained numbers in force for a forward.

    `places` of `total`: where the prompts stand in the batch of all processes, whose random numbers
    they take (None: they are the batch). `clock`: where the seconds of the step are counted.
    `sample`: how answers are sampled (None: by the model's own forward).
    """

    step: int
    hold: Around
    clock: Clock = field(default_factory=Clock)
    places: Sequence[int] | None = None
    total: int | None = None
    sample: Sampler | None = None

    def among(self, prompts: int, samples: int) -> tuple[list[int], int]:
        """Where each prompt's samples stand among all samples, and how many those are."""
        places = range(prompts) if self.places is None else self.places
        assert len(places) == prompts, (len(places), prompts)
        own = [place * samples + i for place in places for i in range(samples)]
        return own, (self.total or prompts) * samples

    def backward(self, loss: torch.Tensor) -> None:
        """Add the loss's gradient; one that has none costs nothing."""
        if loss.requires_grad:
            with self.clock("backward"), self.hold():  # checkpoints compute blocks again
                loss.backward()


def slices(order: Sequence[int], rows_per_forward: int) -> list[list[int]]:
    """Rows in slices of one forward each."""
    starts = range(0, len(order), rows_per_forward)
    return [list(order[start : start + rows_per_forward]) for start in starts]


def measures_kl(in_loss: bool, number: int, count: int, step: int) -> bool:
    """Whether slice `number` of `count` also runs the base model.

    All do where the KL is in the loss. Else it is only reported: another slice each step.
    """
    return in_loss or number == step % count


# --- Out of memory.


def with_fewer_rows(state: TrainState, step: int) -> tuple[TrainState, Notice]:
    """Half as many rows a forward from now on. Raises `T2LocalError` when there is but one."""
    if state.rows_per_forward == 1:
        raise T2LocalError(
            f"Memory ran out at step {step} with a single row in a forward; close other programs, "
            "or choose shorter examples, a smaller max_new_tokens or gradient_checkpointing."
        )
    free_memory()
    fewer = state.rows_per_forward // 2
    text = f"Out of memory: from now on {fewer} rows a forward instead of {state.rows_per_forward}."
    return replace(state, rows_per_forward=fewer), Notice(step, text)


# --- Gradient checkpointing without training mode.
#
# transformers checkpoints a block only in training mode, which would also switch dropout on and
# change bitsandbytes layers. So only the blocks are set to it, not the layers inside them. Its
# methods are called `activation_checkpointing_…` since 5.23, `gradient_checkpointing_…` before.

RENAMED = (5, 23)
KIND = "activation" if tuple(map(int, VERSION.split(".")[:2])) >= RENAMED else "gradient"


@contextmanager
def gradient_checkpointing(model: PreTrainedModel, enabled: bool = True) -> Iterator[None]:
    """Checkpoint every block inside this context; `enabled=False` changes nothing.

    Whatever adapts the model must be in force in the backward pass too.
    """
    if not enabled:
        yield
        return
    blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    getattr(model, f"{KIND}_checkpointing_enable")({"use_reentrant": False})
    for block in blocks:
        block.training = True
    try:
        yield
    finally:
        for block in blocks:
            block.training = False
        getattr(model, f"{KIND}_checkpointing_disable")()
