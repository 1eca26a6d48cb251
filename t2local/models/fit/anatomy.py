"""What a configuration's model consists of, parameter by parameter, without its weights.

The model is built on the meta device, so the numbers are those of the real one: which matrices
bitsandbytes would quantise (transformers' own rule: embeddings and the output head stay in 16 or
32 bits), which ones are adapted, and what else there is. Nothing is downloaded, no memory is used.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from t2local.errors import T2LocalError
from t2local.models.load.gguf import first_line
from t2local.models.packable import packing_problem
from t2local.models.quiet import quiet_transformers
from t2local.models.vision import auto_class

ATTENTION_PARTS = (".self_attn.", ".attn.", ".attention.")  # as in `svf.targets`
LANGUAGE_PARTS = (".language_model.", ".text_model.")  # of a vision-language model, as there
UNKNOWN_CONTEXT_LENGTH = 2048


@dataclass(frozen=True)
class Matrix:
    """One linear layer's weight `[m, n]`, as the model names it."""

    name: str
    out_features: int  # m
    in_features: int  # n
    quantized: bool  # by bitsandbytes, where it is asked for
    adapted: bool  # in a numbered block of the language model

    @property
    def numbers(self) -> int:
        return self.out_features * self.in_features

    @property
    def rank(self) -> int:
        """r = min(m, n): the side of its basis."""
        return min(self.out_features, self.in_features)

    @property
    def attention(self) -> bool:
        """Whether it belongs to an attention module (else it counts as MLP)."""
        return any(part in f".{self.name}." for part in ATTENTION_PARTS)


@dataclass(frozen=True)
class Anatomy:
    """A model's parts and the sizes that its working memory follows from."""

    parameters: int  # tied ones once
    buffer_bytes: int
    matrices: tuple[Matrix, ...]
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    key_value_heads: int
    head_width: int
    context_length: int  # tokens
    packable: bool = False  # in 8 bits, for decoding on a CPU

    def adapted(self, targets: str = "all") -> tuple[Matrix, ...]:
        """The matrices of "all", "mlp" or "attention" that get a basis."""
        assert targets in TARGETS, targets
        return tuple(
            m
            for m in self.matrices
            if m.adapted and (targets == "all" or m.attention == (targets == "attention"))
        )


TARGETS = ("all", "mlp", "attention")


def anatomy(config: PreTrainedConfig, name: str = "this model") -> Anatomy:
    """Take the model of `config` apart. Raises `T2LocalError` when no language model is in it."""
    model = _on_meta(config, name)
    packable = not packing_problem(type(model).__name__, config)
    text = config.get_text_config()
    heads = text.num_attention_heads
    return Anatomy(
        parameters=model.num_parameters(),
        buffer_bytes=sum(b.numel() * b.element_size() for b in model.buffers()),
        matrices=_matrices(model),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        key_value_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_width=getattr(text, "head_dim", None) or text.hidden_size // heads,
        context_length=getattr(text, "max_position_embeddings", None) or UNKNOWN_CONTEXT_LENGTH,
        packable=packable,
    )


def _on_meta(config: PreTrainedConfig, name: str) -> nn.Module:
    try:
        with torch.device("meta"), quiet_transformers():
            return auto_class(config).from_config(config)
    except (ValueError, KeyError, ImportError, AttributeError) as error:
        raise T2LocalError(
            f"The memory of '{name}' cannot be estimated ({first_line(error)}); "
            "name a causal language model whose architecture transformers knows."
        ) from error


def _matrices(model: nn.Module) -> tuple[Matrix, ...]:
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    numbered = [name for name in layers if any(part.isdigit() for part in name.split("."))]
    spoken = [name for name in numbered if any(part in name for part in LANGUAGE_PARTS)]
    adapted, kept = set(spoken or numbered), get_keys_to_not_convert(model)
    found = []
    for name, layer in layers.items():
        shape = layer.weight.shape
        m, n = reversed(shape) if isinstance(layer, Conv1D) else shape
        quantized = should_convert_module(name, kept)
        found.append(Matrix(name, m, n, quantized, name in adapted))
    return tuple(found)
