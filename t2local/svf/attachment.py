"""From a model to an `SVFModel`: find the target matrices, decompose them, put the branch beside.

Streamed matrix by matrix, with the bases kept on disk, so that a cut-off decomposition goes on
where it stopped.
"""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from t2local.errors import T2LocalError
from t2local.progress import CancelToken, Progress, drain
from t2local.svf.basis import DTYPES, BasisCache, decompose, rounded, stored_bytes, weight_digest
from t2local.svf.layer import SVFLinear, weight_as_used
from t2local.svf.model import SVFModel
from t2local.svf.targets import find_targets, is_conv1d

STAGE = "Decomposing matrices"
OUTDATED = "Decomposing matrices anew (the kept bases are of another version)"


def attach(
    model: nn.Module,
    targets: str = "all",
    basis_dtype: str = "auto",
    cache_folder: Path | None = None,
) -> SVFModel:
    """Decompose the target matrices of `model` and replace their layers. See `attaching`."""
    return drain(attaching(model, targets, basis_dtype, cache_folder))


def attaching(
    model: nn.Module,
    targets: str = "all",
    basis_dtype: str = "auto",
    cache_folder: Path | None = None,
    cancel: CancelToken | None = None,
) -> Generator[Progress, None, SVFModel]:
    """`attach` with a `Progress` a matrix; the model is changed only after the last one.

    `targets`: all, mlp, attention or a pattern. `basis_dtype`: fp32, bf16, int8, or auto (the
    model's own float dtype). At most one dequantised matrix is in memory at a time.
    The basis of a layer that accelerate keeps in CPU memory or on disk stays in CPU memory too.
    Raises `T2LocalError` (nothing to adapt, too little disk), `Cancelled`.
    """
    taken = [name for name, layer in model.named_modules() if isinstance(layer, SVFLinear)]
    assert not taken, f"{taken[0]} is attached already: detach it first"
    layers = find_targets(model, targets)
    dtype = _storage_dtype(model, basis_dtype)
    cache, digests, bases = BasisCache(cache_folder), {}, {}
    stage = OUTDATED if cache.drop_outdated() else STAGE
    cache.check_room(sum(stored_bytes(_rank(layer), dtype) for layer in layers.values()))
    for done, (name, layer) in enumerate(layers.items()):
        if cancel is not None:
            cancel.raise_if_cancelled()
        yield Progress(stage, done, len(layers), "matrices")
        weight = weight_as_used(layer)
        digests[name] = weight_digest(weight)
        key = f"{digests[name]} {weight.dtype}"  # a float32 weight is not served a bf16 one's basis
        bases[name] = cache.load(key, dtype, weight.device)
        if bases[name] is None:
            bases[name] = rounded(decompose(weight), dtype)
            cache.save(key, dtype, bases[name])
        if layer.weight.is_meta:
            bases[name] = replace(bases[name], vectors=bases[name].vectors.cpu())
        del weight  # before the next one is dequantised
    yield Progress(stage, len(layers), len(layers), "matrices")
    return SVFModel(model, layers, bases, digests)


def _rank(layer: nn.Module) -> int:
    if is_conv1d(layer):
        return min(layer.weight.shape)
    return min(layer.in_features, layer.out_features)


def _storage_dtype(model: nn.Module, basis_dtype: str) -> torch.dtype:
    if basis_dtype == "auto":
        floats = (p.dtype for p in model.parameters() if p.is_floating_point())
        return next(floats, torch.float32)
    if basis_dtype not in DTYPES:
        raise T2LocalError(
            f"Basis dtype '{basis_dtype}' is unknown; choose auto, {', '.join(DTYPES)}."
        )
    return DTYPES[basis_dtype]
