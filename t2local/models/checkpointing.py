"""Gradient checkpointing without training mode: less memory, the forward computed twice.

transformers checkpoints a block only in training mode, which would also switch dropout on and
change bitsandbytes layers; here the blocks alone are told so, not what is inside them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def gradient_checkpointing(model: PreTrainedModel, enabled: bool = True) -> Iterator[None]:
    """Checkpoint every block inside this context; `enabled=False` changes nothing.

    Whatever adapts the model must be in force in the backward pass too.
    """
    if not enabled:
        yield
        return
    blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    model.activation_checkpointing_enable({"use_reentrant": False})
    for block in blocks:
        block.training = True
    try:
        yield
    finally:
        for block in blocks:
            block.training = False
        model.activation_checkpointing_disable()
