"""How much memory a model takes before it is loaded: weights, bases, KV cache, training, reserve.

And the copies that are kept beside a small model for speed: rebuilt matrices of mixtures that stay
(`adapt.applier`), and a copy in 8 bits on a CPU (`models.decode.compiled_steps`).
"""

from dataclasses import dataclass

from t2local.models.fit.anatomy import TARGETS, Anatomy
from t2local.models.groups.codes import GROUP
from t2local.models.storage import BASES, GGUF, INT8, NONE, QUANTIZATIONS

FLOAT_BYTES = {"float32": 4, "bfloat16": 2}

GB = 10**9
PROGRAM_BYTES = {"cuda": 6 * GB // 10, "cpu": 5 * GB // 10}  # context and kernels; Python, PyTorch
PREFILL_TOKENS = 512  # of a prompt that are in work at once
CHUNK_LOGITS = 32  # positions of the loss at once (`scoring.CHUNK_POSITIONS`), 4 copies of them
HIDDEN_COPIES, INTERMEDIATE_COPIES = 12, 8  # numbers kept a token and layer for the backward pass
TRAINING_ROWS, TRAINING_TOKENS = 8, 512
DEFAULT_CONTEXT = 8192  # tokens of a chat that are planned for, where the model takes as many
COMFORT = 0.9  # a plan that fills more than this share of the memory is tight

REBUILD_BYTES = 2 * 2**30  # a model up to this size may keep rebuilt copies beside it
REBUILT_COPIES = 2  # the classifier's, and the mixture used again and again
ROUND_BYTES = 100 * 2**20  # a smaller model answers at once as it is


@dataclass(frozen=True)
class Plan:
    """How a model is loaded and adapted."""

    quantization: str = NONE  # as in `models.storage`
    basis: str = INT8  # as in `models.storage`
    targets: str = "all"  # "all" | "mlp" | "attention"
    dtype: str = "bfloat16"  # of what is not quantised, and of the KV cache: or "float32"
    device: str = "cuda"  # or "cpu"

    def __post_init__(self) -> None:
        assert self.basis in BASES, self.basis
        assert self.targets in TARGETS, self.targets

    @property
    def words(self) -> str:
        """ "4-bit weights, int8 bases, all matrices", for a person."""
        weights = QUANTIZATIONS[self.quantization].words(self.dtype)
        matrices = {"all": "all matrices", "mlp": "MLP only", "attention": "attention only"}
        return f"{weights}, {self.basis} bases, {matrices[self.targets]}"


@dataclass(frozen=True)
class Estimate:
    """Bytes of a plan. A chat takes `total_bytes`, a training step `training_total_bytes`."""

    plan: Plan
    context: int  # tokens
    weights_bytes: int
    bases_bytes: int
    cache_bytes: int  # KV cache of `context` tokens, one row
    reserve_bytes: int  # program, working buffers of a chat, the decomposition's peak
    training_bytes: int  # of one SVF step, in place of KV cache and working buffers
    program_bytes: int
    copies_bytes: int = 0  # beside a small model, for speed: at most

    @property
    def resident_bytes(self) -> int:
        """What stays: weights, bases, and the copies once they are made."""
        return self.weights_bytes + self.bases_bytes + self.copies_bytes

    @property
    def total_bytes(self) -> int:
        return self.resident_bytes + self.cache_bytes + self.reserve_bytes

    @property
    def training_total_bytes(self) -> int:
        return self.resident_bytes + self.program_bytes + self.training_bytes

    def verdict(self, memory_bytes: int) -> str:
        """ "fits", "tight" or "does not fit" into so much memory, for a chat."""
        if self.total_bytes > memory_bytes:
            return "does not fit"
        return "fits" if self.total_bytes <= COMFORT * memory_bytes else "tight"


def estimate(parts: Anatomy, plan: Plan, context: int | None = None) -> Estimate:
    """The bytes of `plan` for a chat of `context` tokens (default: 8,192, or all it takes)."""
    context = min(context or DEFAULT_CONTEXT, parts.context_length)
    cache = cache_bytes(parts, context, plan.dtype)
    program = PROGRAM_BYTES[plan.device]
    chat = _chat_work_bytes(parts, plan)
    decomposing = max(0, _decomposition_bytes(parts, plan.targets) - cache)
    return Estimate(
        plan=plan,
        context=context,
        weights_bytes=weights_bytes(parts, plan.quantization, plan.dtype),
        bases_bytes=bases_bytes(parts, plan.basis, plan.targets),
        cache_bytes=cache,
        reserve_bytes=program + max(chat, decomposing),
        training_bytes=training_bytes(parts, plan),
        program_bytes=program,
        copies_bytes=copies_bytes(parts, plan),
    )


def weights_bytes(parts: Anatomy, quantization: str, dtype: str) -> int:
    """Bytes of all parameters and buffers; quantised matrices with their scales."""
    if quantization == GGUF and parts.grouped_bytes:
        return parts.grouped_bytes
    matrix_bytes = QUANTIZATIONS[quantization].matrix_bytes
    packed = [m for m in parts.matrices if m.quantized and matrix_bytes]
    floats = parts.parameters - sum(m.numbers for m in packed)
    kept = floats * FLOAT_BYTES[dtype] + parts.buffer_bytes
    return kept + sum(matrix_bytes(m.out_features, m.in_features) for m in packed)


def bases_bytes(parts: Anatomy, basis: str, targets: str) -> int:
    """Bytes of one basis `[r, r]`, σ `[r]` and, in 8 or 4 bits, a scale `[r]` for each matrix."""
    return sum(BASES[basis].matrix_bytes(m.rank) for m in parts.adapted(targets))


def cache_bytes(parts: Anatomy, tokens: int, dtype: str) -> int:
    """Bytes of the keys and values of `tokens` tokens in every layer."""
    return tokens * 2 * parts.layers * parts.key_value_heads * parts.head_width * FLOAT_BYTES[dtype]


def activation_bytes(parts: Anatomy, tokens: int, dtype: str, checkpointing: bool) -> int:
    """Bytes that the backward pass of `tokens` tokens needs; with checkpoints one block's only."""
    width = HIDDEN_COPIES * parts.hidden + INTERMEDIATE_COPIES * parts.intermediate
    block = tokens * width * FLOAT_BYTES[dtype]
    if not checkpointing:
        return parts.layers * block
    return block + tokens * parts.layers * parts.hidden * FLOAT_BYTES[dtype]


def training_bytes(
    parts: Anatomy,
    plan: Plan,
    rows: int = TRAINING_ROWS,
    tokens: int = TRAINING_TOKENS,
    checkpointing: bool = True,
) -> int:
    """Bytes of one SVF RL step over `rows` sequences of `tokens` tokens in one forward.

    Activations, the loss's logits, `z` with its gradient and Adam's two moments, one dequantised
    matrix; or the rollouts' KV cache, where that is more.
    """
    learned = 4 * 4 * sum(m.rank for m in parts.adapted(plan.targets))
    logits = CHUNK_LOGITS * parts.vocabulary * 4 * 4
    backward = activation_bytes(parts, rows * tokens, plan.dtype, checkpointing) + logits
    rollouts = cache_bytes(parts, rows * tokens, plan.dtype)
    return max(backward, rollouts) + learned + _dequantised_bytes(parts, plan)


def _chat_work_bytes(parts: Anatomy, plan: Plan) -> int:
    """A prompt's slice in one block, float32 logits with their copies, one dequantised matrix."""
    slice_bytes = PREFILL_TOKENS * (4 * parts.hidden + 3 * parts.intermediate)
    logits = 4 * 4 * parts.vocabulary
    return slice_bytes * FLOAT_BYTES[plan.dtype] + logits + _dequantised_bytes(parts, plan)


def _dequantised_bytes(parts: Anatomy, plan: Plan) -> int:
    if QUANTIZATIONS[plan.quantization].matrix_bytes is None or plan.quantization == GGUF:
        return 0  # of a grouped matrix some rows at a time
    largest = max((m.numbers for m in parts.matrices if m.quantized), default=0)
    return largest * FLOAT_BYTES[plan.dtype]


def _decomposition_bytes(parts: Anatomy, targets: str) -> int:
    """The largest matrix in float64 with its Gram matrix, eigenvectors and their work space."""
    return max((8 * (m.numbers + 4 * m.rank**2) for m in parts.adapted(targets)), default=0)


# --- Copies beside a small model: as many as are ever kept; a chat begins with none.


def copies_bytes(parts: Anatomy, plan: Plan) -> int:
    """Bytes of rebuilt matrices and an 8-bit copy, as many as are ever kept; 0 for large models."""
    weights = weights_bytes(parts, plan.quantization, plan.dtype)
    if plan.quantization != NONE or weights > REBUILD_BYTES:
        return 0
    rebuilt = rebuilt_bytes(parts, plan.targets, FLOAT_BYTES[plan.dtype])
    rounds = plan.device == "cpu" and plan.dtype == "float32" and weights >= ROUND_BYTES
    return rebuilt + (rounded_bytes(parts, plan) if rounds else 0)


def rebuilt_bytes(parts: Anatomy, targets: str, number_bytes: int) -> int:
    """Bytes of all rebuilt copies of a float model whose numbers take `number_bytes` each."""
    numbers = sum(matrix.numbers for matrix in parts.adapted(targets))
    return REBUILT_COPIES * numbers * number_bytes


def rounded_bytes(parts: Anatomy, plan: Plan) -> int:
    """Bytes of the 8-bit copy of a float32 model's matrices and bases, 0 where there is none."""
    if not parts.compilable:
        return 0
    numbers = sum(matrix.numbers for matrix in parts.matrices)
    bases = 0 if plan.basis == INT8 else bases_bytes(parts, INT8, plan.targets)
    return numbers + 2 * numbers // GROUP + bases + rotary_bytes(parts)


def rotary_bytes(parts: Anatomy) -> int:
    """Bytes of the cosines and sines of every position, float32."""
    return 2 * 4 * parts.context_length * parts.head_width
