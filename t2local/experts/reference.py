"""Experts of the paper's reference repository (SakanaAI/self-adaptive-llms) as ours.

There a matrix's number is a logit `p`: `m = sigmoid(p) · max_mult`, and the matrix built from it is
rescaled so that its nuclear norm stays. Both are folded into our multiplier:

    z = m · Σσ / Σ(σ ⊙ m)

`max_mult` cancels, so nobody has to know it. Its few-shot mixtures take the combined `p`s for `m`
themselves, without the sigmoid: `raw_alpha`. `policy_params.pt` holds `p`s in the order of the
model's MLP matrices, `learnable_params.pt` by name. Only tensors are unpickled (`weights_only`).
"""

import hashlib
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from t2local.errors import T2LocalError
from t2local.experts.expert import Expert, stamped
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, Z

ADAPTED = "mlp"  # the reference code adapts every matrix with this in its name
WEIGHT = ".weight"


def import_reference(
    files: Sequence[Path],
    loaded: LoadedModel,
    svf: SVFModel,
    name: str,
    raw_alpha: Sequence[float] | None = None,
) -> Expert:
    """One file as an expert of `loaded`, or several as a raw mixture `m = Σ α_k p_k`.

    `raw_alpha`: one α a file, as the reference code's few-shot mixture ended with. Raises
    `T2LocalError`: no such file, not such a file, other matrices or lengths than this model's.
    """
    if raw_alpha is None and len(files) != 1:
        raise T2LocalError(
            f"{len(files)} files make one expert only as a mixture; give --raw-alpha with a "
            "number for each, or import them one by one."
        )
    if raw_alpha is not None and len(raw_alpha) != len(files):
        raise T2LocalError(
            f"{len(raw_alpha)} numbers in --raw-alpha and {len(files)} files; give one a file."
        )
    logits = [_by_matrix(path, read_logits(path), svf) for path in files]
    if raw_alpha is None:
        multipliers = {matrix: torch.sigmoid(p) for matrix, p in logits[0].items()}
    else:
        multipliers = _combined(logits, raw_alpha, [path.name for path in files])
    z = keeping_nuclear_norm(multipliers, svf.singular_values, name)
    origin = {
        "files": [path.name for path in files],
        "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files],
        "raw_alpha": None if raw_alpha is None else list(raw_alpha),
    }
    what = "expert" if raw_alpha is None else "raw mixture"
    return stamped(
        Expert(
            name=name,
            base_model=loaded.name,
            basis_fingerprint="",
            z=z,
            description=f"Imported from the reference repository's {what} {files[0].name}; "
            "its accuracy was not measured here.",
            license="as its maker says",
            training={"imported": origin},
        ),
        loaded,
        svf,
    )


def read_logits(path: Path) -> dict[str, torch.Tensor]:
    """The numbers `p` `[r]` of a file under its own keys, in its own order.

    Raises `T2LocalError` for a file that is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise T2LocalError(
            f"There is no file '{path}'; give policy_params.pt or learnable_params.pt."
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as e:
        raise T2LocalError(
            f"'{path.name}' is damaged or holds more than numbers, so it was not opened; give the "
            "reference repository's policy_params.pt or learnable_params.pt."
        ) from e
    rows = found if isinstance(found, dict) else {}
    if "adaptive_weights" in rows:
        raise T2LocalError(
            f"'{path.name}' is a few-shot mixture; give the policy_params.pt of its experts with "
            "its weights as --raw-alpha."
        )
    vectors = [p for p in rows.values() if isinstance(p, torch.Tensor) and p.dim() == 1]
    if not rows or len(vectors) < len(rows) or not all(torch.isfinite(p).all() for p in vectors):
        raise T2LocalError(
            f"'{path.name}' does not hold one row of finite numbers for each matrix; give the "
            "reference repository's policy_params.pt or learnable_params.pt."
        )
    return {str(key): p.detach().double() for key, p in rows.items()}


def keeping_nuclear_norm(multipliers: Z, sigma: Z, name: str) -> Z:
    """`z = m · Σσ / Σ(σ ⊙ m)` matrix by matrix, in float64. Raises `T2LocalError` for Σ ≤ 0."""
    z: Z = {}
    for matrix, row in multipliers.items():
        values = sigma[matrix].double().cpu()
        total = (values * row).sum()
        if total <= 0:
            raise T2LocalError(
                f"'{name}' would turn '{matrix}' around (Σ σ·m is {float(total):.3g}, not above "
                "0), which the reference code cannot rescale; choose other α."
            )
        z[matrix] = row * values.sum() / total
    return z


def _by_matrix(path: Path, logits: dict[str, torch.Tensor], svf: SVFModel) -> Z:
    """`p` under this model's matrix names: by name where the file has names, else by position."""
    expected = [matrix for matrix in svf.matrix_names if ADAPTED in matrix]
    numbered = all(key.rpartition(".")[2].isdigit() for key in logits)
    if numbered:
        in_order = sorted(logits, key=lambda key: int(key.rpartition(".")[2]))
        named = dict(zip(expected, (logits[key] for key in in_order), strict=False))
    else:
        named = {key.removesuffix(WEIGHT): p for key, p in logits.items()}
    unknown = [matrix for matrix in named if matrix not in svf.ranks]
    if len(logits) != len(expected) or unknown:
        example = f", such as '{unknown[0]}'" if unknown else ""
        raise T2LocalError(
            f"'{path.name}' holds {len(logits)} matrices{example}; this model has "
            f"{len(expected)} MLP matrices under SVF; load the model it was trained on, with all "
            "matrices as targets."
        )
    for matrix, p in named.items():
        if len(p) != svf.ranks[matrix]:
            raise T2LocalError(
                f"'{path.name}' has {len(p)} numbers for '{matrix}'; this model needs "
                f"{svf.ranks[matrix]}; load the model it was trained on."
            )
    return named


def _combined(logits: Sequence[Z], alpha: Sequence[float], names: Sequence[str]) -> Z:
    first = logits[0]
    for name, other in zip(names[1:], logits[1:], strict=True):
        if other.keys() != first.keys():
            raise T2LocalError(
                f"'{name}' holds other matrices than '{names[0]}'; mix experts of one model."
            )
    return {
        matrix: sum(a * p[matrix] for a, p in zip(alpha, logits, strict=True)) for matrix in first
    }
