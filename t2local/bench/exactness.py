"""How exact the branch is, and why an adapted matrix is never quantised again.

Everything is compared with `U diag(σ ⊙ z) Vᵀ` from a full SVD in float64. The table of rounded
bases is that of the documentation: errors relative to the exact `W'x`, where `W` is the NF4
matrix, beside the change that z makes. Pure measurements: they print and assert nothing.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from t2local.bench.table import Row, random_z
from t2local.models.load.quantized import through_nf4
from t2local.models.storage import NF4
from t2local.svf import SVFModel, Z
from t2local.svf.basis import Basis, decompose, rounded
from t2local.svf.layer import InForce, SVFLinear, weight_as_used

STRENGTHS = (0.02, 0.1, 0.3)  # rms of z − 1; a trained expert has a few hundredths
INPUTS = 64  # random inputs a matrix
ROUNDED, REQUANTISED, CHANGE = "rounded basis", "requantised W'", "change by z"


def exact_matrix(weight: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """`U diag(σ ⊙ z) Vᵀ` of `weight` `[m, n]` and `z` `[r]`, in float64 on the CPU."""
    u, sigma, vt = torch.linalg.svd(weight.detach().cpu().double(), full_matrices=False)
    return (u * (sigma * z.detach().cpu().double())) @ vt


def rounding_rows(matrices: Mapping[str, torch.Tensor], seed: int = 0) -> list[Row]:
    """Errors of rounded bases and of requantising, medians over NF4 `matrices` `[m, n]`."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    generator = torch.Generator().manual_seed(seed)
    for weight in matrices.values():
        x = torch.randn(INPUTS, weight.shape[1], generator=generator)
        noise = torch.randn(min(weight.shape), generator=generator)
        bases = _rounded_bases(decompose(weight))
        for rms in STRENGTHS:
            matrix = exact_matrix(weight, 1 + rms * noise)
            exact = x.double() @ matrix.T
            at = f"z − 1 {rms:g}"
            found[CHANGE, at].append(_relative(x @ weight.T, exact))
            for kind, basis in bases.items():
                layer = SVFLinear(_linear(weight), basis, "", InForce({"": rms * noise}))
                found[ROUNDED, f"{kind}, {at}"].append(_relative(layer(x), exact))
            again = through_nf4(matrix.float())
            found[REQUANTISED, f"{NF4}, {at}"].append(_relative(x @ again.T, exact))
    return [
        Row(name, variant, statistics.median(errors), "relative")
        for (name, variant), errors in found.items()
    ]


def nf4_matrices(svf: SVFModel, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The named matrices as a 4-bit base would use them, float32 on the CPU."""
    layers = {name: svf.model.get_submodule(name).base for name in names}
    return {name: through_nf4(weight_as_used(layer)).cpu() for name, layer in layers.items()}


def branch_error(svf: SVFModel, names: Sequence[str], rms: float = 0.1) -> float:
    """The worst relative error of a branch against the exact matrix, over the named matrices."""
    z, worst = random_z(svf, rms=rms), 0.0
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), svf.using(z):
        for name in names:
            layer = svf.model.get_submodule(name)
            weight = weight_as_used(layer.base)
            x = torch.randn(INPUTS, weight.shape[1], generator=generator)
            exact = x.double() @ exact_matrix(weight, z[name]).T
            if layer.bias is not None:
                exact = exact + layer.bias.cpu().double()
            y = layer(x.to(weight.device, svf.model.dtype))
            worst = max(worst, _relative(y, exact))
    return worst


def identity_difference(svf: SVFModel, untouched: torch.Tensor, ids: torch.Tensor) -> float:
    """The largest difference of the logits under z = 1 from `untouched` `[B, T, V]`.

    z = 1 in every form: absent, `[r]`, `[B, r]`, each also where gradients are asked for.
    """
    rows = {name: row.repeat(len(ids), 1) for name, row in svf.identity().items()}
    largest = 0.0
    for z in ({}, svf.identity(), rows):
        for gradients in (False, True):
            asked: Z = {n: row.clone().requires_grad_(gradients) for n, row in z.items()}
            with torch.set_grad_enabled(gradients), svf.using(asked):
                found = svf.model(ids).logits.detach()
            largest = max(largest, float((found - untouched).abs().max()))
    return largest


@torch.no_grad()
def batch_difference(svf: SVFModel, ids: torch.Tensor, rms: float = 0.03) -> float:
    """The largest difference between a batch with a z a row and one row at a time."""
    z, largest = random_z(svf, len(ids), rms=rms), 0.0
    with svf.using(z):
        together = svf.model(ids).logits
    for row in range(len(ids)):
        with svf.using({name: values[row] for name, values in z.items()}):
            alone = svf.model(ids[row : row + 1]).logits[0]
        largest = max(largest, float((together[row] - alone).abs().max()))
    return largest


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """`[B, T, V]` of a model as it is."""
    return model(ids).logits


def _rounded_bases(basis: Basis) -> dict[str, Basis]:
    """The same basis as each format holds it, its vectors in float32."""
    dense = {
        "bf16": rounded(basis, torch.bfloat16).dense(),
        "int8": rounded(basis, torch.int8).dense(),
        "int4": rounded(basis, torch.uint8).dense(),
        NF4: through_nf4(basis.vectors),
    }
    return {kind: Basis(rows, basis.sigma, basis.side) for kind, rows in dense.items()}


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def _relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.cpu().double() - exact).norm() / exact.norm())
