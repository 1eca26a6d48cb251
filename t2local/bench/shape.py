"""What `bench --shape` measures: an 8B model in 4 bits, on random weights of its shape.

Without a CUDA GPU a big shape is not run: its rows then have no value, and the command that fills
them is said. Memory can be capped to that of a smaller card.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from t2local.bench import gpu
from t2local.bench.speed import search_generation, twin
from t2local.bench.table import Bar, Measured, Part, Row, in_turn
from t2local.bench.training_step import cost_of_steps, workload
from t2local.errors import T2LocalError
from t2local.models.load.loader import LoadedModel, describe
from t2local.models.load.quantized import keep_weights_as_loaded, nf4_linear, require_bitsandbytes
from t2local.models.storage import NF4
from t2local.svf import SVFModel

GIB, GB = 2**30, 1e9
ON_CPU = ("tiny",)  # shapes that are small enough to run anywhere
LIMIT_S = 60  # of a part on a GPU, which is often paid for by the minute


@dataclass(frozen=True)
class Goal:
    """A row of the table: what it must reach, and what it is meant to reach."""

    name: str
    variant: str
    least: Bar
    aim: Bar
    unit: str


GOALS = tuple(
    Goal(name, variant, Bar(sign, least), Bar(sign, aim), unit)
    for name, variant, sign, least, aim, unit in (
        (gpu.SHARE, "MLP", "≥", 0.85, 0.95, gpu.RATIO),
        (gpu.SHARE, "all matrices", "≥", 0.85, 0.95, gpu.RATIO),
        (gpu.SHARE, "all matrices, 4-bit bases", "≥", 0.85, 0.95, gpu.RATIO),
        ("adapted / base decode, batch 1", "MLP, top-256", "≥", 0.85, 0.90, gpu.RATIO),
        ("adapted / base decode, batch 1", "all matrices, top-256", "≥", 0.85, 0.90, gpu.RATIO),
        ("base decode", "ours / eager generate", "≥", 1.5, 3, gpu.RATIO),
        ("share of memory bandwidth", "base", "≥", 0.35, 0.6, gpu.RATIO),
        ("adapted / base, batch 32", "all matrices", "≥", 0.75, 0.85, gpu.RATIO),
        ("different z a row / one z, batch 32", "all", "≥", 0.95, 0.99, gpu.RATIO),
        ("change of z", "whole model", "≤", 1.0, 0.2, "ms"),
        ("prefill 2048 tokens, adapted / base", "all matrices", "≥", 0.45, 0.52, gpu.RATIO),
        (
            "decomposition",
            "224 matrices, from 4 decomposed, one of each shape",
            "≤",
            4,
            1,
            "minutes",
        ),
        ("resident", "NF4 and int8 bases, all matrices", "≤", 9.0, 8.5, "GB"),
        ("SVF RL step", "8 sequences of 512 tokens, peak", "≤", 12, 11, "GB"),
        ("search, 32 tokens", "batched / one by one", "≥", 4, 6, gpu.RATIO),
    )
)


def measuring_shape(
    shape: str, vram_gib: float | None, quick: bool
) -> Generator[str | Measured, None, None]:
    """Says what it does, and gives the rows of `SHAPES[shape]` as they come.

    Those that could not be measured come last, without values. `vram_gib`: use no more of the GPU's
    memory. Raises `T2LocalError` for more than it has.
    """
    found: list[Row] = []
    if torch.cuda.is_available() or shape in ON_CPU:
        _cap(vram_gib)
        for event in _found(shape, quick or shape in ON_CPU):
            found += event.rows if isinstance(event, Measured) else []
            yield event
    else:
        command = f"python -m t2local bench --shape {shape} --vram {vram_gib or 12:g}"
        yield f"There is no CUDA GPU here: run `{command}` on a machine that has one."
    yield Measured(_missing(shape, found), {})


def goals_of(shape: str, row: Row) -> list[Goal]:
    """What `row` must reach; nothing on a small shape, which is there to see everything run."""
    if shape in ON_CPU:
        return []
    return [goal for goal in GOALS if (goal.name, goal.variant) == (row.name, row.variant)]


def _cap(vram_gib: float | None) -> None:
    if vram_gib is None or not torch.cuda.is_available():
        return
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    if not 0 < vram_gib <= total:
        raise T2LocalError(
            f"--vram is {vram_gib:g} GiB and this GPU has {total:.1f}; give no more than that."
        )
    torch.cuda.set_per_process_memory_fraction(vram_gib / total)


def _found(shape: str, quick: bool) -> Generator[str | Measured, None, None]:
    """Everything in turn."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    effort = gpu.QUICK if quick else gpu.FULL
    yield f"building a random {shape} in 4 bits"
    loaded = random_shape(shape, device, torch.bfloat16 if on_gpu else torch.float32)
    untouched = twin(loaded.model)
    svf = gpu.with_random_bases(loaded)
    yield f"the branch runs as {svf.branch_path}"
    parts: dict[str, Part] = {  # in order of worth, what needs the most memory last
        "resident memory": lambda: gpu.resident(loaded, svf),
        "decoding": lambda: gpu.decoding(loaded, svf, effort),
        "transformers' generate": lambda: gpu.beside_generate(loaded, untouched, svf, effort),
        "changes of z": lambda: gpu.change_of_z(svf, effort),
        "a batch": lambda: gpu.batched(loaded, svf, effort),
        "decomposition": lambda: gpu.decomposition(svf),
        "prefill": lambda: gpu.prefill(loaded, svf, effort),
        "a mixture search": lambda: _search(loaded, svf, quick),
        "a training step": lambda: _training_step(loaded, svf, quick),
    }
    for event in in_turn(parts, LIMIT_S if on_gpu else None):
        yield event
        if on_gpu and isinstance(event, str):
            torch.cuda.empty_cache()


