"""bitsandbytes, and only here: 4-bit (NF4) and 8-bit base models, on a GPU or on the CPU.

The quantised matrices are never rewritten. bitsandbytes' fused CPU kernel (AVX512-BF16) is switched
off: at the first forward it repacks the weights with scales rounded to bfloat16, so the base model
would change; it gives no gradient, and it asserts that the number of rows divides by 32.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from t2local.errors import T2LocalError
from t2local.models.storage import NF4, QUANTIZATIONS


def quantization_config(
    kind: str, compute_dtype: torch.dtype, float_parts: bool = False
) -> BitsAndBytesConfig | None:
    """What transformers needs to load a model as `kind`; None where its weights stay as they are.

    `float_parts`: layers that a device map puts outside the GPUs stay in 16 bits, for bitsandbytes
    does not move its matrices to and fro.
    """
    options = QUANTIZATIONS[kind].bitsandbytes
    if not options:
        return None
    four = {"bnb_4bit_compute_dtype": compute_dtype, "bnb_4bit_use_double_quant": True}
    return BitsAndBytesConfig(
        **options,
        **(four if options.get("load_in_4bit") else {}),
        llm_int8_enable_fp32_cpu_offload=float_parts,
    )


def require_bitsandbytes() -> None:
    """Raise `T2LocalError` when bitsandbytes is missing or does not load on this machine."""
    # It tells at every forward of every layer that int8 inputs are cast, and at its import what
    # could be installed beside it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise T2LocalError(
            f"4-bit and 8-bit models need bitsandbytes, which does not load here ({error}); "
            "run `pip install bitsandbytes`, or use `--quantize none`."
        ) from error


def keep_weights_as_loaded(model: PreTrainedModel) -> None:
    """Switch off the CPU kernel that repacks 4-bit weights (see the module's docstring)."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def resident_bytes(model: PreTrainedModel) -> int:
    """Bytes of every parameter and buffer, the scales of quantised matrices included."""
    kinds = _quantized_types()
    tensors = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        if kinds and isinstance(parameter, kinds):
            tensors += _statistics(parameter)
    # What accelerate keeps in CPU memory or on disk is on the meta device, where no pointer tells.
    unique = {(id(t) if t.is_meta else t.data_ptr()): t for t in tensors if t.numel()}
    return sum(tensor.numel() * tensor.element_size() for tensor in unique.values())


def nf4_states(model: PreTrainedModel) -> list[object]:
    """What the 4-bit layers of `model` hold beside parameters and buffers: codes and scales."""
    if nf4_problem():
        return []
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    return [layer.quant_state for layer in layers if layer.quant_state is not None]


def through_nf4(matrix: torch.Tensor) -> torch.Tensor:
    """`matrix` `[m, n]` rounded to NF4 and back, as float32: what 4-bit storage makes of it.

    Raises `T2LocalError` where bitsandbytes does not load.
    """
    require_bitsandbytes()
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    exact = matrix.detach().float().contiguous()
    packed, state = quantize_4bit(exact, compress_statistics=True, quant_type=NF4)
    return dequantize_4bit(packed, state).reshape(matrix.shape)


def nf4_linear(weight: torch.Tensor) -> torch.nn.Module:
    """A 4-bit layer of `weight` `[m, n]`, without a bias, that computes in the weight's dtype.

    Raises `T2LocalError` where bitsandbytes does not load.
    """
    require_bitsandbytes()
    from bitsandbytes.nn import Linear4bit, Params4bit

    m, n = weight.shape
    layer = Linear4bit(n, m, False, weight.dtype, quant_type=NF4, device="meta")
    layer.weight = Params4bit(weight, requires_grad=False, quant_type=NF4, module=layer)
    return layer.to(weight.device)


def nf4_problem() -> str:
    """ "" when an NF4 layer runs forward and backward here, else why not."""
    return problem(NF4)


def problem(kind: str) -> str:
    """ "" when a layer held as `kind` runs forward and backward here, else why not."""
    options = QUANTIZATIONS[kind].bitsandbytes
    if not options:
        return ""
    try:
        require_bitsandbytes()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        layer = _trial_layer(options).to(device)
        x = torch.ones(2, 64, device=device, requires_grad=True)  # [B, n]
        layer(x).sum().backward()
        return "" if torch.isfinite(x.grad).all() else "the gradient is not finite"
    except (T2LocalError, RuntimeError, NotImplementedError) as error:
        return str(error)


def _trial_layer(options: Mapping[str, Any]) -> torch.nn.Module:
    """A small layer `[64, 64]` of random weights, held as bitsandbytes' `options` say."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    if options.get("load_in_8bit"):
        return Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
    kind = options["bnb_4bit_quant_type"]
    layer = Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type=kind)
    layer.support_avx512bf16_for_cpu = False
    return layer


def _quantized_types() -> tuple[type, ...]:
    """bitsandbytes' parameter classes, without importing it for a float model."""
    if "bitsandbytes" not in sys.modules:
        return ()
    from bitsandbytes.nn import Int8Params, Params4bit

    return (Params4bit, Int8Params)


def _statistics(parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    """The scales beside a quantised matrix, from bitsandbytes' own state."""
    from bitsandbytes.nn import Int8Params

    if isinstance(parameter, Int8Params):
        return [t for t in (parameter.CB, parameter.SCB) if t is not None]
    state = parameter.quant_state
    nested = state.state2 if state.nested else None
    found = [state.absmax, state.code, state.offset if nested else None]
    found += [nested.absmax, nested.code] if nested else []
    return [t for t in found if isinstance(t, torch.Tensor)]
