"""The few directions that carry most of an adaptation: its best approximation of rank k.

`ΔW = U diag(σ (z − 1)) Vᵀ` has the energy `‖ΔW‖² = Σ_i (σ_i (z_i − 1))²`, so the k directions of
largest `σ_i |z_i − 1|` give the best ΔW of rank k (Eckart–Young), and reading k vectors instead of
all makes decoding faster. The paper always uses the full rank, and so do our answers: this is
measured here only. `Truncated` says which share of the energy is kept.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from t2local.errors import T2LocalError
from t2local.svf import SVFModel, Z
from t2local.svf.basis import Basis
from t2local.svf.layer import InForce, SVFLinear, join_siblings


@dataclass(frozen=True)
class Truncated:
    """What `using_truncated` puts in force.

    `layers`: matrix name -> a layer in its place whose basis is the kept vectors `[k, r]`; a matrix
    of at most k directions uses its whole basis, and one that does not change has none.
    `energies`: name -> kept share of `‖ΔW‖²`, 0 to 1. `energy`: the share in all, 1 where no
    matrix changes.
    """

    layers: Mapping[str, SVFLinear]
    energies: Mapping[str, float]
    energy: float


def truncate(svf: SVFModel, z: Z, k: int) -> Truncated:
    """Keep the k directions of largest `σ_i |z_i − 1|` of each matrix; shapes as for `svf.using`.

    Rows of different z share one choice: that of the largest energy over all rows. int8 vectors
    are kept as bfloat16, others as they are. Raises `T2LocalError` when k is no positive number.
    """
    if k < 1:
        raise T2LocalError(f"top-k is {k}; keep at least 1 direction a matrix (256 is usual).")
    bases = {name: svf.layers[name].basis for name in svf.checked(z)}
    deltas = {name: _delta(bases[name], row) for name, row in z.items()}
    spectra = {name: _energies(bases[name], delta) for name, delta in deltas.items()}
    chosen = {
        name: energy.topk(k).indices.sort().values  # [k], in the basis' own order
        for name, energy in spectra.items()
        if k < len(energy)
    }
    shares = _shares(spectra, chosen)
    small, in_force = {}, {}
    for name in (name for name, (_, whole) in shares.items() if whole):
        basis, delta = bases[name], deltas[name]
        if name in chosen:
            basis, delta = _few(basis, chosen[name]), delta[..., chosen[name]]
        small[name] = basis
        in_force[name] = delta if basis.scale is None else delta * basis.scale.square()
    energies = {name: part / whole if whole else 1.0 for name, (part, whole) in shares.items()}
    part, whole = (sum(column) for column in zip((0.0, 0.0), *shares.values(), strict=True))
    layers = _layers(svf, small, InForce(in_force))
    return Truncated(layers, energies, part / whole if whole else 1.0)


def using_truncated(svf: SVFModel, truncated: Truncated) -> AbstractContextManager[None]:
    """Like `svf.using`, with few directions: faster, and nearly the same."""
    return svf.using_instead(truncated.layers)


def _layers(svf: SVFModel, bases: Mapping[str, Basis], in_force: InForce) -> dict[str, SVFLinear]:
    untouched = svf.base_layers
    layers = {n: SVFLinear(untouched[n], basis, n, in_force) for n, basis in bases.items()}
    join_siblings(layers, in_force)
    return layers


def _delta(basis: Basis, row: torch.Tensor) -> torch.Tensor:
    """`z − 1`: `[r]`, `[B, 1, r]` or `[B, T, r]`, not scaled."""
    delta = row.detach().float().to(basis.sigma.device) - 1
    return delta[:, None, :] if delta.dim() == 2 else delta


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


def _few(basis: Basis, chosen: torch.Tensor) -> Basis:
    """The vectors `chosen` `[k]` of a basis, without a scale."""
    home = basis.vectors.device  # CPU memory for an offloaded layer
    rows = basis.vectors[chosen.to(home)].to(chosen.device)  # [k, r]
    if basis.scale is not None:
        rows = (rows.float() * basis.scale[chosen, None]).bfloat16()
    return Basis(rows, basis.sigma[chosen], basis.side)