def _training_step(loaded: LoadedModel, svf: SVFModel, quick: bool) -> Measured:
    """Two sequences a forward; the peak is that of the GPU, weights and bases included."""
    sequences, tokens = (2, 64) if quick else (8, 512)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    cost = cost_of_steps(loaded, svf, workload(loaded, sequences, tokens, 2), 1)
    name = f"{sequences} sequences of {tokens} tokens"
    rows = [
        Row("SVF RL step", f"{name}, peak", cost.peak_memory_bytes / GB, "GB"),
        Row("SVF RL step", f"{name}, speed", cost.tokens / cost.wall_s, "tokens/s"),
        Row("SVF RL step", "log-probabilities, sampled and trained", cost.sampler_gap, "nats"),
    ]
    return Measured(rows, {})


def _search(loaded: LoadedModel, svf: SVFModel, quick: bool) -> Measured:
    """Candidates scored in batches, and one by one."""
    found = search_generation(loaded, svf, 1 if quick else 3, 2 if quick else 32)
    faster = found.ratios["search_32_tokens_batched_over_one_by_one"]
    row = Row("search, 32 tokens", "batched / one by one", faster, gpu.RATIO)
    return Measured([*found.rows, row], {})


def _missing(shape: str, found: list[Row]) -> list[Row]:
    """The table's rows that nothing was measured for; a small shape has a table of its own."""
    if shape in ON_CPU:
        return []
    known = {(row.name, row.variant) for row in found}
    missing = [goal for goal in GOALS if (goal.name, goal.variant) not in known]
    return [Row(goal.name, goal.variant, None, goal.unit) for goal in missing]


# --- Models of a real one's shape with random weights: they speak nonsense, at its speed.
#
# Built layer by layer, each quantised before the next is made, so that nothing larger than the
# result is ever in memory.

SPECIAL = ("<pad>", "<s>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}"
)
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPES = {
    "tiny": LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, **TOKENS,
    ),
    "llama3-8b": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, rms_norm_eps=1e-5,
        **TOKENS,
    ),
}  # fmt: skip


def random_shape(name: str, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """A model of the shape `SHAPES[name]` in NF4 on `device`, computing in `dtype`.

    Raises `T2LocalError` where bitsandbytes does not load.
    """
    require_bitsandbytes()
    config = LlamaConfig.from_dict(SHAPES[name].to_dict())
    n_layers, config.num_hidden_layers = config.num_hidden_layers, 0
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(config)
            for index in range(n_layers):
                layer = LlamaDecoderLayer(config, index)
                _quantise(layer, device, dtype)
                model.model.layers.append(layer)
    finally:
        torch.set_default_dtype(before)
    model.config.num_hidden_layers = n_layers
    keep_weights_as_loaded(model)
    return describe(model, _byte_tokenizer(), f"random-{name}", NF4)


def _quantise(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Every linear layer inside becomes an NF4 one of random weights of a usual size."""
    linear = {name: m for name, m in layer.named_modules() if isinstance(m, nn.Linear)}
    for name, old in linear.items():
        m, n = old.out_features, old.in_features
        weight = torch.randn(m, n, device=device, dtype=dtype) / math.sqrt(n)
        parent, _, child = name.rpartition(".")
        setattr(layer.get_submodule(parent), child, nf4_linear(weight))


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: enough to make prompts of a length."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        chat_template=TEMPLATE,
    )
