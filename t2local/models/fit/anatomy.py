"""What a model consists of, matrix by matrix, from its configuration alone.

The configuration comes from the catalogue, a folder, a GGUF file or the Hub. Also from it: whether
its steps can be compiled or captured as CUDA graphs.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from t2local import paths
from t2local.errors import T2LocalError
from t2local.models.fit import catalogue
from t2local.models.fit.catalogue import architecture
from t2local.models.groups.codes import GROUP, LANES
from t2local.models.load import grouped, load_errors
from t2local.models.load.gguf import first_line, gguf_config
from t2local.models.load.load_errors import BUILDING, quiet_transformers
from t2local.models.vision import auto_class

STATIC_ROPE = {"default", "linear", "llama3"}  # cosines that do not depend on the text's length
FULL = "full_attention"
FAMILIES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}
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
    compilable: bool = False  # its steps, on a CPU
    grouped_bytes: int = 0  # of a GGUF's weights in their own bits; 0: it is none, or has floats

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
    try:
        return _apart(config)
    except Exception as error:  # numbers and words of wrong types fail wherever they are used
        raise T2LocalError(
            f"The memory of '{name}' cannot be estimated ({first_line(error)}); "
            "name a causal language model whose architecture transformers knows."
        ) from error


def _apart(config: PreTrainedConfig) -> Anatomy:
    model = _on_meta(config)
    compilable = not steps_problem(model)
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
        compilable=compilable,
    )


def _on_meta(config: PreTrainedConfig) -> nn.Module:
    with BUILDING, torch.device("meta"), quiet_transformers():
        return auto_class(config).from_config(config, trust_remote_code=False)


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


# --- From whatever `--model` takes.
#
# A catalogue model needs no network; a Hub id's config.json comes from the cache or is fetched (a
# few kilobytes); a folder need not hold weights yet.


def anatomy_of(source: str) -> Anatomy:
    """`source`: a catalogue id or short name, a Hub id, a folder, a `.gguf` file or "embedded".

    Raises `T2LocalError` when there is no such model, or no config of it can be had.
    """
    path = paths.named(source)
    if not path.exists() and (entry := catalogue.find(source)):
        return _of_catalogue(entry.id)
    parts = anatomy(config_of(source), source)
    if path.is_file() and not grouped.problem(path):
        return replace(parts, grouped_bytes=grouped.cache_bytes(path))
    return parts


def config_of(source: str) -> PreTrainedConfig:
    """The configuration of a Hub id, a folder or a `.gguf` file, without its weights."""
    path = paths.named(source)
    if not path.is_dir() and not (path.is_file() and path.suffix == ".gguf"):
        load_errors.check_hub_id(source, path)
    with load_errors.translated(source), quiet_transformers():
        if path.is_file():
            kept = grouped.kept_folder(path)
            return load_errors.read_config(kept) if kept else gguf_config(path)
        return load_errors.read_config(path if path.is_dir() else source)


@lru_cache(maxsize=64)
def _of_catalogue(model_id: str) -> Anatomy:
    file = catalogue.find(model_id).file
    parts = anatomy(architecture(model_id), model_id)
    return replace(parts, grouped_bytes=file.unpacked_bytes) if file else parts


# --- Whether a model's steps are compiled on a CPU, or captured on a GPU.


def steps_problem(model: nn.Module) -> str:
    """Why this model's steps are not compiled, in a few words; "" when they are."""
    family, config = type(model).__name__, model.config
    if family not in FAMILIES or config.hidden_act != "silu":
        return f"{family} is not among the families whose steps are compiled"
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "its matrices have biases"
    if problem := positions_problem(config):
        return problem
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if any(m.in_features % GROUP or m.out_features % LANES for m in linear):
        return "its matrices are not made of whole blocks"
    return ""


def positions_problem(config: PreTrainedConfig) -> str:
    """What about positions moves with the length of the text, in a few words; "" if nothing."""
    if config.rope_parameters.get("rope_type", "default") not in STATIC_ROPE:
        return "its rotary embedding changes with the length of the text"
    if any(kind != FULL for kind in _attention_kinds(config)):
        return "its attention has a window"
    return ""


def _attention_kinds(config: PreTrainedConfig) -> list[str]:
    """What each layer attends to, by transformers' names; families without a window say nothing."""
    if getattr(config, "layer_types", None):
        return list(config.layer_types)
    windowed = getattr(config, "sliding_window", None) is not None
    return ["sliding_attention"] if windowed else []
