"""The few directions that carry most of an adaptation: its best approximation of rank k.

`ΔW = U diag(σ (z − 1)) Vᵀ` has the energy `‖ΔW‖² = Σ_i (σ_i (z_i − 1))²`, so the k directions of
largest `σ_i |z_i − 1|` give the best ΔW of rank k (Eckart–Young), and reading k vectors instead of
all makes decoding faster. Departure from the paper, which always uses the full rank: a choice of
the user's, told with the energy that is kept. Pure functions of tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from t2local.errors import T2LocalError
from t2local.svf.basis import Basis


@dataclass(frozen=True)
class Truncated:
    """What `SVFModel.using_truncated` puts in force: `k` directions a matrix at most.

    `deltas`: name -> `z − 1` of the kept directions, `[k]` or `[B, 1, k]`. `kept`: name -> those
    vectors `[k, r]`; a matrix of at most k directions has none here and uses its whole basis.
    `energies`: name -> kept share of `‖ΔW‖²`, 0 to 1. `energy`: the share in all, 1 where no
    matrix changes.
    """

    k: int
    deltas: Mapping[str, torch.Tensor]
    kept: Mapping[str, torch.Tensor]
    energies: Mapping[str, float]
    energy: float


def truncate(bases: Mapping[str, Basis], deltas: Mapping[str, torch.Tensor], k: int) -> Truncated:
    """Keep the k directions of largest `σ_i |delta_i|` of each matrix.

    `deltas`: name -> `z − 1`, `[r]`, `[B, 1, r]` or `[B, T, r]`, not scaled. Rows of different z
    share one choice: that of the largest energy over all rows. int8 vectors are kept as bfloat16,
    others as they are. Raises `T2LocalError` when k is no positive number.
    """
    if k < 1:
        raise T2LocalError(f"top-k is {k}; keep at least 1 direction a matrix (256 is usual).")
    spectra = {name: _energies(bases[name], delta) for name, delta in deltas.items()}
    chosen = {
        name: energy.topk(k).indices.sort().values  # [k], in the basis' own order
        for name, energy in spectra.items()
        if k < len(energy)
    }
    shares = _shares(spectra, chosen)
    changed = [name for name, (_, whole) in shares.items() if whole]
    small, kept = {}, {}
    for name in changed:
        basis, delta = bases[name], deltas[name]
        if name in chosen:
            small[name] = delta[..., chosen[name]]
            kept[name] = _rows(basis, chosen[name])
        else:
            small[name] = delta if basis.scale is None else delta * basis.scale.square()
    energies = {name: part / whole if whole else 1.0 for name, (part, whole) in shares.items()}
    part, whole = (sum(column) for column in zip((0.0, 0.0), *shares.values(), strict=True))
    return Truncated(k, small, kept, energies, part / whole if whole else 1.0)


def _energies(basis: Basis, delta: torch.Tensor) -> torch.Tensor:
    """`(σ_i delta_i)²` `[r]` float64, summed over all rows of `delta`."""
    change = basis.sigma * delta.to(basis.sigma.device)  # [..., r]
    return change.double().square().reshape(-1, basis.rank).sum(dim=0)


def _shares(
    spectra: Mapping[str, torch.Tensor], chosen: Mapping[str, torch.Tensor]
) -> dict[str, tuple[float, float]]:
    """Name -> (kept energy, whole energy), brought from the device in one go."""
    if not spectra:
        return {}
    home = next(iter(spectra.values())).device
    pairs = [
        torch.stack([(energy[chosen[name]] if name in chosen else energy).sum(), energy.sum()])
        for name, energy in spectra.items()
    ]
    together = torch.stack([pair.to(home) for pair in pairs]).tolist()
    return {name: (part, whole) for name, (part, whole) in zip(spectra, together, strict=True)}


def _rows(basis: Basis, chosen: torch.Tensor) -> torch.Tensor:
    home = basis.vectors.device  # CPU memory for an offloaded layer
    rows = basis.vectors[chosen.to(home)].to(chosen.device)  # [k, r]
    if basis.scale is None:
        return rows
    return (rows.float() * basis.scale[chosen, None]).bfloat16()
